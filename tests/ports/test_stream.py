"""A stream port in a worker, and its peer: framing, backlog, loss and return of the peer (Q1 to Q6, Q8, G6, K15)."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.errors import ConfigError
from arcbox_net.ports.socket_port import (
    BACKLOG_BYTES_MAX,
    PEER_BAD_LENGTH,
    PEER_CONNECT,
    PEER_DISCONNECT,
    PEER_EOF,
    PEER_ERROR,
)
from arcbox_net.ports.stream import StreamPort
from tests.support.netns import wait_until
from tests.support.sockets import StreamPeer, Wire, frame, framed

FRAME_BYTES_MAX = 65_550
LARGE = 65_534


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire(StreamPort(frame_max=FRAME_BYTES_MAX), frame_max=FRAME_BYTES_MAX) as made:
        yield made


def test_frames_of_all_sizes_cross_both_ways_and_stay_whole(wire: Wire) -> None:
    peer = StreamPeer(wire.connect())
    sent = [
        frame(size, i) for i, size in enumerate([14, 60, 255, 256, 257, 1514, 9000, LARGE, FRAME_BYTES_MAX])
    ]
    peer.send(*sent)
    assert wire.arrived(len(sent)) == sent
    wire.far.put(sent)
    assert peer.receive(len(sent)) == sent
    wait_until(lambda: wire.counters()[:4] == (len(sent), sum(map(len, sent))) * 2)


@pytest.mark.parametrize("length", [0, 1, 13, FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_wrong_length_disconnects_the_peer_behind_the_frames_ahead_of_it_q1(wire: Wire, length: int) -> None:
    peer = StreamPeer(wire.connect())
    peer.connection.sendall(framed(frame()) + struct.pack("!I", length) + framed(frame(60, 1)))
    assert wire.arrived(1) == [frame()]
    assert wire.event()[:3] == (wire.number, PEER_BAD_LENGTH, length)
    assert peer.is_disconnected()


def test_frame_beyond_the_ports_own_limit_is_dropped_and_the_next_arrives_q1() -> None:
    with Wire(StreamPort(frame_max=1514)) as wire:
        peer = StreamPeer(wire.connect())
        peer.send(frame(1515), frame(1514))
        assert wire.arrived(1) == [frame(1514)]
        wait_until(lambda: wire.counters().drops == {PortDrop.PORT_DROP_LONG: 1})


def test_flood_of_frames_beyond_the_limit_leaves_the_port_served_q1() -> None:
    with Wire(StreamPort(frame_max=1514)) as wire:
        peer = StreamPeer(wire.connect())
        for _ in range(100):
            peer.send(*[frame(LARGE)] * 2)
        peer.send(frame())
        assert wire.arrived(1) == [frame()]
        wait_until(lambda: wire.counters().drops == {PortDrop.PORT_DROP_LONG: 200})


def test_ten_thousand_frames_that_come_a_byte_at_a_time_are_whole_q2(wire: Wire) -> None:
    peer = StreamPeer(wire.connect())
    for first in range(0, 10_000, 1000):
        sent = [frame(14, i) for i in range(first, first + 1000)]
        for byte in framed(*sent):
            peer.connection.send(bytes([byte]))
        assert wire.arrived(len(sent)) == sent


def test_thousand_frames_that_come_at_once_all_arrive_q3(wire: Wire) -> None:
    peer = StreamPeer(wire.connect())
    sent = [frame(60, i) for i in range(1000)]
    peer.send(*sent)
    assert wire.arrived(len(sent)) == sent


@pytest.mark.parametrize("cut", [0, 3, 4, 63])
def test_peer_that_hangs_up_is_reported_with_what_it_did_not_finish_q4(wire: Wire, cut: int) -> None:
    peer = StreamPeer(wire.connect())
    peer.connection.sendall(framed(frame()) + framed(frame())[:cut])
    peer.connection.close()
    assert wire.arrived(1) == [frame()]
    assert wire.event()[:3] == (wire.number, PEER_EOF, cut)


def test_frames_for_a_port_without_a_peer_are_dropped_and_counted(wire: Wire) -> None:
    wire.far.put([frame()] * 3)
    wait_until(lambda: wire.counters().drops == {PortDrop.PORT_DROP_DOWN: 3})


@pytest.mark.parametrize("size", [60, 1514, LARGE])
def test_peer_that_reads_late_gets_whole_frames_in_order_and_the_rest_is_counted_q5_g6(
    wire: Wire, size: int
) -> None:
    peer = StreamPeer(wire.connect())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fed = 0
    while not wire.counters().drops.get(PortDrop.PORT_DROP_FULL):
        fed += wire.feed([frame(size, fed + i) for i in range(16)])
    counted = wire.counters()
    assert counted.tx_frames + wire.counters().drops[PortDrop.PORT_DROP_FULL] == fed
    in_kernel = peer.connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) * 8
    assert counted.tx_bytes < BACKLOG_BYTES_MAX + in_kernel
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 16 * 1024
    assert peer.receive(counted.tx_frames) == [frame(size, i) for i in range(counted.tx_frames)]
    wire.far.put([frame(size, fed)])
    assert peer.receive(1) == [frame(size, fed)]


def test_other_ports_do_not_notice_one_that_is_not_read_q6_g6(wire: Wire) -> None:
    stuck = StreamPeer(wire.connect())
    second = StreamPort(frame_max=1514)
    number = wire.worker.add(second, wire.patch)
    ours, theirs = socket.socketpair()
    wire.worker.send(number, PEER_CONNECT, struct.pack("i", ours.detach()))
    while not wire.counters().drops.get(PortDrop.PORT_DROP_FULL):
        wire.far.put([frame(1514)] * 64)
    wire.lead(wire.far_number, number)
    wait_until(lambda: wire.far.waiting == 0)
    before = wire.worker.counters()[number].tx_frames
    sent = [frame(60, i) for i in range(500)]
    wire.far.put(sent)
    StreamPeer(theirs).receive(before)
    assert wire.worker.counters()[number].drops == {}
    stuck.connection.close()


def test_peer_that_returns_a_hundred_times_finds_its_port_with_number_and_counters_q8_k15(wire: Wire) -> None:
    for i in range(100):
        peer = StreamPeer(wire.connect())
        peer.send(frame(60, i))
        assert wire.arrived(1) == [frame(60, i)]
        wire.far.put([frame(60, i)])
        assert peer.receive(1) == [frame(60, i)]
        peer.connection.sendall(b"\0\0")  # and dies within a length
        peer.connection.close()
        assert wire.event()[:3] == (wire.number, PEER_EOF, 2)
    wait_until(lambda: (wire.counters().rx_frames, wire.counters().tx_frames) == (100, 100))


def test_peer_that_dies_while_frames_wait_for_it_leaves_none_to_the_next_q8(wire: Wire) -> None:
    peer = wire.connect()
    while not wire.counters().drops.get(PortDrop.PORT_DROP_FULL):
        wire.feed([frame(1514)] * 64)
    peer.close()
    assert wire.event().kind in (PEER_ERROR, PEER_EOF)
    following = StreamPeer(wire.connect())
    wire.far.put([frame(60, 7)])
    assert following.receive(1) == [frame(60, 7)]


def test_second_peer_is_refused_until_the_first_is_gone(wire: Wire) -> None:
    first = StreamPeer(wire.connect())
    with pytest.raises(OSError, match="already connected"):
        wire.connect()
    wire.worker.send(wire.number, PEER_DISCONNECT)
    assert first.is_disconnected()
    with pytest.raises(OSError, match="not connected"):
        wire.worker.send(wire.number, PEER_DISCONNECT)
    second = StreamPeer(wire.connect())
    second.send(frame())
    assert wire.arrived(1) == [frame()]


@pytest.mark.parametrize("payload", [b"", b"\0", struct.pack("i", -1), struct.pack("i", 1 << 30), bytes(8)])
def test_message_without_a_socket_is_refused(wire: Wire, payload: bytes) -> None:
    with pytest.raises(OSError, match=r"Invalid argument|Bad file descriptor"):
        wire.worker.send(wire.number, PEER_CONNECT, payload)
    assert StreamPeer(wire.connect()).send(frame()) is None
    assert wire.arrived(1) == [frame()]


@pytest.mark.parametrize("frame_max", [13, FRAME_BYTES_MAX + 1])
def test_frame_max_that_no_frame_has_is_refused(frame_max: int) -> None:
    with pytest.raises(ConfigError, match="frame_max"):
        StreamPort(frame_max=frame_max)
