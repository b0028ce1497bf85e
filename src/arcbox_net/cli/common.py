"""What verbs share: argument types with completion, checks of arguments and of privilege."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from arcbox_net.cli import glance
from arcbox_net.errors import ConfigError, PermissionDenied
from arcbox_net.network.peer import networks_to_ask

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager
    from arcbox_net.network.messages import NetworkStatus
    from arcbox_net.rules import ForwardRule

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21


class NetworkName(click.ParamType[Any]):
    """A network's name; completes to those that run."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from arcbox_net.config_values import check_network_name

        return check_network_name(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in networks_to_ask() if name.startswith(incomplete)]


class PortName(click.ParamType[Any]):
    """A guest port's name; completes to those of the network named before it."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from arcbox_net.config_values import check_port_name

        return check_port_name(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        ports = glance.get(str(ctx.params.get("network")), "/v1/ports") or []
        return [CompletionItem(port["name"]) for port in ports if port["name"].startswith(incomplete)]


class Forward(click.ParamType[Any]):
    """A port forward in docker/podman spelling."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ForwardRule:
        from arcbox_net.rules import parse_forward

        return parse_forward(value)


class WithCommand(click.Command):
    """A command line whose part after `--` is another command, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- CMD…"]


def command_words(ctx: click.Context, example: str) -> list[str]:
    """What stands after `--`. Raises UsageError when there is nothing."""
    words: list[str] = ctx.meta.get("command", [])
    if not words:
        raise click.UsageError(f"no command given: put it after --, as in  {example}", ctx)
    return words


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


def connect(network: str) -> NetworkManager:
    """The running network of that name. Raises NotRunning."""
    from arcbox_net.manager import NetworkManager

    return NetworkManager.connect(network)


def resolv_conf(network: NetworkStatus) -> str | None:
    """The resolver configuration of a guest of *network*; None where the network answers no names."""
    if not network.dns or network.gateway is None:
        return None
    return resolv_conf_text([network.gateway], network.domain)


def resolv_conf_text(servers: Sequence[object], domain: str | None) -> str:
    lines = ["# written by arcbox-net for this guest only"]
    lines += [f"nameserver {server}" for server in servers]
    if domain:
        lines.append(f"search {domain}")
    return "\n".join(lines) + "\n"


def check_guest(mac: str | None, ip: str | None, name: str | None = None) -> None:
    """Raise ConfigError for what no guest can have, before anything is asked of the network."""
    import ipaddress

    from arcbox_net.addresses import parse_mac
    from arcbox_net.config_values import check_port_name

    if mac is not None:
        parse_mac(mac)
    if ip is not None:
        try:
            ipaddress.IPv4Address(ip)
        except ValueError:
            raise ConfigError(f"ip {ip!r} is not an IPv4 address", field="ip", value=ip) from None
    if name is not None:
        check_port_name(name, field="name")


def is_admin() -> bool:
    """Whether this process may change the host's network and make namespaces as it is."""
    return all(_has_capability(number) for number in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def require_admin(what: str) -> None:
    """Raise PermissionDenied with the command to type unless this process may change the host's network."""
    if is_admin():
        return
    raise PermissionDenied(
        f"{what} needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)", fix=again_as_root(), operation=what
    )


def require_guests(kind: str, what: str) -> None:
    """Raise Unsupported where the platform's networks have no guests of that kind, which *what* is about."""
    from arcbox_net.errors import Unsupported
    from arcbox_net.host.platform import platform

    kinds = platform().PORT_KINDS
    if kind not in kinds:
        raise Unsupported(
            f"{what} is for guests of kind {kind}, which are Linux's",
            fix=f"use a VM monitor at a socket ({' or '.join(kinds)}): arcbox-net run -- vfkit …, or arcbox-net attach",
            feature=what,
        )


def again_as_root() -> str:
    """The command line that was typed, with sudo."""
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
