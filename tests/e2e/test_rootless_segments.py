"""TCP segments and IPv6 options that only a test makes: what the host's servers get when a guest sends them."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet6 import HBHOptUnknown, ICMPv6EchoRequest, IPv6, IPv6ExtHdrHopByHop, Jumbo, RouterAlert
from scapy.layers.l2 import Ether

from tests.support import segments
from tests.support.hand_made import MSS, HandMade, hand_made
from tests.support.machine import resident_bytes
from tests.support.netns import PATIENCE_S, Namespace, wait_until
from tests.support.peers import connect, listening
from tests.support.rootless import WORLD6, Rootless, RunningGuest
from tests.support.segments import ETHERTYPE, SYN, Segment

GATEWAY = "192.168.64.1"
L4_PORT = 9100
EXCESS = 256 << 10  # no window is as large: nothing here offers to scale it
SACK_PERMITTED = b"\4\2\1\1"


@pytest.fixture(scope="module")
def site() -> Iterator[Rootless]:
    with Rootless() as made:
        made.up()
        yield made


@pytest.fixture(scope="module")
def guest(site: Rootless) -> RunningGuest:
    return site.guest("web")


@contextlib.contextmanager
def connected(
    site: Rootless, guest: RunningGuest, src_port: int, *, isn: int = 1000, options: bytes = b""
) -> Iterator[tuple[HandMade, socket.socket]]:
    """The guest's end of a connection, by hand, and the world's."""
    syn = Segment(guest.ip, src_port, site.world_ip, L4_PORT, SYN, isn, options=options)
    with listening(site.world, L4_PORT) as listener, hand_made(guest, GATEWAY, syn) as made:
        server, _ = listener.accept()
        server.settimeout(PATIENCE_S)
        with server:
            yield made, server


def exactly(server: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (chunk := server.recv(size - len(received))):
        received += chunk
    return bytes(received)


@pytest.mark.parametrize("seed", range(4))
def test_t9_segments_in_any_order_that_overlap_and_come_twice_are_one_stream(
    site: Rootless, guest: RunningGuest, seed: int
) -> None:
    order = random.Random(seed)
    body = order.randbytes(20_000)
    starts = [*range(0, len(body), 700), *order.choices(range(len(body)), k=20)]
    pieces = [(start, order.randint(700, 1400)) for start in starts] * 2
    order.shuffle(pieces)
    with connected(site, guest, 42000 + seed, isn=2**32 - 10_000) as (made, server):
        for start, size in pieces:
            made.send(start, body[start : start + size])
        made.send(len(body), b"end")
        assert exactly(server, len(body) + 3) == body + b"end"


def test_t12_a_window_that_shrinks_loses_nothing(site: Rootless, guest: RunningGuest) -> None:
    body = random.Random(12).randbytes(40_000)
    with connected(site, guest, 42010) as (made, server):
        server.sendall(body)
        made.receive(1000, window=1000)  # the rest of what 64 000 bytes allowed is under way
        made.receive(len(body))
        assert made.received == body


def test_t13_what_a_guest_sends_beyond_our_window_costs_nothing_and_is_not_taken_twice(
    site: Rootless, guest: RunningGuest
) -> None:
    body = random.Random(13).randbytes(64 << 20)
    before = resident_bytes(site.network_pid())
    with connected(site, guest, 42020) as (made, server):

        def overran() -> bool:
            made.send_all(made.acknowledged, body[made.acknowledged : made.acknowledged + EXCESS])
            made.hear_all()
            return made.window < MSS  # what is left of it is not given back

        wait_until(overran)
        assert resident_bytes(site.network_pid()) - before < 4 << 20
        whole = body[: made.acknowledged + EXCESS]
        received = bytearray()
        server.setblocking(False)

        def drained() -> bool:
            made.send_all(made.acknowledged, whole[made.acknowledged :])
            made.hear_all()
            with contextlib.suppress(BlockingIOError):
                while True:
                    received.extend(server.recv(1 << 20))
            return len(received) >= len(whole)

        wait_until(drained)
        made.send(len(whole), b"end")
        server.settimeout(PATIENCE_S)
        assert server.recv(100) == b"end"
        assert received == whole


def test_t21_sack_blocks_that_make_no_sense_are_ignored(site: Rootless, guest: RunningGuest) -> None:
    body = random.Random(21).randbytes(40_000)
    with connected(site, guest, 42030, options=SACK_PERMITTED) as (made, server):
        server.sendall(body)
        made.receive(1000)
        edge = made.edge
        for left, right in (
            (edge(3000), edge(2000)),
            (edge(2000), edge(2000)),
            (edge(2**30), edge(2**30 + 1000)),  # nothing of it was sent
            (edge(2000), edge(2**31 + 1000)),
            (edge(2**31 + 2000), edge(5000)),
            (0xFFFFFFF0, 0x10),
        ):
            made.send(0, options=b"\1\1\5\x0a" + struct.pack("!II", left, right))
        for length in (0, 1, 2, 3, 9, 11, 255):
            made.send(0, options=struct.pack("!BBBBII", 1, 1, 5, length, edge(2000), edge(3000)))
        made.receive(len(body))
        assert made.received == body


def timestamp(value: int, echoed: int) -> bytes:
    return struct.pack("!BBBBII", 1, 1, 8, 10, value, echoed)


def timestamps_of(segment: Segment) -> tuple[int, int]:
    """The value and the echo in *segment*."""
    place = segment.options.index(b"\1\1\x08\x0a") + 4
    value, echoed = struct.unpack_from("!II", segment.options, place)
    return value, echoed


def test_t22_timestamps_are_echoed_and_an_old_one_is_not_taken(site: Rootless, guest: RunningGuest) -> None:
    first = 2**32 - 5  # it wraps on the way
    with connected(site, guest, 42040, options=timestamp(first, 0)) as (made, server):
        value, echoed = timestamps_of(made.answer)
        assert echoed == first
        made.send(0, b"first", options=timestamp(5, value))
        value, echoed = timestamps_of(made.heard(lambda got: made.acknowledged == 5))
        assert echoed == 5
        made.send(5, b"older", options=timestamp(first, value))
        made.send(5, b"newer", options=timestamp(6, value))
        assert exactly(server, 10) == b"firstnewer"


def test_t22_a_guest_without_timestamps_gets_none(site: Rootless, guest: RunningGuest) -> None:
    with connected(site, guest, 42041) as (made, server):
        made.send(0, b"hello")
        answer = made.heard(lambda got: made.acknowledged == 5)
        assert (made.answer.options[:2], len(made.answer.options), answer.options) == (b"\2\4", 4, b"")
        assert exactly(server, 5) == b"hello"


@pytest.fixture
def far(site: Rootless) -> Namespace:
    """A network behind the world, over a link of which the test may change the MTU."""
    made = site.machine.namespace("far")
    site.world.run(f"ip link add far0 type veth peer name f0 netns {made.name}")
    for where, name, address in ((site.world, "far0", 1), (made, "f0", 2)):
        where.run(f"ip addr add 198.51.100.{address}/24 dev {name}")
        where.run(f"ip link set {name} up")
    made.run("ip route add default via 198.51.100.1")
    site.world.sysctl("net.ipv4.ip_forward", 1)
    return made


def test_t30_a_path_whose_mtu_shrinks_goes_on(site: Rootless, guest: RunningGuest, far: Namespace) -> None:
    body = random.Random(30).randbytes(1 << 20)
    with (
        listening(far, L4_PORT) as listener,
        connect(guest, "198.51.100.2", L4_PORT) as client,
        listener.accept()[0] as server,
    ):
        server.settimeout(PATIENCE_S)
        client.sendall(b"before")
        assert exactly(server, 6) == b"before"
        site.world.run("ip link set far0 mtu 1000")
        sent = client.send(body)
        assert exactly(server, sent) == body[:sent]
        assert (
            "mtu 1000" in site.machine.run("ip route get 198.51.100.2").stdout
        )  # as the world told the host
        server.sendall(b"after")
        assert exactly(client, 5) == b"after"


HOP_BY_HOP = (
    [RouterAlert()],
    [RouterAlert(), RouterAlert(value=0xFFFF)],
    [Jumbo(jumboplen=70_000)],
    [Jumbo(jumboplen=100)],
    [Jumbo(jumboplen=2**32 - 1)],
    [HBHOptUnknown(otype=5, optlen=255, optdata=b"\0" * 4)],
    [HBHOptUnknown(otype=0xDE, optlen=4, optdata=b"\0" * 4)],
    [HBHOptUnknown(otype=0x9E, optlen=4, optdata=b"\0" * 4)],
)
EVERYBODY = ("ff02::1", "ff02::2")
LENGTHS: tuple[dict[str, int], ...] = ({}, {"plen": 0})  # 0 is what a jumbogram says there
TIMES = 10


def test_s3_hop_by_hop_options_start_no_storm_and_connections_go_on(
    site: Rootless, guest: RunningGuest
) -> None:
    own = guest.ip6()
    route = wait_until(lambda: guest.json("ip -j -6 route show default"))
    router = str(route[0]["gateway"])
    mac = segments.gateway_mac(guest, router)
    ethernet = bytes.fromhex(mac.replace(":", "") + guest.mac.replace(":", "")) + ETHERTYPE[6]
    pid = site.network_pid()
    with (
        listening(site.world, L4_PORT, "::") as listener,
        connect(guest, WORLD6, L4_PORT) as client,
        listener.accept()[0] as server,
        guest.call(lambda: segments.link_of("eth0")) as link,
    ):
        sent = 0
        for options, dst, length in itertools.product(HOP_BY_HOP, (router, WORLD6, *EVERYBODY), LENGTHS):
            packet = IPv6(src=own, dst=dst, **length) / IPv6ExtHdrHopByHop(options=options)
            frame = ethernet + bytes(packet / ICMPv6EchoRequest(data=b"x" * 100))
            for _ in range(TIMES):
                link.send(frame)
                sent += 1
        client.sendall(b"still here")
        server.settimeout(PATIENCE_S)
        assert exactly(server, 10) == b"still here"
        server.sendall(b"and back")
        assert exactly(client, 8) == b"and back"
        assert answers(link, own) <= sent
    assert site.network_pid() == pid


def answers(link: socket.socket, own: str) -> int:
    """How many ICMPv6 packets for *own* arrived until now, but for those of neighbour discovery."""
    link.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = Ether(link.recv(65536))
            if IPv6 in packet and packet[IPv6].dst == own and packet[IPv6].nh == socket.IPPROTO_ICMPV6:
                count += bytes(packet[IPv6].payload)[0] not in range(133, 138)
    return count
