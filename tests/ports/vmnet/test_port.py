"""A vmnet interface in a worker: packets both ways, in every size of batch, and with every refusal."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker import Worker
from arcbox_net.errors import ConfigError, NotRunning
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.vmnet.options import VmnetMode, VmnetOptions
from arcbox_net.ports.vmnet.status import VmnetStatus
from tests.support.line import DEADLINE_S, Line, wait_for
from tests.support.vmnet import Standin

BARE = bytes(12)
TYPE = b"\x88\xb5"
HEAD = bytes.fromhex("020000000002020000000001") + TYPE
STATUS = 200


def frame(number: int, size: int = 60) -> bytes:
    return HEAD + number.to_bytes(4, "big") + bytes(size - len(HEAD) - 4)


class Pair:
    """Two interfaces whose packets a worker passes on to each other; what is beyond them are sockets."""

    def __init__(self, standin: Standin, worker: Worker, *, offloads: tuple[bool, bool]) -> None:
        from arcbox_net.ports.vmnet.interface import VmnetInterface
        from arcbox_net.ports.vmnet.port import VmnetPort

        self.line = Line(worker)
        self.interfaces, self.ends, self.numbers = [], [], []
        for wanted in offloads:
            interface = VmnetInterface(VmnetOptions(VmnetMode.SHARED, offloads=wanted))
            self.interfaces.append(interface)
            end = standin.far_end()
            end.settimeout(DEADLINE_S)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self.ends.append(end)
            self.numbers.append(self.line.add(VmnetPort(interface)))
        self.line.join(*self.numbers)

    def drops(self, index: int) -> dict[PortDrop, int]:
        return self.line.worker.counters()[self.numbers[index]].drops

    def close(self) -> None:
        for number in self.numbers:
            self.line.worker.remove(number)
        for interface, end in zip(self.interfaces, self.ends, strict=True):
            interface.stop()
            end.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with PacketPool() as pool, Worker(pool) as worker:
        yield worker


@pytest.fixture
def pair(standin: Standin, worker: Worker) -> Iterator[Pair]:
    pair = Pair(standin, worker, offloads=(True, True))
    yield pair
    pair.close()


@pytest.fixture
def bare(standin: Standin, worker: Worker) -> Iterator[Pair]:
    """The first has headers, the second has not."""
    pair = Pair(standin, worker, offloads=(True, False))
    yield pair
    pair.close()


def exchange(sender: socket.socket, receiver: socket.socket, count: int, header: bytes = BARE) -> None:
    """*count* frames arrive in order, none twice; no more than a few at a time are under way."""
    for first in range(0, count, 16):
        numbers = range(first, min(first + 16, count))
        for number in numbers:
            sender.send(header + frame(number))
        for number in numbers:
            assert receiver.recv(1 << 16)[-60:] == frame(number)


def test_frames_pass_both_ways_in_order(pair: Pair) -> None:
    exchange(pair.ends[0], pair.ends[1], 1000)
    exchange(pair.ends[1], pair.ends[0], 1000)
    counters = pair.line.worker.counters
    wait_for(lambda: all(counters()[n][:4:2] == (1000, 1000) for n in pair.numbers), "what is counted")
    assert not pair.drops(0) and not pair.drops(1)


def test_packets_that_came_before_the_port_was_there_are_not_lost(standin: Standin, worker: Worker) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetInterface
    from arcbox_net.ports.vmnet.port import VmnetPort

    line = Line(worker)
    with VmnetInterface(VmnetOptions(VmnetMode.SHARED)) as interface:
        with standin.far_end() as end:
            end.send(BARE + frame(1))
            number = line.add(VmnetPort(interface))
            wait_for(lambda: worker.counters()[number].rx_frames == 1, "the packet")
        worker.remove(number)


@pytest.mark.parametrize("packets", [1, 2, 7])
def test_short_batches_lose_nothing(standin: Standin, pair: Pair, packets: int) -> None:
    standin.short(packets)
    exchange(pair.ends[0], pair.ends[1], 200)


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_no_more_packets_are_passed_than_the_interface_takes(
    standin: Standin, worker: Worker, limit: int
) -> None:
    standin.limits(read_max=limit, write_max=limit)
    pair = Pair(standin, worker, offloads=(True, True))
    try:
        exchange(pair.ends[0], pair.ends[1], 200)
        assert not pair.drops(1) and not worker.events()
    finally:
        pair.close()


def test_a_limit_that_was_not_said_is_found(standin: Standin, pair: Pair) -> None:
    standin.limits(read_max=64, write_max=5)  # after the start, which said 256
    for number in range(16):
        pair.ends[0].send(BARE + frame(number))
    assert [pair.ends[1].recv(1 << 16)[12:] for _ in range(16)] == [frame(n) for n in range(16)]
    assert not pair.drops(1)


def tcp_super_frame(payload: int) -> tuple[bytes, bytes]:
    """A header and an IPv4 TCP frame of *payload* bytes, its checksum left to be completed."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + payload, 1, 0x4000, 64, 6, 0, bytes(4), bytes(4))
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 1000, 0, 0)
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1460, 34, 16, 0)
    return header, HEAD[:12] + b"\x08\x00" + ip + tcp + bytes(payload)


def test_super_frames_pass_as_they_are_between_interfaces_that_take_them(pair: Pair) -> None:
    header, content = tcp_super_frame(14600)
    pair.ends[0].send(header + content)
    assert pair.ends[1].recv(1 << 17) == header + content


def test_a_burst_of_more_bytes_than_one_call_takes_is_written_in_several(pair: Pair) -> None:
    sender, receiver = pair.ends
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    header, content = tcp_super_frame(54_000)
    with pair.line.worker.paused():
        for _ in range(5):  # 270 kB
            sender.send(header + content)
    for _ in range(5):
        assert receiver.recv(1 << 17) == header + content
    assert not pair.drops(1)


def test_super_frames_are_cut_for_an_interface_without_headers(bare: Pair) -> None:
    header, content = tcp_super_frame(14600)
    bare.ends[0].send(header + content)
    segments = [bare.ends[1].recv(1 << 17) for _ in range(10)]
    assert {len(segment) for segment in segments} == {54 + 1460}
    assert [int.from_bytes(segment[38:42], "big") for segment in segments] == [1460 * i for i in range(10)]
    assert all(segment[50:52] != bytes(2) for segment in segments), "checksums are completed"


def test_bare_frames_get_a_header_of_zeros(bare: Pair) -> None:
    bare.ends[1].send(frame(5))
    assert bare.ends[0].recv(1 << 16) == BARE + frame(5)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(BARE[:11], PortDrop.PORT_DROP_SHORT, id="less-than-a-header"),
        pytest.param(BARE + bytes(13), PortDrop.PORT_DROP_SHORT, id="less-than-ethernet"),
        pytest.param(b"\1\0" + b"\xff" * 10 + frame(1), PortDrop.PORT_DROP_OFFLOAD, id="checksum-outside"),
        pytest.param(b"\0\7" + bytes(10) + frame(1), PortDrop.PORT_DROP_OFFLOAD, id="unknown-offload"),
    ],
)
def test_packets_that_are_no_frames_are_dropped_and_counted(
    pair: Pair, packet: bytes, reason: PortDrop
) -> None:
    pair.ends[0].send(packet)
    wait_for(lambda: pair.drops(0) == {reason: 1}, "the drop")
    exchange(pair.ends[0], pair.ends[1], 3)


def test_a_full_interface_drops_and_goes_on(pair: Pair) -> None:
    sent = 0
    pair.ends[0].setblocking(False)

    def is_full() -> bool:
        nonlocal sent
        try:
            while True:
                pair.ends[0].send(BARE + frame(sent, 1500))
                sent += 1
        except BlockingIOError:
            return pair.drops(1).get(PortDrop.PORT_DROP_FULL, 0) > 0

    wait_for(is_full, "a drop")

    def passed_on() -> int:
        return pair.line.worker.counters()[pair.numbers[1]].tx_frames

    wait_for(lambda: passed_on() + pair.drops(1).get(PortDrop.PORT_DROP_FULL, 0) == sent, "what was sent")
    assert pair.drops(1).keys() == {PortDrop.PORT_DROP_FULL}
    for _ in range(passed_on()):
        pair.ends[1].recv(1 << 16)
    pair.ends[0].settimeout(DEADLINE_S)
    exchange(pair.ends[0], pair.ends[1], 3)


def test_a_packet_that_is_too_large_is_dropped_alone(standin: Standin, pair: Pair) -> None:
    standin.limits(max_packet_bytes=0)
    standin.fail("vmnet_write", VmnetStatus.PACKET_TOO_BIG)
    pair.ends[0].send(BARE + frame(1))
    wait_for(lambda: pair.drops(1) == {PortDrop.PORT_DROP_TOO_BIG: 1}, "the drop")
    exchange(pair.ends[0], pair.ends[1], 3)


def reports(worker: Worker) -> list[tuple[int, int, int]]:
    return [(event.number, event.kind, event.value) for event in worker.events()]


def test_a_write_that_fails_is_counted_and_reported_once(standin: Standin, pair: Pair) -> None:
    standin.fail("vmnet_write", VmnetStatus.FAILURE, times=3)
    for number in range(3):
        pair.ends[0].send(BARE + frame(number))
        wait_for(lambda n=number: pair.drops(1) == {PortDrop.PORT_DROP_KERNEL: n + 1}, "the drop")
    exchange(pair.ends[0], pair.ends[1], 3)
    assert reports(pair.line.worker) == [(pair.numbers[1], STATUS, VmnetStatus.FAILURE)]


def test_a_read_that_fails_is_reported_and_the_next_signal_reads_again(standin: Standin, pair: Pair) -> None:
    standin.fail("vmnet_read", VmnetStatus.SETUP_INCOMPLETE)
    pair.ends[0].send(BARE + frame(0))
    found: list[Any] = []
    wait_for(lambda: bool(found.extend(reports(pair.line.worker)) or found), "the report")
    assert found == [(pair.numbers[0], STATUS, VmnetStatus.SETUP_INCOMPLETE)]
    pair.ends[0].send(BARE + frame(1))
    assert [pair.ends[1].recv(1 << 16)[12:] for _ in range(2)] == [frame(0), frame(1)]


def test_interfaces_come_and_go_under_load(standin: Standin, worker: Worker) -> None:
    for _ in range(20):
        pair = Pair(standin, worker, offloads=(True, False))
        pair.ends[0].setblocking(False)
        for number in range(50):
            pair.ends[0].send(BARE + frame(number))
        pair.close()
    assert standin.running == 0
    assert not worker.counters()


def test_a_stopped_interface_has_no_port(standin: Standin) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetInterface
    from arcbox_net.ports.vmnet.port import VmnetPort

    interface = VmnetInterface(VmnetOptions(VmnetMode.SHARED, subnet=ipaddress.IPv4Network("10.0.0.0/24")))
    interface.stop()
    with pytest.raises(NotRunning):
        VmnetPort(interface)


@pytest.mark.parametrize("size", [14, 256 * 1024 + 1])
def test_sizes_that_cannot_be_are_refused(standin: Standin, size: int) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetInterface
    from arcbox_net.ports.vmnet.port import VmnetPort

    standin.limits(max_packet_bytes=size)
    with VmnetInterface(VmnetOptions(VmnetMode.SHARED)) as interface, pytest.raises(ConfigError):
        VmnetPort(interface)
