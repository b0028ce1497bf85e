"""The NAT engine on a wire: a guest's kernel, the switch, the router and a veth to another kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.datapath import transfer
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.engine_egress import EXTERNAL, FAR, GUEST, NEXT_HOP, EngineEgress, engine_egress
from tests.support.line import DEADLINE_S
from tests.support.netns import Namespace, requires_root, wait_until

pytestmark = [pytest.mark.e2e, requires_root]

BYTES = 8 << 20
REACHED: dict[str, set[tuple[str, int]]] = {
    "endpoint-independent": {(NEXT_HOP, 1001), (NEXT_HOP, 1002), (FAR, 1001)},
    "address-dependent": {(NEXT_HOP, 1001), (NEXT_HOP, 1002)},
    "address-and-port-dependent": {(NEXT_HOP, 1001)},
}


@pytest.fixture
def egress() -> Iterator[EngineEgress]:
    with engine_egress() as site:
        yield site


def datagram_socket(where: Namespace, address: str = "0.0.0.0", number: int = 0) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, number))
        made.settimeout(DEADLINE_S)
        return made

    return where.call(make)


def test_tcp_passes_out_in_super_frames(egress: EngineEgress) -> None:
    transfer(egress.guest, egress.outside, FAR, BYTES)
    counters = egress.worker.counters()[egress.uplink]
    assert counters.tx_bytes > BYTES
    assert counters.tx_bytes / counters.tx_frames > 3000
    with egress.worker.paused():
        (flow,) = egress.engine.flows()
    assert flow.protocol == "tcp"


def test_a_forward_leads_in(egress: EngineEgress) -> None:
    with egress.worker.paused():
        egress.engine.add_forward("udp", 5353, GUEST)
    with datagram_socket(egress.guest, GUEST, 5353) as server, datagram_socket(egress.outside) as client:
        client.sendto(b"in", (EXTERNAL, 5353))
        _, sender = server.recvfrom(100)
        server.sendto(b"out", sender)
        assert client.recvfrom(100) == (b"out", (EXTERNAL, 5353))


def test_ping_and_what_needs_fragments_pass(egress: EngineEgress) -> None:
    for size in (56, 4000):
        wait_for_echo(egress.guest, FAR, "-s", str(size))


def test_a_closed_port_answers_with_icmp(egress: EngineEgress) -> None:
    with egress.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(DEADLINE_S)
        client.connect((FAR, 9))
        client.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_the_external_address_is_the_routers_on_the_link(egress: EngineEgress) -> None:

    def answered() -> str | None:
        assert not is_echoed(egress.outside, EXTERNAL)  # asks, and is not answered by a guest
        (neighbour,) = [one for one in egress.outside.json("ip -j neigh") if one["dst"] == EXTERNAL]
        return neighbour.get("lladdr")

    assert wait_until(answered) == "02:00:00:00:01:00"


@pytest.mark.parametrize("filtering", list(REACHED))
def test_mapping_and_filtering_are_as_configured(filtering: str) -> None:
    """As STUN probes tell them (RFC 5780): from one socket to three servers, and each of these back to its mapping."""
    with engine_egress(filtering) as site, datagram_socket(site.guest) as client:
        servers = {
            place: datagram_socket(site.outside, *place)
            for place in ((NEXT_HOP, 1001), (NEXT_HOP, 1002), (FAR, 1001))
        }
        client.sendto(b"bind", (NEXT_HOP, 1001))
        _, mapped = servers[NEXT_HOP, 1001].recvfrom(100)
        assert mapped[0] == EXTERNAL
        for server in servers.values():
            server.sendto(b"back", mapped)
        found = set()
        for _ in REACHED[filtering]:
            found.add(client.recvfrom(100)[1])
        assert found == REACHED[filtering]
        for place, server in servers.items():
            client.sendto(b"again", place)
            assert server.recvfrom(100)[1] == mapped  # endpoint-independent mapping
        for server in servers.values():
            server.close()
