"""TAPs as ports, with the kernel's own TCP at both ends to judge what passes."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from arcbox_net.dataplane.port import Port, PortDrop
from arcbox_net.dataplane.worker import Worker
from arcbox_net.dataplane.worker_views import WorkerEvent
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.queues import QUEUE_LOST
from arcbox_net.ports.socket_port import PEER_CONNECT
from arcbox_net.ports.stream import StreamPort
from arcbox_net.ports.tap import TapPort
from tests.support.datapath import QueueLine, checksum_errors, open_tap, transfer, two_hosts
from tests.support.line import DEADLINE_S, wait_for
from tests.support.netns import Namespace, requires_root

pytestmark = [pytest.mark.e2e, requires_root]

BYTES = 8 << 20
FRAME_MAX = 1514
BEFORE_JOINED = {PortDrop.PORT_DROP_NOWHERE}  # what a kernel says when its interface comes up
ADDRESSES = {"ipv4": ("192.0.2.1", "192.0.2.2", 24), "ipv6": ("fd00:db8::1", "fd00:db8::2", 64)}


@pytest.fixture
def line() -> Iterator[QueueLine]:
    with PacketPool() as pool, Worker(pool) as worker:
        yield QueueLine(worker)


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts() as both:
        yield both


@pytest.mark.parametrize("version", ADDRESSES)
def test_tcp_passes_in_super_frames(
    line: QueueLine, hosts: tuple[Namespace, Namespace], version: str
) -> None:
    client, server = hosts
    one, other, prefix = ADDRESSES[version]
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}"))
    b = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(server, f"{other}/{prefix}"))
    line.join(a, b)
    transfer(client, server, other, BYTES)
    sent = line.worker.counters()[b]
    assert sent.tx_bytes > BYTES
    assert sent.tx_bytes / sent.tx_frames > 2 * FRAME_MAX
    assert sent.drops.keys() <= BEFORE_JOINED


@pytest.mark.parametrize("version", ADDRESSES)
def test_the_kernel_finds_no_fault_with_segments(
    line: QueueLine, hosts: tuple[Namespace, Namespace], version: str
) -> None:
    client, server = hosts
    one, other, prefix = ADDRESSES[version]
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}"))
    b = line.add(TapPort(frame_max=FRAME_MAX, offloads=False), *open_tap(server, f"{other}/{prefix}"))
    line.join(a, b)
    transfer(client, server, other, BYTES)
    counters = line.worker.counters()
    assert counters[a].rx_bytes / counters[a].rx_frames > 2 * FRAME_MAX
    assert counters[b].tx_frames > BYTES // FRAME_MAX
    assert counters[b].drops.keys() <= BEFORE_JOINED
    assert checksum_errors(server) == 0


def test_segments_of_a_stream_are_joined_for_a_tap(
    line: QueueLine, hosts: tuple[Namespace, Namespace]
) -> None:
    """From a TAP over a socket without offloads to another TAP: cut on the way in, joined on the way out."""
    client, server = hosts
    one, other, prefix = ADDRESSES["ipv4"]
    taps = [
        line.add(TapPort(frame_max=FRAME_MAX), *open_tap(host, f"{address}/{prefix}"))
        for host, address in ((client, one), (server, other))
    ]
    streams = []
    for end in socket.socketpair():
        streams.append(line.add(StreamPort(frame_max=FRAME_MAX)))
        line.worker.send(streams[-1], PEER_CONNECT, struct.pack("i", end.detach()))
    for tap, stream in zip(taps, streams, strict=True):
        line.join(tap, stream)
    transfer(client, server, other, BYTES)
    counters = line.worker.counters()
    assert counters[streams[0]].tx_frames > BYTES // FRAME_MAX
    assert counters[taps[1]].tx_bytes / counters[taps[1]].tx_frames > 2 * FRAME_MAX
    assert checksum_errors(server) == 0


@pytest.mark.parametrize("version", ADDRESSES)
def test_datagrams_of_a_burst_are_joined_and_the_kernel_gets_each_of_them(
    line: QueueLine, hosts: tuple[Namespace, Namespace], version: str
) -> None:
    client, server = hosts
    one, other, prefix = ADDRESSES[version]
    family = socket.AF_INET6 if version == "ipv6" else socket.AF_INET
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}"))
    b = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(server, f"{other}/{prefix}"))
    line.join(a, b)
    sent = [f"{i:04}".encode() * 100 for i in range(40)]
    with (
        server.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver,
        client.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.bind((other, 5000))
        receiver.settimeout(DEADLINE_S)
        sender.connect((other, 5000))
        sender.send(b"first")  # and the neighbour is known
        assert receiver.recv(2048) == b"first"
        before = line.worker.counters()[b].tx_frames
        with line.worker.paused():
            for datagram in sent:
                sender.send(datagram)
        assert [receiver.recv(2048) for _ in sent] == sent
    assert line.worker.counters()[b].tx_frames - before < len(sent) // 2


def test_two_queues_are_read_and_written(line: QueueLine, hosts: tuple[Namespace, Namespace]) -> None:
    client, server = hosts
    one, other, prefix = ADDRESSES["ipv4"]
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}", queues=2))
    b = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(server, f"{other}/{prefix}", queues=2))
    line.join(a, b)
    transfer(client, server, other, BYTES)
    transfer(server, client, one, BYTES)


def test_q9_a_tap_that_vanishes_is_given_up_and_may_come_back(
    line: QueueLine, hosts: tuple[Namespace, Namespace]
) -> None:
    """Epoll would report the error for ever."""
    client, server = hosts
    one, other, prefix = ADDRESSES["ipv4"]
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}"))
    b = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(server, f"{other}/{prefix}"))
    line.join(a, b)
    server.run("ip link del tap0")
    events: list[WorkerEvent] = []
    wait_for(lambda: bool(events.extend(line.worker.events()) or events), "the report")
    assert [(e.number, e.kind, e.value) for e in events] == [(b, QUEUE_LOST, errno.EBADFD)]
    client.run("ping -c 1 -W 1 192.0.2.2", check=False)
    wait_for(lambda: line.worker.counters()[b].drops.get(PortDrop.PORT_DROP_DOWN, 0) > 0, "a drop")
    for fd in open_tap(server, f"{other}/{prefix}"):
        line.give(b, fd)
    transfer(client, server, other, 1 << 20)


def test_q9_frames_for_a_tap_that_is_down_are_dropped(
    line: QueueLine, hosts: tuple[Namespace, Namespace]
) -> None:
    client, server = hosts
    one, other, prefix = ADDRESSES["ipv4"]
    a = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(client, f"{one}/{prefix}"))
    b = line.add(TapPort(frame_max=FRAME_MAX), *open_tap(server, f"{other}/{prefix}"))
    line.join(a, b)
    server.run("ip link set tap0 down")
    client.run("ping -c 1 -W 1 192.0.2.2", check=False)
    wait_for(lambda: line.worker.counters()[b].drops.get(PortDrop.PORT_DROP_DOWN, 0) > 0, "a drop")
    server.run("ip link set tap0 up")
    transfer(client, server, other, 1 << 20)
    assert not line.worker.events()


def test_a_port_takes_so_many_queues_and_no_more(line: QueueLine, hosts: tuple[Namespace, Namespace]) -> None:
    fds = open_tap(hosts[0], "192.0.2.1/24", queues=17)
    number = line.add(TapPort(), *fds[:16])
    with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"):
        line.give(number, fds[16])


def test_other_messages_are_refused(line: QueueLine) -> None:
    port: Port = TapPort()
    number = line.add(port)
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
        line.worker.send(number, 299, b"")
