"""The packets that datagrams become on their way to a guest, as they are written to a TUN."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, defragment6
from scapy.packet import Packet

from arcbox_net.relay._testing_datagram import write
from arcbox_net.relay.egress import DATAGRAM_COUNTERS

VIRTIO_BYTES = 12
NEEDS_CSUM, GSO_UDP_L4 = 1, 5
ADDRESSES = {4: ("192.0.2.2", "198.51.100.1"), 6: ("fd00::2", "2001:db8::1")}
versions = pytest.mark.parametrize("version", [4, 6])


class Tun:
    """Takes whole packets, as a TUN does."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._theirs.setblocking(False)

    def frames(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._theirs.recv(1 << 17)
            except BlockingIOError:
                return

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


@pytest.fixture
def tun() -> Iterator[Tun]:
    made = Tun()
    yield made
    made.close()


def packed(address: str) -> bytes:
    raw = ipaddress.ip_address(address).packed
    return raw if len(raw) == 16 else bytes(10) + b"\xff\xff" + raw


def sent(
    tun: Tun, version: int, pieces: list[bytes], segment: int, *, mtu: int = 1500, refused: bool = False
) -> tuple[list[tuple[tuple[int, ...], Packet]], dict[str, int]]:
    """(virtio_net_hdr, packet) of what is written, and what is counted."""
    guest, peer = ADDRESSES[version]
    counts, _ = write(
        tun.ours.fileno(), packed(guest), packed(peer), (4000, 53), pieces, segment, mtu, refused
    )
    found = []
    for frame in tun.frames():
        header = struct.unpack("=BBHHHHH", frame[:VIRTIO_BYTES])
        found.append((header, (IP if version == 4 else IPv6)(frame[VIRTIO_BYTES:])))
    return found, dict(zip(DATAGRAM_COUNTERS, counts, strict=True))


def checksum_left_to_do(header: tuple[int, ...], packet: Packet) -> int:
    """What the UDP checksum will be once the rest that NEEDS_CSUM asks for is added."""
    raw = bytes(packet)[header[4] :]
    raw += b"\0" * (len(raw) % 2)
    total = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@versions
@pytest.mark.parametrize("size", [0, 1, 512, 1232])
def test_a_datagram_is_a_packet_of_its_own(tun: Tun, version: int, size: int) -> None:
    payload = os.urandom(size)
    [(header, packet)], counts = sent(tun, version, [payload], size)
    assert header[:2] == (NEEDS_CSUM, 0)
    assert bytes(packet[UDP].payload) == payload
    assert (packet.src, packet.dst) == ADDRESSES[version][::-1]
    assert (packet[UDP].sport, packet[UDP].dport, packet[UDP].len) == (53, 4000, 8 + size)
    wanted = packet.copy()
    del wanted[UDP].chksum
    assert type(packet)(bytes(wanted))[UDP].chksum == checksum_left_to_do(header, packet)
    assert (counts["udp_in"], counts["udp_bytes_in"]) == (1, size)


@versions
def test_many_of_one_size_are_a_super_frame(tun: Tun, version: int) -> None:
    pieces = [bytes([n]) * 1000 for n in range(63)] + [b"shorter"]
    [(header, packet)], counts = sent(tun, version, pieces, 1000)
    assert header[1:4] == (GSO_UDP_L4, (20 if version == 4 else 40) + 8, 1000)
    assert bytes(packet[UDP].payload) == b"".join(pieces)
    assert counts["udp_in"] == 64


@versions
def test_where_super_frames_are_refused_each_datagram_is_a_packet(tun: Tun, version: int) -> None:
    pieces = [bytes(1000), bytes(range(250)) * 2, b"x" * 300]  # the first came as one, of two
    found, counts = sent(tun, version, pieces, 500, refused=True)
    assert b"".join(bytes(packet[UDP].payload) for _, packet in found) == b"".join(pieces)
    assert [len(packet[UDP].payload) for _, packet in found] == [500, 500, 500, 300]
    for header, packet in found:
        assert header[:2] == (0, 0)
        wanted = packet.copy()
        del wanted[UDP].chksum
        assert type(packet)(bytes(wanted))[UDP].chksum == packet[UDP].chksum
    assert counts["udp_in"] == 4


def test_ipv4_beyond_the_mtu_is_left_to_the_kernel_which_may_fragment_it(tun: Tun) -> None:
    [(_, small), *_], _ = sent(tun, 4, [bytes(1472)], 1472)
    assert (small.flags, small.id) == ("DF", 0)
    [(_, large)], _ = sent(tun, 4, [bytes(1473)], 1473)
    assert large.flags == 0


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1233, 65527), mtu=st.integers(1280, 1600))
def test_ipv6_beyond_the_mtu_is_fragmented_by_us(size: int, mtu: int) -> None:
    tun = Tun()
    try:
        payload = os.urandom(size)
        found, counts = sent(tun, 6, [payload], size, mtu=mtu)
    finally:
        tun.close()
    packets = [packet for _, packet in found]
    assert all(len(packet) <= mtu for packet in packets)
    if size + 48 <= mtu:
        assert len(packets) == 1
        return
    assert all(IPv6ExtHdrFragment in packet for packet in packets)
    whole = IPv6(bytes(defragment6(packets)))
    assert bytes(whole[UDP].payload) == payload
    checksum = whole[UDP].chksum
    del whole[UDP].chksum
    assert IPv6(bytes(whole))[UDP].chksum == checksum
    assert counts["udp_in"] == 1


def test_a_packet_that_the_tun_does_not_take_is_counted(tun: Tun) -> None:
    tun.close()
    read_only = os.open("/dev/null", os.O_RDONLY)
    try:
        guest, peer = (packed(address) for address in ADDRESSES[4])
        counts, refused = write(read_only, guest, peer, (1, 2), [bytes(100)] * 3, 100, 1500)
    finally:
        os.close(read_only)
    assert dict(zip(DATAGRAM_COUNTERS, counts, strict=True))["udp_drop_tun"] == 3
    assert not refused
