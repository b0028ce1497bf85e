"""`arcbox-net lease`: the addresses of a network and who has them."""

from __future__ import annotations

import click

from arcbox_net.cli import common, output


@click.group("lease")
def command() -> None:
    """See and manage addresses."""


@command.command("ls")
@common.network_argument
@common.json_option
def ls(network: str, as_json: bool) -> None:
    """List every address that is not free."""
    found = common.connect(network).leases()
    if as_json:
        output.print_json(found)
    elif not found:
        click.echo(f"{network} has given out no address")
    else:
        output.table(
            ("address", "state", "mac", "hostname", "port", "expires in", "ipv6 address"),
            [
                (
                    item.ip,
                    item.state,
                    item.mac,
                    item.hostname,
                    item.port,
                    output.duration_text(item.expires_s),
                    item.ip6,
                )
                for item in found
            ],
        )


@command.command("reserve")
@common.network_argument
@click.argument("mac")
@click.argument("ip")
@click.option("--hostname", metavar="HOST", help="Its name in DNS.")
def reserve(network: str, mac: str, ip: str, hostname: str | None) -> None:
    """Give the guest with address MAC the address IP, always."""
    common.check_guest(mac, ip, hostname)
    common.connect(network).reserve(mac, ip, hostname)
    click.echo(f"{ip} is reserved for {mac}")


@command.command("release")
@common.network_argument
@click.argument("ip")
def release(network: str, ip: str) -> None:
    """Free address IP: its lease or its reservation."""
    common.check_guest(None, ip)
    common.connect(network).release_lease(ip)
    click.echo(f"{ip} is free")
