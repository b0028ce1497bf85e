"""The NAT engine beside the oracle: any guests, ports, peers, protocols and pauses, in bursts of any size."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from arcbox_net.dataplane.nat_config import FILTERING
from arcbox_net.dataplane.verdict import Direction
from tests.oracle.nat import Packet
from tests.support.compared_nat import PORT_RANGE, ComparedNat
from tests.support.frames import ACK, FIN, RST, SYN, Endpoint
from tests.support.nat import E2, E3, EXTERNAL, A, B

PAUSES = [1, 2, 29, 31, 59, 61, 119, 121, 239, 241, 299, 301, 7439, 7441]
SEGMENTS = [SYN, SYN | ACK, ACK, FIN | ACK, RST]

guests = st.builds(Endpoint, st.sampled_from([A, B]), st.sampled_from([80, *range(4000, 4008)]))
peers = st.builds(Endpoint, st.sampled_from([E2, E3]), st.sampled_from([53, 80, 81]))
externals = st.builds(
    Endpoint, st.just(EXTERNAL), st.sampled_from([8080, *range(PORT_RANGE[0], PORT_RANGE[1] + 1)])
)
protocols = st.sampled_from(["udp", "tcp", "tcp", "icmp"])
BURST_MAX = 4


def packets(
    sources: st.SearchStrategy[Endpoint], destinations: st.SearchStrategy[Endpoint]
) -> st.SearchStrategy[Any]:
    one = st.builds(Packet, protocols, sources, destinations, st.sampled_from(SEGMENTS))
    return st.lists(one, min_size=1, max_size=BURST_MAX)


class NatMachine(ComparedNat, RuleBasedStateMachine):
    @initialize(
        filtering=st.sampled_from(FILTERING),
        inbound_refresh=st.booleans(),
        port_parity=st.booleans(),
        preserve_ports=st.booleans(),
        fast_cache_size=st.sampled_from([0, 2, 256]),
        conntrack_size=st.sampled_from([8, 64]),
        flows_per_guest=st.sampled_from([6, 1000]),
        ports_per_guest=st.sampled_from([5, 1000]),
    )
    def start(self, **options: Any) -> None:
        self.begin(**options)

    @rule(burst=packets(guests, peers))
    def outbound(self, burst: list[Packet]) -> None:
        self.translate(burst, Direction.OUTBOUND)

    @rule(burst=packets(peers, externals))
    def inbound(self, burst: list[Packet]) -> None:
        self.translate(burst, Direction.INBOUND)

    @rule(burst=packets(guests, externals))
    def between_guests(self, burst: list[Packet]) -> None:
        """N9."""
        self.translate(burst, Direction.OUTBOUND)

    @rule(one=st.integers(0, 63), other=st.integers(0, 63), flags=st.sampled_from([SYN, SYN, ACK]))
    def to_a_mapping(self, one: int, other: int, flags: int) -> None:
        """N9: from an endpoint that is outside already to another one that is."""
        protocol = ("udp", "tcp")[one & 1]
        alive = [mapping for mapping in self.oracle.mappings if mapping.protocol == protocol]
        if len(alive) > 1:
            target, own = alive[one % len(alive)], alive[(one + 1 + other % (len(alive) - 1)) % len(alive)]
            self.translate([Packet(protocol, own.inside, target.external, flags)], Direction.OUTBOUND)

    @rule(
        flow=st.integers(0, 63), flags=st.sampled_from(SEGMENTS), direction=st.sampled_from(list(Direction))
    )
    def along_a_flow(self, flow: int, flags: int, direction: Direction) -> None:
        self.along(flow, flags, direction)

    @rule(seconds=st.sampled_from(PAUSES))
    def wait(self, seconds: int) -> None:
        self.pause(seconds)

    @invariant()
    def the_same_flows_and_mappings_are_known(self) -> None:
        if hasattr(self, "engine"):
            self.agree()


TestNatModel = NatMachine.TestCase
TestNatModel.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
