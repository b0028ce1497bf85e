"""`arcbox-net exec-tap`: a program that takes its TAP as an open file descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from arcbox_net.cli import common
from arcbox_net.config_ports import QUEUES_MAX
from arcbox_net.errors import ConfigError, PortNotFound

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager, TapAttachment

NAMES = ("{fd}", "{fds}")


@click.command("exec-tap", cls=common.WithCommand)
@common.network_argument
@click.argument("port", type=common.PortName())
@click.option("--mac", metavar="MAC", help="The guest's MAC address. Default: one made from the names.")
@click.option("--ip", metavar="ADDRESS", help="The guest's address. Default: the next free one.")
@click.option("--hostname", metavar="HOST", help="The guest's name in DNS. Default: PORT.")
@click.option("--queues", type=click.IntRange(1, QUEUES_MAX), help="Queue pairs. Default: the network's.")
@click.pass_context
def command(
    ctx: click.Context,
    network: str,
    port: str,
    mac: str | None,
    ip: str | None,
    hostname: str | None,
    queues: int | None,
) -> None:
    """Become CMD, with the TAP of guest port PORT as an open file descriptor.

    \b
    arcbox-net exec-tap dev vm1 -- qemu-system-x86_64 … \\
        -netdev tap,id=n0,fd={fd} -device virtio-net-pci,netdev=n0,mac={mac}
    arcbox-net exec-tap dev vm1 -- cloud-hypervisor … --net fd={fd},mac={mac}
    arcbox-net exec-tap dev vm1 -- crosvm run … --net tap-fd={fd},mac={mac}

    In CMD, {fd} is the number of the descriptor, {fds} those of all queues with colons between them, {mac} and
    {mtu} what the guest must use. Frames on it have a 12-byte virtio-net header. PORT is made if NAME has none of
    that name, and then goes with CMD; one of `attach NAME PORT --tap` stays. CMD needs no privilege.
    """
    words = common.command_words(ctx, "arcbox-net exec-tap dev vm1 -- qemu-system-x86_64 … fd={fd}")
    if not any(name in word for name in NAMES for word in words):
        raise click.UsageError("the command does not say where the descriptor goes: write {fd}", ctx)
    common.check_guest(mac, ip, hostname)
    common.require_guests("tap", "exec-tap")
    from arcbox_net.addresses import format_mac, parse_mac
    from arcbox_net.host.linux.guest_process import become

    asked = {"mac": mac and format_mac(parse_mac(mac)), "ip": ip, "hostname": hostname, "queues": queues}
    tap = _tap(common.connect(network), port, {key: value for key, value in asked.items() if value})
    for fd in tap.fds:
        os.set_inheritable(fd, True)
    become([_filled(word, tap) for word in words])


def _tap(manager: NetworkManager, port: str, asked: dict[str, Any]) -> TapAttachment:
    """The TAP of *port*, which is made as *asked* when there is none. Raises ConfigError, PortExists."""
    if not asked:
        try:
            return manager.open_tap(port)
        except PortNotFound:
            return manager.attach_tap(port)
    existing = next((item for item in manager.ports() if item.name == port), None)
    if existing is None:
        return manager.attach_tap(port, **asked)
    for field, value in asked.items():
        if getattr(existing, field, value) != value:
            raise ConfigError(
                f"port {port} is attached with {field} {getattr(existing, field)}, not {value}",
                fix=f"leave --{field} out, or detach it first: arcbox-net detach {manager.name} {port}",
                field=field,
                value=value,
            )
    return manager.open_tap(port)


def _filled(word: str, tap: TapAttachment) -> str:
    values = {
        "{fd}": str(tap.fd),
        "{fds}": ":".join(map(str, tap.fds)),
        "{mac}": tap.mac,
        "{mtu}": str(tap.mtu),
    }
    for name, value in values.items():
        word = word.replace(name, value)
    return word
