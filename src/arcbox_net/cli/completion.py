"""`arcbox-net completion`: the script that makes a shell complete verbs, options, networks and ports."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  arcbox-net completion bash > ~/.local/share/bash-completion/completions/arcbox-net
    zsh:   arcbox-net completion zsh > ~/.zfunc/_arcbox-net      (with ~/.zfunc in fpath)
    fish:  arcbox-net completion fish > ~/.config/fish/completions/arcbox-net.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "arcbox-net", "_ARCBOX_NET_COMPLETE").source())
