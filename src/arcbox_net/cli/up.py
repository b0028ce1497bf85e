"""`arcbox-net up`: start a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from arcbox_net.cli import common, output
from arcbox_net.cli.network_options import build_config, network_options

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager
    from arcbox_net.network.messages import NetworkStatus

FOREGROUND_POLL_S = 0.5


@click.command("up")
@common.network_argument
@network_options
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, then take the network down.")
@common.json_option
def command(network: str, foreground: bool, as_json: bool, **options: Any) -> None:
    """Start network NAME. It stays until `down NAME`.

    \b
    arcbox-net up dev
    arcbox-net up dev --subnet 10.7.0.0/24 -p 8080:80 -p 0.0.0.0:2222:vm1:22
    arcbox-net up lab --mode host-only --host-access 5432
    arcbox-net up lan --bridge br0
    arcbox-net up dev -f networks.toml
    """
    config = build_config(network, **options)
    from arcbox_net.manager import NetworkManager

    manager = NetworkManager(config, name=network)
    with output.progress(f"starting {network}"):
        if foreground:
            manager.start()
        else:
            manager.start_detached()
    try:
        _report(manager.status(), as_json)
        if foreground:
            _wait(manager)
    finally:
        if foreground:
            manager.stop()


def _report(status: NetworkStatus, as_json: bool) -> None:
    if as_json:
        output.print_json(status)
    else:
        click.echo(f"{output.style(status.name, bold=True)} is up: {describe(status)}")
        for forward in status.forwards:
            click.echo(
                f"  forward {forward.rule}" + (" (waits for its guest)" if forward.state == "pending" else "")
            )
        click.echo(output.style(f"  a command as a guest: arcbox-net run {status.name} -- CMD", dim=True))
    for warning in status.warnings:
        output.warn(warning.message, warning.fix)


def describe(status: NetworkStatus) -> str:
    """One line: `nat 192.168.64.0/24, gateway 192.168.64.1, DHCP and DNS`."""
    services = " and ".join(name for name, on in (("DHCP", status.dhcp), ("DNS", status.dns)) if on)
    parts = [
        f"{status.mode} {status.subnet}" if status.subnet else status.mode,
        f"gateway {status.gateway}" if status.gateway else "",
        f"bridge {status.bridge}" if status.bridge else "",
        services,
    ]
    return ", ".join(part for part in parts if part)


def _wait(manager: NetworkManager) -> None:
    """Return at SIGINT, SIGTERM or SIGHUP, or when the network has ended by itself."""
    import signal

    from arcbox_net.cli.foreground import one_of

    wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        while not one_of(wanted, FOREGROUND_POLL_S):
            if manager.state != "running":
                raise click.ClickException(
                    f"{manager.name} ended by itself: see `arcbox-net show {manager.name}`"
                )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
