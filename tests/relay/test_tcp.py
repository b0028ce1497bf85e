"""What a forwarded TCP connection does to its two ends: bytes, FIN, RST, back-pressure."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net.relay._testing import pump_ended
from tests.support.relay import TcpForward, is_reset, read_exactly, reset, send_and_end, wait_until

MIB = 1 << 20


@pytest.fixture(params=["127.0.0.1", "::1"])
def forward(request: pytest.FixtureRequest) -> Iterator[TcpForward]:
    with TcpForward(request.param) as running:
        yield running


def _swap(pair: tuple[socket.socket, socket.socket], upward: bool) -> tuple[socket.socket, socket.socket]:
    return pair if upward else (pair[1], pair[0])


def _fill(sock: socket.socket) -> int:
    """Send until nothing more is taken for a while; the number of bytes."""
    total = 0
    sock.settimeout(0.3)
    try:
        while True:
            total += sock.send(bytes(MIB))
    except TimeoutError:
        return total
    finally:
        sock.settimeout(30)


both_ways = pytest.mark.parametrize("upward", [True, False], ids=["client-first", "target-first"])


def test_bytes_go_both_ways(forward: TcpForward) -> None:
    client, served = forward.pair()
    for size in (1, 100, 65535, 65536, 65537, 3 * MIB):
        for source, sink in ((client, served), (served, client)):
            payload = random.Random(size).randbytes(size)
            thread = threading.Thread(target=source.sendall, args=(payload,), daemon=True)
            thread.start()
            assert read_exactly(sink, size) == payload
            thread.join()


@both_ways
def test_100_mib_arrive_with_the_same_sha256(forward: TcpForward, upward: bool) -> None:
    source, sink = _swap(forward.pair(), upward)
    block = random.Random(7).randbytes(MIB)
    thread = send_and_end(source, block * 100)
    digest = hashlib.sha256()
    sizes = random.Random(8)
    while chunk := sink.recv(sizes.choice((1, 1000, 65536, 4 * MIB))):
        digest.update(chunk)
    thread.join()
    assert digest.hexdigest() == hashlib.sha256(block * 100).hexdigest()


@both_ways
def test_t1_fin_comes_after_all_data_and_the_other_way_goes_on(forward: TcpForward, upward: bool) -> None:
    near, far = _swap(forward.pair(), upward)
    request = random.Random(1).randbytes(5 * MIB)
    send_and_end(near, request)
    assert read_exactly(far, len(request)) == request
    assert far.recv(1) == b""
    answer = random.Random(2).randbytes(12 * MIB)
    send_and_end(far, answer)
    assert read_exactly(near, len(answer)) == answer
    assert near.recv(1) == b""
    near.close()
    far.close()
    forward.wait_for("active", 0)
    forward.wait_for("closed", 1)
    assert forward.stat("reset") == 0


@both_ways
def test_t1_the_last_bytes_and_fin_are_one_packet_as_they_were(forward: TcpForward, upward: bool) -> None:
    def together() -> bool:
        source, sink = _swap(forward.pair(), upward)
        before = _segments_in(sink)
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # so that they come in one packet too
        source.sendall(b"last")
        source.shutdown(socket.SHUT_WR)
        assert read_exactly(sink, 4) == b"last"
        assert sink.recv(1) == b""
        return _segments_in(sink) == before + 1

    # The kernel keeps bytes back for 0.2 s at most: who is stopped for longer between two calls sends two packets.
    wait_until(together, "one packet")


def test_the_last_bytes_do_not_wait_for_a_fin_that_does_not_come() -> None:
    (client, source), (sink, peer) = _connection(), _connection()
    with client, source, sink, peer:
        client.sendall(b"last")
        assert pump_ended(source.fileno(), sink.fileno()) == 4
        assert _not_sent(sink) == 0
        assert read_exactly(peer, 4) == b"last"


def _connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def _not_sent(sock: socket.socket) -> int:
    """SIOCOUTQNSD"""
    return int.from_bytes(fcntl.ioctl(sock, 0x894B, bytes(4)), sys.byteorder)


def _segments_in(sock: socket.socket) -> int:
    """tcpi_segs_in"""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)[140:], sys.byteorder)


@both_ways
def test_t1_fin_behind_a_full_pipe_is_not_lost(forward: TcpForward, upward: bool) -> None:
    source, sink = _swap(forward.pair(), upward)
    total = _fill(source)
    source.shutdown(socket.SHUT_WR)
    got = 0
    while chunk := sink.recv(MIB):
        got += len(chunk)
    assert got == total


def test_a_client_that_only_connects_and_closes_closes_the_target(forward: TcpForward) -> None:
    client, served = forward.pair()
    client.close()
    assert served.recv(1) == b""
    served.close()
    forward.wait_for("active", 0)
    forward.wait_for("closed", 1)


def test_data_and_fin_sent_before_the_dial_has_ended_arrive(forward: TcpForward) -> None:
    client = forward.dial()
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    served = forward.accept()
    assert read_exactly(served, 5) == b"hello"
    assert served.recv(1) == b""
    served.sendall(b"bye")
    served.close()
    assert read_exactly(client, 3) == b"bye"
    assert client.recv(1) == b""


@both_ways
def test_t2_a_reset_of_one_side_is_a_reset_of_the_other(forward: TcpForward, upward: bool) -> None:
    near, far = _swap(forward.pair(), upward)
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    forward.wait_for("active", 0)
    forward.wait_for("reset", 1)


@both_ways
def test_t2_a_reset_reaches_a_side_that_does_not_read(forward: TcpForward, upward: bool) -> None:
    near, far = _swap(forward.pair(), upward)
    _fill(near)
    reset(near)
    forward.wait_for("active", 0)
    assert is_reset(far)


@both_ways
def test_t2_close_with_unread_data_resets_the_sender(forward: TcpForward, upward: bool) -> None:
    near, far = _swap(forward.pair(), upward)
    near.sendall(b"never read")
    wait_until(lambda: far.recv(1, socket.MSG_PEEK) == b"n", "the data arrived")
    far.close()
    assert is_reset(near)


@both_ways
def test_t2_a_reset_after_half_close_is_propagated(forward: TcpForward, upward: bool) -> None:
    near, far = _swap(forward.pair(), upward)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    reset(far)
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    forward.wait_for("active", 0)


def test_t2_what_was_sent_before_a_reset_is_handed_on_first(forward: TcpForward) -> None:
    client, served = forward.pair()
    served.sendall(b"last words")
    assert client.recv(10, socket.MSG_WAITALL) == b"last words"
    reset(served)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_t3_a_refused_dial_resets_the_client(forward: TcpForward) -> None:
    forward.target.close()
    assert forward.dial_is_reset()
    forward.wait_for("connect_failed", 1)
    assert forward.stat("active") == 0


def test_t5_a_client_that_resets_before_the_dial_is_done_leaves_nothing(forward: TcpForward) -> None:
    for _ in range(50):
        reset(forward.dial())
    forward.wait_for("accepted", 50)
    forward.wait_for("active", 0)


@both_ways
def test_t11_a_reader_that_stops_stops_the_writer_and_nothing_is_lost(
    forward: TcpForward, upward: bool
) -> None:
    source, sink = _swap(forward.pair(), upward)
    total = _fill(source)
    (flow,) = forward.relay.flows()
    assert flow["held"] <= MIB  # the rest waits in the kernel's socket buffers
    sent = threading.Thread(target=source.sendall, args=(b"end" * 1000,), daemon=True)
    sent.start()
    assert len(read_exactly(sink, total + 3000)) == total + 3000
    sent.join()


@both_ways
def test_t18_urgent_data_arrives_inline_and_does_not_stall_the_stream(
    forward: TcpForward, upward: bool
) -> None:
    source, sink = _swap(forward.pair(), upward)
    head, tail = random.Random(3).randbytes(4 * MIB), random.Random(4).randbytes(MIB)

    def send() -> None:
        source.sendall(head)
        source.send(b"!", socket.MSG_OOB)
        source.sendall(tail)
        source.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    assert read_exactly(sink, len(head) + 1 + len(tail)) == head + b"!" + tail
    assert sink.recv(1) == b""


def test_small_writes_arrive_in_order(forward: TcpForward) -> None:
    client, served = forward.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    payload = random.Random(5).randbytes(20000)

    def send() -> None:
        for i in range(0, len(payload), 7):
            client.send(payload[i : i + 7])

    threading.Thread(target=send, daemon=True).start()
    assert read_exactly(served, len(payload)) == payload


def test_many_connections_at_once_stay_apart(forward: TcpForward) -> None:
    pairs = []
    for i in range(100):
        client = forward.dial()
        client.sendall(i.to_bytes(4, "big"))
        pairs.append(client)
    for _ in range(100):
        served = forward.accept()
        served.sendall(read_exactly(served, 4) * 2)
        served.close()
    for i, client in enumerate(pairs):
        assert read_exactly(client, 8) == i.to_bytes(4, "big") * 2
        assert client.recv(1) == b""


def test_no_socket_of_the_relay_paces(forward: TcpForward) -> None:
    client, served = forward.pair()
    relays_ends = {client.getpeername()[:2], served.getpeername()[:2]}
    found = []
    for path in Path("/proc/self/fd").iterdir():
        if not path.is_socket():
            continue
        with socket.socket(fileno=os.dup(int(path.name))) as sock:
            if sock.type == socket.SOCK_STREAM and sock.getsockname()[:2] in relays_ends:
                found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16))
    assert len(found) >= len(relays_ends)
    assert not [control for control in found if control.startswith(b"bbr")]
