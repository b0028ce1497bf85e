"""`arcbox-net flows`: which connections guests have, and how the latest ones ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arcbox_net.cli import common, output

if TYPE_CHECKING:
    from arcbox_net.network.messages import FlowInfo


@click.command("flows")
@common.network_argument
@common.json_option
def command(network: str, as_json: bool) -> None:
    """List the flows of the guests of NAME: TCP, UDP and echo, with what they carried.

    SENT is what the guest sent. With egress relay, flows that ended lately are listed with the reason. With
    egress masquerade these are the kernel's conntrack entries, which have no age; bytes are counted where
    net.netfilter.nf_conntrack_acct is 1.
    """
    found = common.connect(network).flows()
    if as_json:
        output.print_json(found)
    elif not found:
        click.echo(f"{network} has no flows")
    else:
        output.table(
            ("protocol", "guest", "peer", "state", "age", "idle", "sent", "received", "closed"),
            [_row(flow) for flow in found],
            right=(6, 7),
        )


def _row(flow: FlowInfo) -> tuple[object, ...]:
    return (
        flow.protocol,
        _endpoint(flow.guest, flow.guest_port),
        _endpoint(flow.peer, flow.peer_port),
        flow.state,
        _time_text(flow.age_s),
        _time_text(flow.idle_s),
        _bytes_text(flow.bytes_out),
        _bytes_text(flow.bytes_in),
        flow.reason,
    )


def _endpoint(address: str, l4_port: int | None) -> str:
    if not l4_port:  # ICMP has none
        return address
    return f"[{address}]:{l4_port}" if ":" in address else f"{address}:{l4_port}"


def _time_text(seconds: float | None) -> str | None:
    return None if seconds is None else output.duration_text(seconds)


def _bytes_text(count: int | None) -> str | None:
    return None if count is None else output.bytes_text(count)
