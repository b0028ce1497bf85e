"""What verbs share: argument types with completion, a network's options, and privilege checks."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from arcbox_net.addresses import parse_mac
from arcbox_net.config import (
    AUTO,
    Egress,
    NetConfig,
    NetworkMode,
    check_network_name,
    check_port_name,
    load_networks,
    parse_host_access,
)
from arcbox_net.errors import ArcboxNetError, ConfigError, PermissionDenied
from arcbox_net.rules import ForwardRule, parse_forward

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager

MODES = [mode.value for mode in NetworkMode if mode is not NetworkMode.NONE]
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21


class NetworkName(click.ParamType[Any]):
    """A network's name; completes to those that run."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return check_network_name(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from arcbox_net.manager import running_networks

        return [CompletionItem(name) for name in running_networks() if name.startswith(incomplete)]


class PortName(click.ParamType[Any]):
    """A guest port's name; completes to those of the network named before it."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return check_port_name(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        network = ctx.params.get("network")
        if not network:
            return []
        try:
            ports = connect(network).ports()
        except ArcboxNetError:
            return []
        return [CompletionItem(port.name) for port in ports if port.name.startswith(incomplete)]


class Forward(click.ParamType[Any]):
    """A port forward in docker/podman spelling."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ForwardRule:
        return value if isinstance(value, ForwardRule) else parse_forward(value)


network_argument = click.argument("network", metavar="NAME", type=NetworkName())
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
publish_option = click.option(
    "-p",
    "--publish",
    "forwards",
    metavar="SPEC",
    type=Forward(),
    multiple=True,
    help="Forward a host port: [host_ip:]host_port[-end]:[guest:]guest_port[-end][/tcp|udp]. Repeatable.",
)


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
            "--egress",
            type=click.Choice([egress.value for egress in Egress]),
            help="How packets leave. Default: auto.",
        ),
        publish_option,
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
    egress: str | None = None,
    forwards: Sequence[ForwardRule] = (),
    mtu: int | None = None,
    bridge: str | None = None,
    nic: str | None = None,
    isolated: bool | None = None,
    host_access: Sequence[str] = (),
    dns: Sequence[str] = (),
    queues: int | None = None,
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
        ("mtu", mtu),
        ("bridge", bridge),
        ("nic", nic),
        ("isolated", isolated),
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


def connect(network: str) -> NetworkManager:
    """The running network of that name. Raises NotRunning."""
    from arcbox_net.manager import NetworkManager

    return NetworkManager.connect(network)


def check_guest(mac: str | None, ip: str | None, name: str | None = None) -> None:
    """Raise ConfigError for what no guest can have, before anything is asked of the network."""
    if mac is not None:
        parse_mac(mac)
    if ip is not None:
        try:
            ipaddress.IPv4Address(ip)
        except ValueError:
            raise ConfigError(f"ip {ip!r} is not an IPv4 address", field="ip", value=ip) from None
    if name is not None:
        check_port_name(name, field="name")


def require_admin(what: str) -> None:
    """Raise PermissionDenied with the command to type unless this process may change the host's network."""
    if all(_has_capability(number) for number in (CAP_NET_ADMIN, CAP_SYS_ADMIN)):
        return
    raise PermissionDenied(
        f"{what} needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)", fix=_again_as_root(), operation=what
    )


def _again_as_root() -> str:
    program = os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else sys.argv[0]
    return "sudo " + shlex.join([program, *sys.argv[1:]])


def _has_capability(number: int) -> bool:
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
    except OSError:
        pass
    return os.geteuid() == 0
