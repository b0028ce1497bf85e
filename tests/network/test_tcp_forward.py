"""TCP forwards on the event loop, between real loopback sockets: both ends of each connection are the test's."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from arcbox_net.errors import HostPortInUse
from arcbox_net.network.tcp_forward import CHUNK_BYTES, TcpForward
from arcbox_net.rules import parse_forward
from tests.support.listening import LoopTcpForward, Served, free_port
from tests.support.netns import wait_until
from tests.support.relay import is_reset, read_exactly, reset, send_and_end

MIB = 1 << 20
UPWARD = pytest.mark.parametrize("upward", [True, False], ids=["client to guest", "guest to client"])


@pytest.fixture(params=["127.0.0.1", "::1"])
def forward(request: pytest.FixtureRequest) -> Iterator[LoopTcpForward]:
    with LoopTcpForward(request.param) as running:
        yield running


def ends(forward: LoopTcpForward, upward: bool) -> tuple[socket.socket, socket.socket]:
    """Who sends, and who receives it."""
    client, served = forward.pair()
    return (client, served) if upward else (served, client)


def read_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(MIB), b""))


@UPWARD
def test_t1_the_end_of_one_stream_comes_after_all_of_it_and_the_other_goes_on(
    forward: LoopTcpForward, upward: bool
) -> None:
    sender, receiver = ends(forward, upward)
    send_and_end(sender, b"question" * 1000)
    assert read_all(receiver) == b"question" * 1000
    send_and_end(receiver, b"answer" * MIB)
    assert read_all(sender) == b"answer" * MIB
    forward.wait_for("active", 0)
    assert forward.stat("accepted") == 1


def test_8_mib_each_way_at_once_arrive_byte_for_byte(forward: LoopTcpForward) -> None:
    client, served = forward.pair()
    up, down = os.urandom(8 * MIB), os.urandom(8 * MIB)
    digests: dict[str, str] = {}

    def receive(name: str, end: socket.socket) -> None:
        digests[name] = hashlib.sha256(read_all(end)).hexdigest()

    readers = [
        threading.Thread(target=receive, args=one, daemon=True) for one in (("up", served), ("down", client))
    ]
    for thread in readers:
        thread.start()
    send_and_end(client, up)
    send_and_end(served, down)
    for thread in readers:
        thread.join(60)
    assert digests == {"up": hashlib.sha256(up).hexdigest(), "down": hashlib.sha256(down).hexdigest()}
    forward.wait_for("active", 0)
    assert (forward.stat("bytes_in"), forward.stat("bytes_out")) == (8 * MIB, 8 * MIB)


def test_what_a_client_sends_and_ends_at_once_arrives(forward: LoopTcpForward) -> None:
    client = forward.dial()
    client.sendall(b"early")
    client.shutdown(socket.SHUT_WR)
    assert read_all(forward.accept()) == b"early"


@UPWARD
def test_t2_a_reset_of_one_side_is_a_reset_of_the_other(forward: LoopTcpForward, upward: bool) -> None:
    breaker, other = ends(forward, upward)
    breaker.sendall(b"x")
    assert other.recv(1) == b"x"
    reset(breaker)
    assert is_reset(other)
    forward.wait_for("active", 0)


@UPWARD
def test_t2_a_reset_after_the_end_of_the_stream_is_seen_by_who_still_sends(
    forward: LoopTcpForward, upward: bool
) -> None:
    breaker, other = ends(forward, upward)
    breaker.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    reset(breaker)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            other.sendall(b"x" * 1000)
    forward.wait_for("active", 0)


@UPWARD
def test_t11_who_does_not_read_stops_the_sender_and_little_is_held(upward: bool) -> None:
    with LoopTcpForward() as forward:
        sender, receiver = ends(forward, upward)
        payload = os.urandom(64 * MIB)
        send_and_end(sender, payload)

        async def held() -> int:
            """What the flow has, while its sender is not read."""
            (flow,) = forward.relay.listening.flows
            read, sent = (flow.client, flow.guest) if upward else (flow.guest, flow.client)
            if sent.transport is None or read.transport.is_reading():
                return 0
            size: int = sent.transport.get_write_buffer_size()
            return size

        assert wait_until(lambda: forward.relay.call(held())) <= CHUNK_BYTES
        assert hashlib.sha256(read_all(receiver)).digest() == hashlib.sha256(payload).digest()


def test_t3_a_refusal_of_the_guest_is_a_reset(forward: LoopTcpForward) -> None:
    forward.target.close()
    assert forward.dial_is_reset()
    forward.wait_for("connect_failed", 1)
    forward.wait_for("active", 0)


def test_a_guest_that_does_not_answer_is_a_reset_after_a_while() -> None:
    # A listener whose backlog is full does not answer SYNs: the nearest thing to a guest that is gone on loopback.
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        assert select.select([hole], [], [], 30)[0]  # one waits to be accepted, and is all that may
        with LoopTcpForward(target=hole, dial_s=0.2) as forward:
            assert forward.dial_is_reset()
            forward.wait_for("connect_failed", 1)
            forward.wait_for("active", 0)
        for filler in fillers:
            filler.close()


def test_while_nobody_is_there_clients_are_reset_and_flows_go_on(forward: LoopTcpForward) -> None:
    client, served = forward.pair()
    forward.relay.call(forward.relay.listening.aim(None))
    assert forward.dial_is_reset()
    client.sendall(b"still")
    assert read_exactly(served, 5) == b"still"
    forward.relay.call(forward.relay.listening.aim(forward.host))
    forward.pair()


def test_one_connection_more_than_there_may_be_is_reset_until_another_ends() -> None:
    with LoopTcpForward(flows_max=40) as forward:
        pairs = [forward.pair() for _ in range(40)]
        assert forward.dial_is_reset()
        assert forward.stat("refused_limit") == 1
        for number, (client, served) in enumerate(pairs):
            client.sendall(b"%03d" % number)
            assert read_exactly(served, 3) == b"%03d" % number
        for end in pairs[0]:
            end.close()
        forward.wait_for("active", 39)
        forward.pair()


def test_t17_a_silent_connection_is_reset_on_both_sides() -> None:
    with LoopTcpForward(idle_s=0.1) as forward:
        client, served = forward.pair()
        assert is_reset(client) and is_reset(served)
        assert forward.stat("idle_timeout") == 1 and forward.stat("active") == 0


def test_h7_a_port_of_the_range_that_is_taken_is_an_error_and_nothing_is_held() -> None:
    first = free_port(size=2)
    with socket.create_server(("127.0.0.1", first + 1)):
        rule = parse_forward(f"{first}-{first + 1}:80-81")
        with pytest.raises(HostPortInUse):
            Served(TcpForward(rule), "127.0.0.1")
    socket.create_server(("127.0.0.1", first)).close()


def test_closing_resets_connections_that_are_open_and_frees_the_port() -> None:
    with LoopTcpForward() as forward:
        pairs = [forward.pair() for _ in range(3)]
        forward.relay.close()
        assert all(is_reset(end) for pair in pairs for end in pair)
        with pytest.raises(ConnectionRefusedError):
            forward.dial()
        socket.create_server(("127.0.0.1", forward.port)).close()
        assert not select.select([forward.target], [], [], 0)[0]
