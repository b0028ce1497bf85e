"""An interface of the host as a port, by a packet socket, between the kernel's own TCP at both ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker import Worker
from arcbox_net.dataplane.worker_views import WorkerEvent
from arcbox_net.errors import KernelError, LimitReached
from arcbox_net.host.linux.packet import MACS_MAX, open_packet
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.packet import PacketPort
from arcbox_net.ports.queues import QUEUE_LOST
from arcbox_net.ports.tap import TapPort
from tests.support.datapath import QueueLine, open_tap, transfer
from tests.support.echo import wait_for_echo
from tests.support.line import wait_for
from tests.support.netns import Namespace, requires_root

pytestmark = [pytest.mark.e2e, requires_root]

BYTES = 8 << 20
FRAME_MAX = 1514
BEFORE_JOINED = {PortDrop.PORT_DROP_NOWHERE}  # what a kernel says when its interface comes up
OUTSIDE, INSIDE = "192.0.2.1", "192.0.2.2"


class Wire:
    """A host behind a veth, whose other end a port has; and a host behind a TAP, which is the other port."""

    def __init__(self, worker: Worker, outside: Namespace, middle: Namespace, inside: Namespace) -> None:
        self.outside, self.middle, self.inside = outside, middle, inside
        middle.run(f"ip link add wire0 type veth peer name eth0 netns {outside.name}")
        middle.run("ip link set wire0 up")
        outside.run(f"ip addr add {OUTSIDE}/24 dev eth0")
        outside.run("ip link set eth0 up")
        self.line = QueueLine(worker)
        self.port = self.line.add(PacketPort(frame_max=FRAME_MAX), middle.call(lambda: open_packet("wire0")))
        self.tap = self.line.add(TapPort(frame_max=FRAME_MAX), *open_tap(inside, f"{INSIDE}/24"))
        self.line.join(self.port, self.tap)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Namespace("outside") as outside, Namespace("middle") as middle, Namespace("inside") as inside:
        with PacketPool() as pool, Worker(pool) as worker:
            yield Wire(worker, outside, middle, inside)


def test_tcp_passes_both_ways_in_super_frames(wire: Wire) -> None:
    transfer(wire.outside, wire.inside, INSIDE, BYTES)
    transfer(wire.inside, wire.outside, OUTSIDE, BYTES)
    counters = wire.line.worker.counters()[wire.port]
    assert counters.rx_bytes > BYTES
    assert counters.tx_bytes / counters.tx_frames > 2 * FRAME_MAX
    assert counters.drops.keys() <= BEFORE_JOINED


def test_what_the_host_sends_there_itself_does_not_come_in(wire: Wire) -> None:
    wire.middle.run("ip addr add 192.0.2.9/24 dev wire0")
    wait_for_echo(wire.middle, OUTSIDE)
    before = wire.line.worker.counters()[wire.port].rx_frames
    wire.middle.run(f"ping -c 20 -i 0.01 -W 2 {OUTSIDE}", check=False)
    seen = wire.line.worker.counters()[wire.port].rx_frames - before
    assert seen <= 25  # replies, and what both sides ask by ARP


def test_an_interface_that_goes_down_comes_back(wire: Wire) -> None:
    transfer(wire.inside, wire.outside, OUTSIDE, 1 << 20)
    wire.middle.run("ip link set wire0 down")
    wire.inside.run(f"ping -c 1 -W 1 {OUTSIDE}", check=False)
    drops = PortDrop.PORT_DROP_DOWN
    wait_for(lambda: wire.line.worker.counters()[wire.port].drops.get(drops, 0) > 0, "a drop")
    wire.middle.run("ip link set wire0 up")
    transfer(wire.inside, wire.outside, OUTSIDE, 1 << 20)
    transfer(wire.outside, wire.inside, INSIDE, 1 << 20)
    assert not wire.line.worker.events()


def test_an_interface_that_vanishes_is_given_up(wire: Wire) -> None:
    wire.middle.run("ip link del wire0")
    events: list[WorkerEvent] = []
    wait_for(lambda: bool(events.extend(wire.line.worker.events()) or events), "the report")
    assert [(e.number, e.kind, e.value) for e in events] == [(wire.port, QUEUE_LOST, errno.ENXIO)]


OWN, OTHER = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")
TEST_TYPE = b"\x88\xb5"
FOR_OWN = OWN + bytes(6) + TEST_TYPE + bytes(46)
FOR_OTHER = OTHER + bytes(6) + TEST_TYPE + bytes(46)
TAGGED = OWN + bytes(6) + b"\x81\x00\x00\x05" + TEST_TYPE + b"tag" + bytes(46)


@pytest.mark.parametrize(
    ("macs", "sent", "expected"),
    [
        pytest.param([OWN], [FOR_OTHER, FOR_OWN], {FOR_OWN}, id="own-addresses"),
        pytest.param([], [FOR_OTHER, FOR_OWN], {FOR_OTHER, FOR_OWN}, id="promiscuous"),
        # The kernel takes the tag off: what is left would pass for a frame of this network.
        pytest.param([], [TAGGED, FOR_OWN], {FOR_OWN}, id="vlan-tag"),
    ],
)
def test_which_frames_are_read(macs: list[bytes], sent: list[bytes], expected: set[bytes]) -> None:
    with Namespace("packet") as namespace:
        namespace.run("ip link add wire0 type veth peer name wire1")
        namespace.run("ip link set wire0 up")
        namespace.run("ip link set wire1 up")
        fd = namespace.call(lambda: open_packet("wire0", macs))
        read: list[bytes] = []
        try:
            namespace.call(lambda: _send("wire1", sent))
            wait_for(lambda: bool(read.extend(_read_all(fd)) or sent[-1] in read), "the last frame")
        finally:
            os.close(fd)
    assert {frame for frame in read if frame[12:14] == TEST_TYPE} == expected


def _send(ifname: str, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((ifname, 0))
        for frame in frames:
            link.send(frame)


def _read_all(fd: int) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(os.read(fd, 2048)[10:])
        except BlockingIOError:
            return frames


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(KernelError, match="missing0"):
        open_packet("missing0")


def test_addresses_are_bounded() -> None:
    with pytest.raises(LimitReached):
        open_packet("lo", [bytes(6)] * (MACS_MAX + 1))
