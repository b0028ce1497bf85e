"""`arcbox-net ls`: the networks of this user."""

from __future__ import annotations

from typing import Any

import click

from arcbox_net.cli import common, glance, output
from arcbox_net.network.peer import networks_to_ask

FIELDS = ("mode", "subnet", "gateway", "bridge", "uptime_s", "pid")


@click.command("ls")
@common.json_option
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def command(as_json: bool, quiet: bool) -> None:
    """List the networks. A `dead` one lost its process: `up` revives it, `down` removes what it left."""
    if quiet:
        for name in networks_to_ask():
            click.echo(name)
        return
    found = [_row(name, status) for name, status in glance.networks().items()]
    if as_json:
        output.print_json(found)
    elif not found:
        click.echo("no network is up; start one: arcbox-net up dev")
    else:
        output.table(
            ("name", "state", "mode", "subnet", "gateway", "ports", "up"),
            [
                (
                    item["name"],
                    item["state"],
                    item["mode"],
                    item["subnet"],
                    item["gateway"],
                    item["ports"],
                    output.duration_text(item["uptime_s"]),
                )
                for item in found
            ],
            right=(5,),
        )


def _row(name: str, status: dict[str, Any] | None) -> dict[str, Any]:
    known = status or {"state": "dead"}
    row = {"name": name, "state": known["state"], **{field: known.get(field) for field in FIELDS}}
    row["ports"] = len(known["ports"]) if status else None
    return row
