"""`arcbox-net forward`: host ports that lead to guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arcbox_net.cli import common, output

if TYPE_CHECKING:
    from arcbox_net.rules import ForwardRule


@click.group("forward")
def command() -> None:
    """Forward host ports to guests.

    \b
    SPEC is [host_ip:]host_port[-end]:[guest:]guest_port[-end][/tcp|udp]
      8080:80                127.0.0.1:8080 of the host to port 80 of the first guest
      0.0.0.0:2222:vm1:22    every address of the host to port 22 of vm1
      [::1]:5353:vm1:53/udp  IPv6 listeners go in brackets
      7000-7099:vm1:7000-7099
    """


@command.command("add")
@common.network_argument
@click.argument("rules", metavar="SPEC…", type=common.Forward(), nargs=-1, required=True)
@common.json_option
def add(network: str, rules: tuple[ForwardRule, ...], as_json: bool) -> None:
    """Start forwarding. When one SPEC fails, none of them is added."""
    manager = common.connect(network)
    added = []
    try:
        for rule in rules:
            added.append(manager.expose(rule))
    except BaseException:
        for info in added:
            manager.unexpose(info.rule)
        raise
    if as_json:
        output.print_json(added)
        return
    for info in added:
        click.echo(f"{info.rule} → {info.guest_ip or 'its guest, once it is attached'}")


@command.command("rm")
@common.network_argument
@click.argument("rules", metavar="SPEC…", type=common.Forward(), nargs=-1, required=True)
def rm(network: str, rules: tuple[ForwardRule, ...]) -> None:
    """Stop forwarding. SPEC as given to `add`."""
    manager = common.connect(network)
    for rule in rules:
        manager.unexpose(rule)
        click.echo(f"{rule} is removed")


@command.command("ls")
@common.network_argument
@common.json_option
def ls(network: str, as_json: bool) -> None:
    """List the forwards."""
    found = common.connect(network).forwards()
    if as_json:
        output.print_json(found)
    elif not found:
        click.echo(f"{network} forwards nothing; add one: arcbox-net forward add {network} 8080:80")
    else:
        from arcbox_net.cli.show import forwards_table

        forwards_table(found)
