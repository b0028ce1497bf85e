"""`arcbox-net down`: end a network, or remove what a dead one left behind."""

from __future__ import annotations

import click

from arcbox_net.cli import common, output
from arcbox_net.errors import ArcboxNetError, NotRunning
from arcbox_net.network.peer import networks_to_ask


@click.command("down")
@click.argument("network", metavar="[NAME]", type=common.NetworkName(), required=False)
@click.option("--all", "everything", is_flag=True, help="Every network of this user.")
def command(network: str | None, everything: bool) -> None:
    """End network NAME and remove its bridge, rules and ports. Its leases are kept for the next `up`.

    Also removes what was left behind by a network whose process was killed. Fine to repeat.
    """
    if everything == (network is not None):
        raise click.UsageError("give a NAME, or --all, and not both")
    if network is not None:
        _down(network)
        return
    names, failed = networks_to_ask(), None
    for name in names:
        try:
            _down(name)
        except ArcboxNetError as error:  # the others come down all the same
            failed = error
            output.warn(f"{name}: {error.message}", error.fix)
    if not names:
        click.echo("no network is up")
    if failed is not None:
        raise failed


def _down(name: str) -> None:
    from arcbox_net.manager import remove_leftovers

    with output.progress(f"taking {name} down"):
        try:
            common.connect(name).stop()
            said = "is down"
        except NotRunning:
            said = "was dead; what it left behind is removed" if remove_leftovers(name) else "was not up"
    click.echo(f"{name} {said}")
