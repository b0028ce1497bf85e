"""The options that describe a network, for `up` and for the private network of `run`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click

from arcbox_net.cli import common
from arcbox_net.config import AUTO, Egress, NetConfig, NetworkMode, parse_host_access
from arcbox_net.config_engine import FILTERING
from arcbox_net.config_mapping import load_networks
from arcbox_net.errors import ConfigError
from arcbox_net.rules import ForwardRule

MODES = [mode.value for mode in NetworkMode if mode is not NetworkMode.NONE]


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a network, for `up` and for the private network of `run`."""
    options = [
        click.option(
            "-f",
            "--file",
            metavar="TOML",
            type=click.Path(dir_okay=False),
            help="Read [networks.NAME] of this file; options given here win.",
        ),
        click.option("--mode", type=click.Choice(MODES), help="Kind of network. Default: nat."),
        click.option(
            "--subnet", metavar="CIDR", help="Default: 192.168.64.0/24 (host-only 10.0.0.0/24) or a free one."
        ),
        click.option(
            "--subnet6",
            metavar="CIDR|none",
            help="A /64 of unique local IPv6 addresses. Default: one chosen at random, and remembered.",
        ),
        click.option(
            "--egress",
            type=click.Choice([egress.value for egress in Egress]),
            help="How packets leave. Default: auto.",
        ),
        click.option(
            "--uplink",
            metavar="IF|tap:IF",
            help="--egress engine: the interface that guests leave by, or a TAP whose other end is the host's.",
        ),
        click.option(
            "--external-ip",
            metavar="ADDRESS",
            help="--egress engine: the guests' address there, which nobody has.",
        ),
        click.option(
            "--external-ip6",
            metavar="ADDRESS",
            help="--egress engine: the same for IPv6. Default: none leaves.",
        ),
        click.option(
            "--next-hop",
            metavar="ADDRESS",
            help="--egress engine: where packets go from there. Default: as the host's own by that interface.",
        ),
        click.option("--next-hop6", metavar="ADDRESS", help="--egress engine: the same for IPv6."),
        click.option(
            "--filtering",
            type=click.Choice(FILTERING),
            help="--egress engine: who may send to a guest's external port. Default: whom it sent to from there.",
        ),
        common.publish_option,
        click.option(
            "--mtu", type=int, help="Bytes of an IP packet, on every link and told to guests. Default: 1500."
        ),
        click.option("--bridge", metavar="BR", help="Bridge mode: put guests on this existing bridge."),
        click.option(
            "--nic", metavar="IF", help="Bridge mode: put this interface under a bridge of ours until `down`."
        ),
        click.option("--isolated", is_flag=True, default=None, help="Guests do not see each other."),
        click.option(
            "--host-access",
            metavar="PORT[/udp]",
            multiple=True,
            help="Let guests reach this port of the host's loopback at the gateway's address. Repeatable.",
        ),
        click.option(
            "--dns",
            metavar="UPSTREAM",
            multiple=True,
            help="Ask this server, not /etc/resolv.conf's. Repeatable.",
        ),
        click.option("--queues", type=int, help="Queue pairs of each TAP. Default: 1."),
        click.option(
            "--workers",
            type=int,
            metavar="N",
            help="Threads for guests at sockets. Default: one less than cores, at most 4.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def build_config(
    name: str | None,
    *,
    file: str | None = None,
    mode: str | None = None,
    subnet: str | None = None,
    subnet6: str | None = None,
    egress: str | None = None,
    uplink: str | None = None,
    external_ip: str | None = None,
    external_ip6: str | None = None,
    next_hop: str | None = None,
    next_hop6: str | None = None,
    filtering: str | None = None,
    forwards: Sequence[ForwardRule] = (),
    mtu: int | None = None,
    bridge: str | None = None,
    nic: str | None = None,
    isolated: bool | None = None,
    host_access: Sequence[str] = (),
    dns: Sequence[str] = (),
    queues: int | None = None,
    workers: int | None = None,
) -> NetConfig:
    """The configuration that the options of `network_options` describe. Raises ConfigError."""
    values: dict[str, Any] = {"name": name}
    base: NetConfig | None = None
    if file is not None:
        base = _from_file(file, name)
        values["name"] = base.name
    if mode is None and base is None and (bridge or nic):
        mode = NetworkMode.BRIDGE.value
    if mode is not None:
        values["mode"] = NetworkMode(mode)
    if egress is not None:
        values["egress"] = Egress(egress)
    for field, value in (
        ("subnet", subnet),
        ("subnet6", subnet6),
        ("mtu", mtu),
        ("bridge", bridge),
        ("nic", nic),
        ("isolated", isolated),
        ("uplink", uplink),
        ("external_ip", external_ip),
        ("external_ip6", external_ip6),
        ("next_hop", next_hop),
        ("next_hop6", next_hop6),
        ("filtering", filtering),
        ("workers", workers),
    ):
        if value is not None:
            values[field] = value
    if queues is not None:
        values.update(num_queues=queues, multiqueue=queues > 1)
    if forwards:
        values["forwards"] = (base.forwards if base else ()) + tuple(forwards)
    if host_access:
        values["host_access"] = (base.host_access if base else ()) + tuple(
            map(parse_host_access, host_access)
        )
    if dns:
        values["dns"] = dataclasses.replace(base.dns if base else NetConfig().dns, upstreams=tuple(dns))
    if subnet is not None and subnet != AUTO and base is not None and base.gateway is not None:
        values["gateway"] = None  # the file's gateway belongs to the file's subnet
    return dataclasses.replace(base, **values) if base is not None else NetConfig(**values)


def _from_file(file: str, name: str | None) -> NetConfig:
    networks = load_networks(file)
    if name is None:
        if len(networks) > 1:
            raise ConfigError(
                f"{file} describes {len(networks)} networks", fix="give the NAME of one", field="name"
            )
        return next(iter(networks.values()))
    if name not in networks:
        raise ConfigError(
            f"{file} has no [networks.{name}]",
            fix=f"it describes {', '.join(networks)}",
            field="name",
            value=name,
        )
    return networks[name]
