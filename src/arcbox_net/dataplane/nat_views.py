"""What an engine shows of itself: flows, mappings, forwards, and the frames that it made."""

from __future__ import annotations

from typing import NamedTuple

from arcbox_net.dataplane.verdict import Direction


class Endpoint(NamedTuple):
    """One end of a flow. `number` is a TCP or UDP port, or the identifier of an ICMP query."""

    address: str
    number: int


class NatFlow(NamedTuple):
    """A flow: its packets as they arrive from the side that opened it, and as they arrive from the other."""

    protocol: str  # "tcp", "udp", "icmp"
    source: Endpoint
    destination: Endpoint
    reply_source: Endpoint
    reply_destination: Endpoint
    opened_by: Direction
    hairpin: bool
    # TCP: "opening", "established", "half-closed", "closing", "reset"; else "open". Whatever the protocol: "weak",
    # opened from outside and not yet answered; "waiting", for another guest whose filter does not let it in.
    state: str
    age_s: int
    idle_s: int  # since the last packet of either way
    bytes: int  # of IP packets, from the side that opened it
    packets: int
    reply_bytes: int
    reply_packets: int


class NatMapping(NamedTuple):
    """An endpoint inside and its external endpoint."""

    protocol: str
    inside: Endpoint
    external: Endpoint
    flows: int
    static: bool  # a forward's


class NatForward(NamedTuple):
    """External ports that lead to a guest, number by number."""

    protocol: str
    external_ip: str
    external_port: int
    inside_ip: str
    inside_port: int
    port_count: int


class Emission(NamedTuple):
    """A frame that the engine made: an answer, or a fragment of a packet it translated."""

    direction: Direction  # INBOUND towards guests, OUTBOUND towards the uplink
    frame: bytes
