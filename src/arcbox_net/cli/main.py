"""The `arcbox-net` command: finds the verb, runs it, and turns every error into a message and an exit status.

Exit status: 0 done, 1 it failed, 2 what was asked is wrong. `run` passes its command's status through.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import IO, Any

import click

from arcbox_net.cli.output import style
from arcbox_net.errors import ArcboxNetError, ConfigError, PermissionDenied

VERBS = {
    "up": "arcbox_net.cli.up",
    "down": "arcbox_net.cli.down",
    "ls": "arcbox_net.cli.ls",
    "show": "arcbox_net.cli.show",
    "run": "arcbox_net.cli.run",
    "attach": "arcbox_net.cli.attach",
    "exec-tap": "arcbox_net.cli.exec_tap",
    "detach": "arcbox_net.cli.detach",
    "enter": "arcbox_net.cli.enter",
    "forward": "arcbox_net.cli.forward",
    "lease": "arcbox_net.cli.lease",
    "dns": "arcbox_net.cli.dns",
    "flows": "arcbox_net.cli.flows",
    "doctor": "arcbox_net.cli.doctor",
    "demo": "arcbox_net.cli.demo",
    "completion": "arcbox_net.cli.completion",
}


class Failure(click.ClickException):
    """An ArcboxNetError on its way to the terminal: 2 when the request is wrong, else 1."""

    def __init__(self, error: ArcboxNetError) -> None:
        super().__init__(error.message)
        self.error = error
        status = 2 if isinstance(error, ConfigError) else int(error.facts.get("exit_status", 1))
        self.exit_code = status  # type: ignore[misc]  # click means one class a status

    def show(self, file: IO[Any] | None = None) -> None:
        head = style("arcbox-net: ", stream=sys.stderr, fg="red", bold=True)
        click.echo(f"{head}{self.error.message}", err=True)
        fix = self.error.fix
        if isinstance(self.error, PermissionDenied) and os.geteuid() != 0 and "root" in (fix or "root"):
            from arcbox_net.cli.common import again_as_root

            fix = again_as_root()
        if fix:
            click.echo(f"  fix: {fix}", err=True)


class Verbs(click.Group):
    """A group whose commands are modules of this package, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(VERBS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"commands are {', '.join(VERBS)}."
            ctx.fail(f"no such command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArcboxNetError as error:
            raise Failure(error) from error


def print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from arcbox_net import __version__

        click.echo(f"arcbox-net {__version__}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Print it."
)
def cli() -> None:
    """Networks for virtual machines and processes: NAT, host-only and bridge; DHCP, DNS, port forwarding.

    \b
    arcbox-net up dev                      start a network
    arcbox-net run dev -- curl example.org a command as a guest of it
    arcbox-net demo                        see all of it work on this machine
    """


def main() -> None:
    """Entry point of the `arcbox-net` script."""
    cli.main(prog_name="arcbox-net")


if __name__ == "__main__":
    main()
