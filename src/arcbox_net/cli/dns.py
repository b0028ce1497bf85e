"""`arcbox-net dns`: the names that a network answers itself."""

from __future__ import annotations

import ipaddress

import click

from arcbox_net.cli import common, output
from arcbox_net.config_values import check_domain
from arcbox_net.errors import ConfigError


@click.group("dns")
def command() -> None:
    """See and manage local names."""


@command.command("ls")
@common.network_argument
@common.json_option
def ls(network: str, as_json: bool) -> None:
    """List local names. Everything else is asked upstream."""
    found = common.connect(network).dns_records()
    if as_json:
        output.print_json(found)
    else:
        output.table(
            ("name", "addresses", "from"),
            [(item.name, ", ".join(item.addresses), item.source) for item in found],
        )


@command.command("add")
@common.network_argument
@click.argument("name", metavar="HOST")
@click.argument("addresses", metavar="ADDRESS…", nargs=-1, required=True)
def add(network: str, name: str, addresses: tuple[str, ...]) -> None:
    """Answer HOST with these addresses (IPv4 or IPv6)."""
    check_domain("name", name)
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(f"{address!r} is not an address", field="addresses", value=address) from None
    common.connect(network).register_dns(name, *addresses)
    click.echo(f"{name} is {', '.join(addresses)}")


@command.command("rm")
@common.network_argument
@click.argument("name", metavar="HOST")
def rm(network: str, name: str) -> None:
    """Forget HOST."""
    check_domain("name", name)
    common.connect(network).deregister_dns(name)
    click.echo(f"{name} is removed")
