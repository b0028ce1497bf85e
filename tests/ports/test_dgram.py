"""A datagram port in a worker, and its peer: sizes, a queue that is full, loss and return of the peer (Q7, Q8)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.errors import ConfigError
from arcbox_net.ports.dgram import DgramPort
from arcbox_net.ports.socket_port import PEER_ERROR
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.sockets import Wire, frame

FRAME_BYTES_MAX = 65_550
LARGE = 65_534


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire(DgramPort(frame_max=FRAME_BYTES_MAX), frame_max=FRAME_BYTES_MAX) as made:
        yield made


def connect(wire: Wire) -> socket.socket:
    peer = wire.connect(socket.SOCK_DGRAM)
    peer.settimeout(PATIENCE_S)
    return peer


def receive(peer: socket.socket, count: int) -> list[bytes]:
    return [peer.recv(1 << 17) for _ in range(count)]


def test_frames_of_all_sizes_cross_both_ways_and_stay_whole(wire: Wire) -> None:
    peer = connect(wire)
    sent = [frame(size, i) for i, size in enumerate([14, 60, 256, 257, 1514, 9000, LARGE, FRAME_BYTES_MAX])]
    for one in sent:
        peer.send(one)
    assert wire.arrived(len(sent)) == sent
    wire.far.put(sent)
    assert receive(peer, len(sent)) == sent
    wait_until(lambda: wire.counters()[:4] == (len(sent), sum(map(len, sent))) * 2)


def test_datagrams_that_are_no_frames_are_dropped_and_the_next_arrives() -> None:
    with Wire(DgramPort(frame_max=1514)) as wire:
        peer = connect(wire)
        for size in (0, 4, 13, 1515, LARGE, 1514):
            peer.send(frame(size))
        assert wire.arrived(1) == [frame(1514)]
        wait_until(lambda: wire.counters().drops == {PortDrop.PORT_DROP_SHORT: 3, PortDrop.PORT_DROP_LONG: 2})


@pytest.mark.parametrize("size", [60, LARGE])
def test_peer_whose_queue_is_full_keeps_its_port_and_gets_whole_frames_in_order_q7_g6(
    wire: Wire, size: int
) -> None:
    peer = connect(wire)
    fed = 0
    while not wire.counters().drops.get(PortDrop.PORT_DROP_FULL):
        fed += wire.feed([frame(size, fed + i) for i in range(16)])
    counted = wire.counters()
    assert counted.tx_frames + wire.counters().drops[PortDrop.PORT_DROP_FULL] == fed
    assert receive(peer, counted.tx_frames) == [frame(size, i) for i in range(counted.tx_frames)]
    wire.far.put([frame(size, fed)])
    assert receive(peer, 1) == [frame(size, fed)]


def test_frame_that_the_kernel_does_not_send_for_its_size_is_dropped_and_the_next_sent_q7(wire: Wire) -> None:
    ours, theirs = udp_pair()
    with theirs:
        wire.hand_over(ours)
        wire.far.put([frame(FRAME_BYTES_MAX), frame(60, 1)])  # UDP carries 65,507 bytes
        assert receive(theirs, 1) == [frame(60, 1)]
        wait_until(lambda: wire.counters().drops == {PortDrop.PORT_DROP_KERNEL: 1})


def test_peer_that_is_gone_is_reported_and_the_next_finds_the_port_q8_k15(wire: Wire) -> None:
    for i in range(100):
        peer = connect(wire)
        peer.send(frame(60, i))
        assert wire.arrived(1) == [frame(60, i)]
        wire.far.put([frame(60, i)])
        assert receive(peer, 1) == [frame(60, i)]
        peer.close()
        wire.far.put([frame()])
        assert wire.event()[:2] == (wire.number, PEER_ERROR)
    wait_until(lambda: (wire.counters().rx_frames, wire.counters().tx_frames) == (100, 100))


@pytest.mark.parametrize("frame_max", [13, FRAME_BYTES_MAX + 1])
def test_frame_max_that_no_frame_has_is_refused(frame_max: int) -> None:
    with pytest.raises(ConfigError, match="frame_max"):
        DgramPort(frame_max=frame_max)


def udp_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for one in (ours, theirs):
        one.bind(("127.0.0.1", 0))
        one.settimeout(PATIENCE_S)
    ours.connect(theirs.getsockname())
    return ours, theirs
