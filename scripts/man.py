#!/usr/bin/env python3
"""Write docs/man/arcbox-net.1 from the command line's own help. `--check` fails when the file is out of date."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import click

from arcbox_net import __version__
from arcbox_net.cli.main import cli

PAGE = Path(__file__).parents[1] / "docs" / "man" / "arcbox-net.1"

SYNOPSIS = ["COMMAND [ARGUMENTS]", "up NAME", "run [NAME] -- CMD", "enter NAME [-- CMD]", "demo"]
DESCRIPTION = """\
arcbox-net gives virtual machines and plain processes a network on a Linux host: NAT, host-only and bridge
networks with DHCP, DNS and port forwarding. Each network is one process and one bridge. A network that was
started with up stays until down; what was changed on the host is then as it was.

NAT and host-only networks need no privilege: an ordinary user's live in a private user and network namespace, and a
relay carries TCP, UDP and ping of their guests (egress relay). Root's use kernel forwarding (egress masquerade)
unless --egress relay is given. doctor says what this machine lets an ordinary user do.

Every listing takes --json. Names of networks and guest ports complete in the shell (see completion).
"""
SECTIONS = [
    (
        "EXIT STATUS",
        """\
0: done. 1: it failed; the message says what, on which object, and the fix. 2: what was asked is wrong, and
nothing was changed. run ends with the status of its command (126: cannot be executed, 127: not found), and dies
of the signal that killed it.
""",
    ),
    (
        "ENVIRONMENT",
        """\
ARCBOX_NET_RUNTIME_DIR: sockets of running networks. Default: /run/arcbox-net for root, else
$XDG_RUNTIME_DIR/arcbox-net.

ARCBOX_NET_STATE_DIR: leases, and what outlives a network. Default: /var/lib/arcbox-net for root, else
$XDG_STATE_HOME/arcbox-net.

NO_COLOR: no colours, also on a terminal.
""",
    ),
    (
        "CONFIGURATION FILE",
        """\
TOML, with one table [networks.NAME] for each network; up NAME -f FILE reads it. Keys: mode, subnet, subnet6, gateway,
mtu, egress, bridge, nic, mac, multiqueue, num_queues, isolated, anti_spoof, host_access, forwards; tables dhcp
(enabled, pool, lease_s, max_lease_s, match, reservations, options, search, routes, addresses_per_port_max) and
dns (enabled, upstreams, domain_upstreams, records, domain, rebind_protection, rebind_allow, cache_entries_max).
A key or value that is not known is refused.
""",
    ),
    (
        "NOTES ON RUN",
        """\
The command has its own network and mount namespace, and shares everything else with the host. Programs that
resolve names by a daemon of the host (nscd, or systemd-resolved through nss-resolve) get the host's answers;
those that read /etc/resolv.conf get the network's. An address taken with --dhcp is not renewed.

An ordinary user's command keeps its user and has CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE over its own
network namespace, which a user namespace below the network's owns. Set-user-ID programs such as sudo do not work in it.
""",
    ),
]


def page() -> str:
    context = click.Context(cli, info_name="arcbox-net")
    lines = [
        f'.TH ARCBOX-NET 1 "" "arcbox-net {__version__}" "User Commands"',
        ".ad l",
        ".SH NAME",
        "arcbox-net \\- networks for virtual machines and processes",
        ".SH SYNOPSIS",
    ]
    for usage in SYNOPSIS:
        lines += [".br", rf"\fBarcbox-net\fR {escape(usage)}"]
    lines += [".SH DESCRIPTION", *paragraphs(DESCRIPTION), ".SH COMMANDS"]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        lines += command_lines(command, click.Context(command, context, name))
    for title, text in SECTIONS:
        lines += [f".SH {title}", *paragraphs(text)]
    lines += [".SH SEE ALSO", ".BR ip (8),", ".BR nft (8),", ".BR qemu (1)"]
    return "\n".join(lines) + "\n"


def command_lines(command: click.Command, context: click.Context) -> list[str]:
    """A command, its options, and the commands below it."""
    path = context.command_path.removeprefix("arcbox-net ")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f".SS {path}",
        rf"\fBarcbox-net {escape(path)}\fR {escape(usage)}",
        *paragraphs(command.help or ""),
    ]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and not {"--help", "--json"} & set(parameter.opts):
            lines += [".TP", rf"\fB{escape(record[0])}\fR", escape(record[1])]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            lines += command_lines(below, click.Context(below, context, name))
    return lines


def paragraphs(text: str) -> list[str]:
    """Paragraphs as roff; one that starts with \\b is shown line by line."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        body = [line.strip() for line in paragraph.splitlines()]
        if body and body[0] == "\b":
            lines += [".PP", ".nf", *[escape(line) for line in body[1:]], ".fi"]
        else:
            lines += [".PP", escape(" ".join(body))]
    return lines


def escape(text: str) -> str:
    quoted = text.replace("\\", "\\e").replace("-", "\\-")
    plain = quoted.replace("…", "...").replace("→", "\\(->")
    return "\\&" + plain if plain.startswith((".", "'")) else plain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the file would change"
    )
    arguments = parser.parse_args()
    if arguments.check:
        return 0 if PAGE.exists() and PAGE.read_text() == page() else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
