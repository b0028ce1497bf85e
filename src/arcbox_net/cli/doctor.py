"""`arcbox-net doctor`: what this machine can do, what is missing, and the command that fixes it."""

from __future__ import annotations

import sys

import click

from arcbox_net.cli import common, output


@click.command("doctor")
@common.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine. Exits with 1 when something is missing."""
    from arcbox_net.host.platform import platform
    from arcbox_net.manager import running_networks

    with output.progress("looking at this machine"):
        checks = platform().checks(running_networks())
    if as_json:
        output.print_json([{"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.fix} for c in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = output.style("ok", fg="green") if check.ok else output.style("no", fg="red", bold=True)
            click.echo(f"{mark}  {check.name.ljust(width)}  {check.detail}".rstrip())
            if not check.ok and check.fix:
                click.echo(f"    {' ' * width}  fix: {check.fix}")
        bad = sum(not check.ok for check in checks)
        click.echo(
            f"{bad} of {len(checks)} checks failed" if bad else f"all {len(checks)} checks passed",
            file=sys.stderr,
        )
    ctx.exit(0 if all(check.ok for check in checks) else 1)
