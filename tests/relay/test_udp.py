"""What forwarded datagrams look like to the client and to the target."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from tests.support.descriptors import no_descriptors, open_descriptors
from tests.support.relay import UdpForward, udp_socket, wait_until


@pytest.fixture(params=["127.0.0.1", "::1"])
def forward(request: pytest.FixtureRequest) -> Iterator[UdpForward]:
    with UdpForward(request.param, request.param) as running:
        yield running


def _client(forward: UdpForward) -> socket.socket:
    host = forward.target.getsockname()[0]
    sock = udp_socket(host)
    sock.connect((host, forward.port))
    return sock


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, 65507])
def test_a_datagram_and_its_reply_keep_their_bytes_and_bounds(forward: UdpForward, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    with _client(forward) as client:
        client.send(payload)
        got, sender = forward.target.recvfrom(65536)
        assert got == payload
        forward.target.sendto(got[::-1], sender)
        assert client.recv(65536) == payload[::-1]


def test_each_client_gets_its_own_replies(forward: UdpForward) -> None:
    clients = [_client(forward) for _ in range(50)]
    for i, client in enumerate(clients):
        client.send(i.to_bytes(2, "big"))
    senders = set()
    for _ in clients:
        got, sender = forward.target.recvfrom(100)
        forward.target.sendto(b"to " + got, sender)
        senders.add(sender)
    assert len(senders) == 50
    for i, client in enumerate(clients):
        assert client.recv(100) == b"to " + i.to_bytes(2, "big")
        client.close()
    assert forward.stat("active") == 50


def test_one_client_keeps_its_source_towards_the_target(forward: UdpForward) -> None:
    with _client(forward) as client:
        senders = set()
        for i in range(20):
            client.send(bytes([i]))
            senders.add(forward.target.recvfrom(10)[1])
        assert len(senders) == 1


def test_mixed_bursts_arrive_completely_and_in_order_of_each_client(forward: UdpForward) -> None:
    clients = [_client(forward) for _ in range(5)]
    for round_ in range(10):
        for i in range(100):
            clients[i % 5].send(bytes([i % 5, round_, i]))
        seen: dict[int, list[int]] = {}
        for _ in range(100):
            got = forward.target.recv(10)
            assert got[1] == round_
            seen.setdefault(got[0], []).append(got[2])
        assert all(order == sorted(order) and len(order) == 20 for order in seen.values())
    for client in clients:
        client.close()


def test_a_target_that_was_closed_is_reached_again_once_it_is_open(forward: UdpForward) -> None:
    address = forward.target.getsockname()
    with _client(forward) as client:
        forward.target.close()
        for _ in range(5):
            client.send(b"nobody there")
        wait_until(lambda: forward.stat("datagrams_in") + forward.stat("dropped") == 5, "five were handled")
        forward.target = socket.socket(client.family, socket.SOCK_DGRAM)
        forward.target.bind(address)
        forward.target.settimeout(30)
        client.send(b"now")
        assert forward.target.recv(100) == b"now"


def test_a_strangers_datagram_to_a_flows_socket_is_not_forwarded(forward: UdpForward) -> None:
    with _client(forward) as client, udp_socket(forward.target.getsockname()[0]) as stranger:
        client.send(b"hello")
        _, flow_address = forward.target.recvfrom(100)
        stranger.sendto(b"spoofed", flow_address)
        forward.target.sendto(b"genuine", flow_address)
        assert client.recv(100) == b"genuine"


@pytest.mark.parametrize(
    ("wildcard", "addresses"), [("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.9.9.9"]), ("::", ["::1"])]
)
def test_a_reply_leaves_from_the_address_the_client_used(wildcard: str, addresses: list[str]) -> None:
    with UdpForward(wildcard) as forward, udp_socket(addresses[0]) as client:
        for address in addresses:
            client.sendto(b"ping", (address, forward.port))
            got, sender = forward.target.recvfrom(100)
            forward.target.sendto(got, sender)
            _, source = client.recvfrom(100)
            assert source[:2] == (address, forward.port)
        assert forward.stat("active") == len(addresses)


def test_an_ipv6_client_reaches_an_ipv4_target() -> None:
    with UdpForward("::1", "127.0.0.1") as forward, udp_socket("::1") as client:
        client.sendto(b"six", ("::1", forward.port))
        got, sender = forward.target.recvfrom(100)
        forward.target.sendto(got + b" to four", sender)
        assert client.recv(100) == b"six to four"


def test_new_clients_of_a_full_table_are_dropped_and_known_ones_go_on() -> None:
    with UdpForward(flows_max=3) as forward:
        clients = [_client(forward) for _ in range(5)]
        for client in clients[:3]:
            client.send(b"in")
            forward.target.recv(10)
        for client in clients[3:]:
            client.send(b"out")
        forward.wait_for("dropped", 2)
        assert forward.stat("refused_limit") == 2
        clients[0].send(b"still in")
        assert forward.target.recv(100) == b"still in"
        for client in clients:
            client.close()


def test_t17_a_silent_flow_ends_and_its_descriptor_is_given_back() -> None:
    with UdpForward(udp_idle_s=1) as forward:
        with _client(forward) as client:
            before = open_descriptors()
            client.send(b"x")
            forward.target.recv(10)
            forward.wait_for("idle_timeout", 1)
            forward.wait_for("active", 0)
            assert open_descriptors() == before
            client.send(b"again")
            assert forward.target.recv(10) == b"again"
            assert forward.stat("accepted") == 2


def test_removing_a_rule_closes_its_socket_and_its_flows() -> None:
    before = open_descriptors()
    with UdpForward() as forward:
        with _client(forward) as client:
            client.send(b"x")
            forward.target.recv(10)
        forward.relay.remove(forward.rule)
        assert forward.stat("active") == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", forward.port))
    assert open_descriptors() == before


def test_flows_names_the_client(forward: UdpForward) -> None:
    with _client(forward) as client:
        client.send(b"12345")
        forward.target.recv(10)
        forward.wait_for("datagrams_in", 1)
        (flow,) = forward.relay.flows()
        host, port = client.getsockname()[:2]
        assert flow["client"] == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        assert (flow["protocol"], flow["rule"], flow["bytes_in"]) == ("udp", forward.rule, 5)


def test_without_descriptors_new_clients_are_dropped_and_known_ones_go_on() -> None:
    with UdpForward() as forward, _client(forward) as known, _client(forward) as late:
        known.send(b"known")
        _, flow_address = forward.target.recvfrom(10)
        with no_descriptors():
            late.send(b"late")
            forward.wait_for("refused_fds", 1)
            known.send(b"still")
            assert forward.target.recv(10) == b"still"
            forward.target.sendto(b"reply", flow_address)
            assert known.recv(10) == b"reply"
        late.send(b"late again")
        assert forward.target.recv(20) == b"late again"
