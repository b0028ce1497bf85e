"""UDP forwards on the event loop, between real loopback sockets."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from arcbox_net.errors import HostPortInUse
from arcbox_net.network.udp_forward import BURST_MAX, DATAGRAM_BYTES_MAX, UdpForward
from arcbox_net.rules import parse_forward
from tests.support.listening import LoopUdpForward, Served, free_port
from tests.support.relay import udp_socket, wait_until

UDP_PAYLOAD_MAX = DATAGRAM_BYTES_MAX - 28


@pytest.fixture(params=["127.0.0.1", "::1"])
def forward(request: pytest.FixtureRequest) -> Iterator[LoopUdpForward]:
    with LoopUdpForward(request.param) as running:
        yield running


def passed(forward: LoopUdpForward, client: socket.socket, payload: bytes) -> tuple[str, int]:
    """Whom the guest saw as the sender of *payload*, which it has received, and answered."""
    client.send(payload)
    received, sender = forward.target.recvfrom(DATAGRAM_BYTES_MAX)
    assert received == payload
    forward.target.sendto(payload[::-1], sender)
    assert client.recv(DATAGRAM_BYTES_MAX) == payload[::-1]
    return sender[:2]


@pytest.mark.parametrize("size", [0, 1, 1472, 9217, UDP_PAYLOAD_MAX])
def test_datagrams_of_every_size_and_their_answers_pass(forward: LoopUdpForward, size: int) -> None:
    with forward.client() as client:
        passed(forward, client, os.urandom(size))
    assert (forward.stat("datagrams_in"), forward.stat("bytes_in")) == (1, size)
    forward.wait_for("datagrams_out", 1)
    forward.wait_for("bytes_out", size)


def test_8_mib_each_way_arrive_byte_for_byte(forward: LoopUdpForward) -> None:
    with forward.client() as client:
        for _ in range(1024):  # one datagram at a time: nothing else keeps UDP from being lost
            passed(forward, client, os.urandom(8192))
    assert (forward.stat("active"), forward.stat("accepted"), forward.stat("dropped")) == (1, 1, 0)


def test_each_client_has_a_flow_of_its_own(forward: LoopUdpForward) -> None:
    clients = [forward.client() for _ in range(5)]
    seen = {passed(forward, client, b"%d" % i) for i, client in enumerate(clients)}
    assert len(seen) == 5
    assert passed(forward, clients[0], b"again") in seen
    assert forward.stat("active") == 5
    for client in clients:
        client.close()


def test_more_datagrams_than_one_turn_takes_all_pass(forward: LoopUdpForward) -> None:
    with forward.client() as client:
        for i in range(2 * BURST_MAX):
            client.send(b"%03d" % i)
        got = {forward.target.recv(100) for _ in range(2 * BURST_MAX)}
    assert got == {b"%03d" % i for i in range(2 * BURST_MAX)}


def test_an_answer_of_somebody_else_than_the_guest_reaches_no_client(forward: LoopUdpForward) -> None:
    with forward.client() as client, udp_socket(forward.host) as stranger:
        client.send(b"question")
        _, sender = forward.target.recvfrom(100)
        stranger.sendto(b"forged", sender)
        forward.target.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"


def test_one_client_more_than_there_may_be_is_dropped_and_the_others_go_on() -> None:
    with LoopUdpForward(flows_max=40) as forward:
        clients = [forward.client() for _ in range(41)]
        for client in clients[:40]:
            passed(forward, client, b"known")
        clients[40].send(b"one too many")
        forward.wait_for("dropped", 1)
        assert (forward.stat("active"), forward.stat("refused_limit")) == (40, 1)
        for client in clients[:40]:
            passed(forward, client, b"still")
        for client in clients:
            client.close()


def test_a_silent_flow_ends_and_its_client_is_let_in_again() -> None:
    with LoopUdpForward(idle_s=0.05, flows_max=1) as forward, forward.client() as client:
        client.send(b"first")
        forward.wait_for("idle_timeout", 1)
        assert forward.stat("active") == 0
        client.send(b"second")
        assert [forward.target.recv(100) for _ in range(2)] == [b"first", b"second"]
        assert forward.stat("accepted") == 2


def test_a_guest_that_refuses_costs_its_client_nothing_but_the_datagrams() -> None:
    guest_port = free_port()
    rule = parse_forward(f"{free_port()}:{guest_port}/udp")
    served = Served(UdpForward(rule), "127.0.0.1")
    with udp_socket("127.0.0.1") as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        client.connect(("127.0.0.1", rule.host_port))
        client.send(b"nobody")
        wait_until(lambda: served.stats()["datagrams_in"] == 1, "passed on, and refused")
        guest.bind(("127.0.0.1", guest_port))
        guest.settimeout(0.05)

        def is_heard() -> bool:
            client.send(b"somebody")
            try:
                return guest.recv(100) == b"somebody"
            except TimeoutError:
                return False

        wait_until(is_heard, "the guest hears its client")
        assert served.stats()["accepted"] == 1
    served.stop()


def test_a_guest_without_a_route_costs_a_counted_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(self: socket.socket, address: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    with LoopUdpForward() as forward, forward.client() as client, forward.client() as early:
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "connect", no_route)
            early.send(b"x")
            forward.wait_for("dropped", 1)
        assert (forward.stat("connect_failed"), forward.stat("active")) == (1, 0)
        passed(forward, client, b"there is a route")


def test_while_nobody_is_there_datagrams_are_dropped_and_flows_lead_to_the_next_guest() -> None:
    with LoopUdpForward() as forward, forward.client() as client:
        passed(forward, client, b"first")
        forward.relay.call(forward.relay.listening.aim(None))
        assert forward.stat("active") == 0
        client.send(b"into the void")
        forward.wait_for("dropped", 1)
        forward.relay.call(forward.relay.listening.aim("127.0.0.1"))
        passed(forward, client, b"second")


def test_h7_a_port_that_is_taken_is_an_error_and_nothing_is_held() -> None:
    first = free_port(size=2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", first + 1))
        with pytest.raises(HostPortInUse):
            Served(UdpForward(parse_forward(f"{first}-{first + 1}:53-54/udp")), "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", first))


def test_closing_ends_flows_that_live_and_frees_the_port() -> None:
    with LoopUdpForward() as forward, forward.client() as client:
        passed(forward, client, b"alive")
        forward.relay.close()
        assert forward.stat("active") == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", forward.port))
