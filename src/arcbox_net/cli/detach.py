"""`arcbox-net detach`: take a guest off a network."""

from __future__ import annotations

import click

from arcbox_net.cli import common


@click.command("detach")
@common.network_argument
@click.argument("port", type=common.PortName())
def command(network: str, port: str) -> None:
    """Remove PORT and its interface from network NAME."""
    common.connect(network).detach(port)
    click.echo(f"{port} is detached from {network}")
