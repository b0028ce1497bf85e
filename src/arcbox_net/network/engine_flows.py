"""What is said of an engine's flows: some at a time, while its worker is paused."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from arcbox_net.dataplane.verdict import Direction
from arcbox_net.network.messages import FlowInfo

if TYPE_CHECKING:
    from arcbox_net.dataplane.engine import NatEngine
    from arcbox_net.dataplane.nat_views import NatFlow
    from arcbox_net.dataplane.worker_group import Place

FLOWS_LISTED_MAX = 16_384
FLOWS_AT_ONCE = 256  # guests' packets wait while they are read


def list_flows(engine: NatEngine, worker: Place) -> list[FlowInfo]:
    """The first FLOWS_LISTED_MAX of the engine that is *worker*'s."""
    flows = engine.flows()
    found: list[NatFlow] = []
    while len(found) < FLOWS_LISTED_MAX:
        with worker.paused():
            some = list(itertools.islice(flows, FLOWS_AT_ONCE))
        found += some
        if not some:
            break
    return [_info(flow) for flow in found]


def _info(flow: NatFlow) -> FlowInfo:
    outbound = flow.opened_by is Direction.OUTBOUND
    guest, peer = (flow.source, flow.destination) if outbound else (flow.reply_source, flow.source)
    sent, received = (flow.bytes, flow.reply_bytes) if outbound else (flow.reply_bytes, flow.bytes)
    return FlowInfo(
        protocol=flow.protocol,
        guest=guest.address,
        guest_port=guest.number,
        peer=peer.address,
        peer_port=peer.number,
        state=flow.state,
        age_s=float(flow.age_s),
        idle_s=float(flow.idle_s),
        bytes_out=sent,
        bytes_in=received,
    )
