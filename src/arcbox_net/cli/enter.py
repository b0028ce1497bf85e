"""`arcbox-net enter`: a shell or a command where the network's bridge and TAPs are."""

from __future__ import annotations

import os

import click

from arcbox_net.cli import common, output


@click.command("enter", cls=common.WithCommand)
@common.network_argument
@click.pass_context
def command(ctx: click.Context, network: str) -> None:
    """Run CMD, or your shell, in the network namespace of NAME: where its bridge, TAPs and rules are.

    \b
    arcbox-net enter dev
    arcbox-net enter dev -- ip -br link
    arcbox-net enter dev -- ssh vm1
    arcbox-net enter dev -- tcpdump -ni abx-dev
    arcbox-net enter dev -- firecracker --api-sock vm.sock

    For programs that open a TAP by its name, such as firecracker, and for looking. CMD runs as you, and may change
    everything of this network: it is no guest. It resolves names as guests do, and reaches guests, but not the
    outside. A network whose egress is masquerade has no namespace of its own; CMD then runs in the host's.
    """
    common.require_guests("netns", "enter")
    from arcbox_net.host.linux import guest_mounts, guest_process

    words = ctx.meta.get("command") or [os.environ.get("SHELL", "/bin/sh")]
    status = common.connect(network).status()
    if guest_process.enter(status.pid):
        for missed in guest_mounts.dress(common.resolv_conf(status)):
            output.note(missed)
        _find_system_tools()
    else:
        output.note(f"{network} is in the host's own network namespace (egress {status.egress})")
    guest_process.become(words)


def _find_system_tools() -> None:
    """Whoever enters has powers over this network: nft, bridge and tcpdump are where an administrator's PATH leads."""
    path = os.environ.get("PATH", os.defpath)
    missing = [folder for folder in ("/usr/sbin", "/sbin") if folder not in path.split(":")]
    os.environ["PATH"] = ":".join([path, *missing])
