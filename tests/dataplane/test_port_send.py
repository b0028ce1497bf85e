"""What reaches a port: frames that fit as they are, checksums completed in place, and nothing that a header forged."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IPOption_NOP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from arcbox_net.dataplane._testing_offload import CSUM, LARGE, TSO4, NotingPort
from arcbox_net.dataplane.port import PortDrop
from tests.support.offload import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    VNET_BYTES,
    data_of,
    partial,
    payload,
    places,
    plain,
    read,
    super_tcp,
    tcp,
    udp,
)


def dropped(port: NotingPort) -> dict[str, int]:
    return {PortDrop(reason).name: count for reason, count in port.drops.items()}


def test_a_frame_that_fits_goes_on_as_it_is() -> None:
    frames = [plain(tcp(b"x")), plain(udp(b"y")), plain(Ether() / ARP())]
    assert NotingPort().send(frames) == frames


def test_a_port_that_is_down_drops() -> None:
    port = NotingPort(up=False)
    assert port.send([plain(tcp(b"x"))] * 3) == []
    assert dropped(port) == {"PORT_DROP_DOWN": 3}


def test_more_than_a_burst_goes_in_order() -> None:
    frames = [plain(udp(payload(4) + bytes([i]))) for i in range(150)]
    assert NotingPort(takes=TSO4 | CSUM).send(frames) == frames


@pytest.mark.parametrize(("size", "reason"), [(13, "SHORT"), (14, None), (1514, None), (1515, "TOO_BIG")])
def test_sizes_at_the_limits(size: int, reason: str | None) -> None:
    port = NotingPort(frame_max=1514)
    assert len(port.send([bytes(VNET_BYTES + size)])) == (reason is None)
    assert dropped(port) == ({f"PORT_DROP_{reason}": 1} if reason else {})


@pytest.mark.parametrize(("mss", "passes"), [(MSS_FITS := 1514 - 66, True), (MSS_FITS + 1, False)])
@pytest.mark.parametrize("takes", [0, CSUM | TSO4])
def test_segments_have_to_fit_the_port(takes: int, mss: int, passes: bool) -> None:
    port = NotingPort(takes=takes, frame_max=1514)
    assert bool(port.send([super_tcp(payload(5000), mss)])) == passes
    assert dropped(port) == ({} if passes else {"PORT_DROP_TOO_BIG": 1})


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_a_super_frame_of_tcp_that_a_large_mtu_holds_is_one_packet(v6: bool) -> None:
    super_frame = super_tcp(payload(5000), 1400, v6=v6)
    size = len(super_frame) - VNET_BYTES
    [whole] = NotingPort(takes=LARGE, frame_max=size).send([super_frame])
    assert whole[:VNET_BYTES] == bytes(VNET_BYTES) and data_of(read(whole)) == payload(5000)
    assert len(NotingPort(takes=LARGE, frame_max=size - 1).send([super_frame])) == 4
    assert len(NotingPort(frame_max=size).send([super_frame])) == 4


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", [tcp, udp])
@pytest.mark.parametrize("size", [1, 2, 999, 1400])
@pytest.mark.parametrize(("head", "piece"), [(0, 0), (128, 33), (257, 500)])
def test_a_checksum_is_completed(
    kind: Callable[..., Packet], v6: bool, size: int, head: int, piece: int
) -> None:
    packet = kind(payload(size), v6=v6)
    [frame] = NotingPort().send([partial(packet)], head=head, piece=piece)
    assert data_of(read(frame)) == payload(size)


def test_a_checksum_is_left_to_a_port_that_takes_it() -> None:
    frame = partial(tcp(b"x"))
    assert NotingPort(takes=CSUM).send([frame]) == [frame]


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    packet = udp(b"\0\0")
    checksum = bytes(packet)[places(packet)[0] + 6 :][:2]
    packet = udp(checksum)  # adds what was missing to all ones
    [frame] = NotingPort().send([partial(packet)])
    at = VNET_BYTES + places(packet)[0] + 6
    assert frame[at : at + 2] == b"\xff\xff"


def test_padding_behind_a_packet_is_not_in_its_checksum() -> None:
    [frame] = NotingPort().send([partial(tcp(b"x")) + b"\xff" * 9])
    assert read(frame[:-9])


def test_ip_options_and_extension_headers_are_walked() -> None:
    port = NotingPort()
    options = tcp(payload(99), ip={"options": [IPOption_NOP()] * 8})
    extension = udp(payload(99), v6=True)
    extension[1].payload = IPv6ExtHdrDestOpt() / extension[1].payload
    frames = port.send([partial(options), partial(Ether(bytes(extension)))])
    assert [data_of(read(frame)) for frame in frames] == [payload(99)] * 2


def _fragment(v6: bool) -> Packet:
    if not v6:
        return tcp(payload(99), ip={"flags": "MF"})
    packet = udp(payload(99), v6=True)
    packet[1].payload = IPv6ExtHdrFragment() / packet[1].payload
    return Ether(bytes(packet))


def _tagged() -> bytes:
    packet = tcp(b"x")
    packet.payload = Dot1Q(vlan=1) / packet.payload
    return partial(packet)


_L4 = 34
_TCP = tcp(payload(3000))
FORGED = [
    pytest.param(partial(tcp(b"x"), csum_start=0, csum_offset=6), id="checksum-into-the-source-mac"),
    pytest.param(partial(tcp(b"x"), csum_start=26, csum_offset=0), id="checksum-into-the-source-ip"),
    pytest.param(partial(udp(b"x"), csum_offset=0), id="checksum-into-the-source-l4-port"),
    pytest.param(partial(tcp(b"x"), csum_start=_L4 + 2, csum_offset=14), id="the-field-from-elsewhere"),
    pytest.param(partial(tcp(b"x" * 40), csum_start=_L4 + 20), id="checksum-into-payload"),
    pytest.param(partial(udp(b"x"), csum_offset=16), id="tcp-field-of-udp"),
    pytest.param(partial(_fragment(v6=False)), id="fragment"),
    pytest.param(partial(_fragment(v6=True)), id="fragment-ipv6"),
    pytest.param(_tagged(), id="vlan-tag"),
    pytest.param(partial(_TCP, GSO_TCPV6, 1448), id="tcpv6-of-ipv4"),
    pytest.param(partial(_TCP, GSO_UDP, 1448), id="udp-of-tcp"),
    pytest.param(partial(udp(payload(3000)), GSO_TCPV4, 1448), id="tcp-of-udp"),
    pytest.param(partial(tcp(payload(3000), flags="S"), GSO_TCPV4, 1448), id="syn-in-segments"),
    pytest.param(partial(tcp(payload(3000), flags="RA"), GSO_TCPV4, 1448), id="rst-in-segments"),
    pytest.param(partial(tcp(payload(600)), GSO_TCPV4 | GSO_ECN, 1), id="a-segment-a-byte"),
    pytest.param(partial(tcp(b"x", ip={"len": 2000})), id="total-length-beyond"),
    pytest.param(partial(tcp(b"x", ip={"len": 30})), id="total-length-within-headers"),
    pytest.param(partial(tcp(b"x", ip={"ihl": 4})), id="ihl-4"),
    pytest.param(partial(tcp(b"x", ip={"ihl": 15})), id="ihl-15"),
    pytest.param(partial(tcp(b"x", dataofs=4)), id="data-offset-4"),
    pytest.param(partial(tcp(b"x", dataofs=15)), id="data-offset-15"),
    pytest.param(partial(tcp(b"x", v6=True, ip={"plen": 2000})), id="payload-length-beyond"),
    pytest.param(partial(tcp(b"x", v6=True, ip={"nh": 0})), id="hop-by-hop-that-is-none"),
    pytest.param(partial(tcp(b"x"))[: VNET_BYTES + 33], id="cut-off-in-ip"),
    pytest.param(partial(tcp(b"x"))[: VNET_BYTES + 14], id="cut-off-behind-ethernet"),
    pytest.param(partial(tcp(b"x"))[: VNET_BYTES + 40], id="cut-off-in-tcp"),
]


@pytest.mark.parametrize("frame", FORGED)
def test_a_forged_header_is_dropped(frame: bytes) -> None:
    port = NotingPort()
    assert port.send([frame]) == []
    assert dropped(port) == {"PORT_DROP_OFFLOAD": 1}


@pytest.mark.parametrize(
    "frame", [p for p in FORGED if "in-segments" not in str(p.id) and "a-byte" not in str(p.id)]
)
def test_a_forged_header_is_dropped_even_if_the_port_takes_offloads(frame: bytes) -> None:
    port = NotingPort(takes=31, frame_max=65550)
    assert port.send([frame]) == []
    assert dropped(port) == {"PORT_DROP_OFFLOAD": 1}


@settings(max_examples=300, deadline=None)
@given(
    frame=st.sampled_from(
        [tcp(payload(3000)), tcp(payload(3000), v6=True), udp(payload(3000)), udp(payload(3000), v6=True)]
    ),
    changes=st.lists(st.tuples(st.integers(12, 95), st.integers(0, 255)), max_size=4),
    header=st.tuples(
        st.sampled_from([0, 1, 2, 3]),
        st.sampled_from([0, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_TCPV4 | GSO_ECN]),
        st.sampled_from([34, 54, 0, 14, 3034]),
        st.sampled_from([6, 16, 0, 2000]),
        st.sampled_from([1, 7, 100, 1448, 65535]),
    ),
    size=st.sampled_from([14, 33, 34, 53, 54, 73, 74, 100, 3000]),
    split=st.sampled_from([(0, 0), (64, 100), (256, 1000)]),
    takes=st.sampled_from([0, CSUM, CSUM | TSO4, 31]),
)
def test_whatever_a_guest_sends_is_sent_or_dropped(
    frame: Packet,
    changes: list[tuple[int, int]],
    header: tuple[int, int, int, int, int],
    size: int,
    split: tuple[int, int],
    takes: int,
) -> None:
    """Headers pass the check of ports (within the frame, a segment size, NEEDS_CSUM with it), and lie otherwise."""
    flags, gso_type, csum_start, csum_offset, gso_size = header
    octets = bytearray(bytes(frame)[:size])
    for at, value in changes:
        if at - 12 < size:
            octets[at - 12] = value
    if flags & 1 and csum_start + csum_offset + 2 > size:
        flags = 0
    if not flags & 1:
        gso_type = 0
    virtio = struct.pack("=BBHHHHH", flags, gso_type, 0, gso_size, csum_start, csum_offset, 0)
    port = NotingPort(takes=takes, frame_max=9000)
    sent = port.send([virtio + bytes(octets)] * 2, head=split[0], piece=split[1])
    assert sent or port.drops
    assert sum(map(len, sent)) <= 2 * (VNET_BYTES + len(octets)) + len(sent) * 300


def test_headers_beyond_the_head_are_not_read() -> None:
    """A guest can still write to what is behind the head."""
    port = NotingPort()
    assert port.send([partial(tcp(b"x" * 99))], head=50, piece=200) == []
    assert dropped(port) == {"PORT_DROP_OFFLOAD": 1}
