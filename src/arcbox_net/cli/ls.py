"""`arcbox-net ls`: the networks of this user."""

from __future__ import annotations

from typing import Any

import click

from arcbox_net import paths
from arcbox_net.cli import common, output
from arcbox_net.errors import ArcboxNetError


@click.command("ls")
@common.json_option
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def command(as_json: bool, quiet: bool) -> None:
    """List the networks. `dead` ones lost their process: `down NAME` or `up NAME` clears up."""
    names = known_networks()
    if quiet:
        for name in names:
            click.echo(name)
        return
    found = [_look(name) for name in names]
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
        )


def known_networks() -> list[str]:
    """Names of the networks that run, and of dead ones with a runtime directory."""
    from arcbox_net.manager import running_networks

    try:
        left = {entry.name for entry in paths.runtime_root().iterdir() if entry.is_dir()}
    except OSError:
        left = set()
    return sorted(left | set(running_networks()))


def _look(name: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("mode", "subnet", "gateway", "bridge", "ports", "uptime_s", "pid"))
    row = {"name": name, "state": "dead", **row}
    try:
        status = common.connect(name).status()
    except ArcboxNetError:
        return row
    for field in ("state", "mode", "subnet", "gateway", "bridge", "uptime_s", "pid"):
        row[field] = getattr(status, field)
    row["ports"] = len(status.ports)
    return row
