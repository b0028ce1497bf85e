"""IPv6 through the engine: what a guest sends and hears, with scapy's checksums beside the engine's."""

from __future__ import annotations

import struct
from itertools import permutations
from socket import AF_INET6, inet_pton
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.nat_views import Endpoint
from arcbox_net.dataplane.verdict import Direction, Verdict
from arcbox_net.errors import ConfigError
from arcbox_net.memory.batch import FrameBatch
from tests.support.nat6 import ELSEWHERE, EXTERNAL, GATEWAY, GUEST, OTHER, REMOTE, SECOND, engine
from tests.support.packets import NEEDS_CSUM, header

OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND
FORWARD, HAIRPIN = Verdict.VERDICT_FORWARD, Verdict.VERDICT_HAIRPIN
CHECKSUMS = {TCP: "chksum", UDP: "chksum", ICMPv6EchoRequest: "cksum", ICMPv6EchoReply: "cksum"}


def send(nat: NatEngine, packet: Packet | bytes, direction: Direction, now: float = 0) -> tuple[int, Packet]:
    """The verdict, and the packet as it leaves; its checksum is what scapy makes of it."""
    buffer = bytearray(bytes(packet))
    verdict = nat.translate([buffer], direction, now)[0]
    left = IPv6(bytes(buffer))
    for layer, field in CHECKSUMS.items():
        if layer in left:
            fresh = IPv6(bytes(buffer))
            delattr(fresh[layer], field)
            assert verdict >= Verdict.DROP_FIRST or bytes(fresh) == bytes(left)
    return verdict, left


def l4(kind: type[Packet], sport: int, dport: int) -> Packet:
    if kind is TCP:
        return TCP(sport=sport, dport=dport, flags="S", seq=7)
    return UDP(sport=sport, dport=dport) / b"odd" if kind is UDP else ICMPv6EchoRequest(id=sport, data=b"x")


def answer(kind: type[Packet], left: Packet) -> Packet:
    back = IPv6(src=left.dst, dst=left.src)
    if kind is TCP:
        return back / TCP(sport=left.dport, dport=left.sport, flags="SA", ack=8)
    if kind is UDP:
        return back / UDP(sport=left.dport, dport=left.sport) / b"back"
    return back / ICMPv6EchoReply(id=left[ICMPv6EchoRequest].id, data=b"x")


@pytest.mark.parametrize("kind", [TCP, UDP, ICMPv6EchoRequest], ids=["tcp", "udp", "echo"])
def test_n1_a_packet_leaves_by_the_external_address_and_its_answer_comes_back(kind: type[Packet]) -> None:
    nat = engine()
    verdict, left = send(nat, IPv6(src=GUEST, dst=REMOTE, hlim=64) / l4(kind, 50000, 80), OUTBOUND)
    assert (verdict, left.src, left.dst, left.hlim) == (FORWARD, EXTERNAL, REMOTE, 63)
    verdict, came = send(nat, answer(kind, left), INBOUND)
    assert (verdict, came.src, came.dst) == (FORWARD, REMOTE, GUEST)
    number = came.dport if kind is not ICMPv6EchoRequest else came[ICMPv6EchoReply].id
    assert number == 50000
    flow = next(nat.flows())
    assert (flow.source.address, flow.destination.address, flow.reply_destination.address) == (
        GUEST,
        REMOTE,
        EXTERNAL,
    )
    assert (flow.bytes, flow.packets, flow.reply_packets) == (40 + len(bytes(l4(kind, 1, 1))), 1, 1)


def test_n1_a_mapping_is_the_same_whatever_the_guest_talks_to_and_two_guests_never_share_one() -> None:
    nat = engine()
    ports = {
        (guest, send(nat, IPv6(src=guest, dst=dst) / UDP(sport=50000, dport=port), OUTBOUND)[1].sport)
        for guest in (GUEST, OTHER)
        for dst in (REMOTE, ELSEWHERE)
        for port in (5000, 5001)
    }
    assert len(ports) == len({port for _, port in ports}) == 2
    assert {mapping.inside for mapping in nat.mappings()} == {Endpoint(GUEST, 50000), Endpoint(OTHER, 50000)}


@pytest.mark.parametrize(
    ("filtering", "same_address", "elsewhere"),
    [
        ("endpoint-independent", True, True),
        ("address-dependent", True, False),
        ("address-and-port-dependent", False, False),
    ],
)
def test_n8_the_filter_admits_whom_its_name_says(filtering: str, same_address: bool, elsewhere: bool) -> None:
    nat = engine(filtering=filtering)
    _, left = send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=50000, dport=80), OUTBOUND)
    for source, passes in ((REMOTE, same_address), (ELSEWHERE, elsewhere)):
        verdict, _ = send(nat, IPv6(src=source, dst=EXTERNAL) / UDP(sport=81, dport=left.sport), INBOUND)
        assert verdict == (FORWARD if passes else Verdict.DROP_FILTERED)


def test_n9_guests_reach_each_other_by_their_external_endpoints() -> None:
    nat = engine(filtering="endpoint-independent")
    _, first = send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5000, dport=80), OUTBOUND)
    _, second = send(nat, IPv6(src=OTHER, dst=REMOTE) / UDP(sport=6000, dport=80), OUTBOUND)
    verdict, came = send(nat, IPv6(src=GUEST, dst=EXTERNAL) / UDP(sport=5000, dport=second.sport), OUTBOUND)
    assert (verdict, came.src, came.sport) == (HAIRPIN, EXTERNAL, first.sport)
    assert (came.dst, came.dport) == (OTHER, 6000)
    verdict, back = send(nat, IPv6(src=OTHER, dst=EXTERNAL) / UDP(sport=6000, dport=first.sport), OUTBOUND)
    assert (verdict, back.src, back.dst, back.dport) == (HAIRPIN, EXTERNAL, GUEST, 5000)


def test_n2_a_guest_keeps_one_external_address() -> None:
    nat = engine(external_ip6=[EXTERNAL, SECOND])
    for guest in (GUEST, OTHER):
        left = [
            send(nat, IPv6(src=guest, dst=REMOTE) / UDP(sport=p, dport=9), OUTBOUND)[1].src
            for p in range(50000, 50010)
        ]
        assert len(set(left)) == 1


def test_a_guest_of_each_family_gets_an_external_address_of_its_own_family() -> None:
    nat = engine()
    buffer = bytearray(bytes(IP(src="192.168.64.9", dst="198.51.100.1") / UDP(sport=5000, dport=9) / b"x"))
    assert nat.translate([buffer], OUTBOUND, 0)[0] == FORWARD
    assert IP(bytes(buffer)).src == "203.0.113.1"
    assert send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5000, dport=9), OUTBOUND)[1].src == EXTERNAL
    assert {mapping.external.address for mapping in nat.mappings()} == {"203.0.113.1", EXTERNAL}


def test_s2_ipv6_flows_end_by_the_same_timers_and_their_addresses_are_forgotten() -> None:
    nat = engine()
    assert nat.stats()["ipv6_addresses"] == 1
    send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5000, dport=9), OUTBOUND)
    send(nat, IPv6(src=GUEST, dst=REMOTE) / ICMPv6EchoRequest(id=3), OUTBOUND)
    assert nat.stats()["ipv6_addresses"] == 3
    assert nat.expire(60) == 0
    assert nat.expire(61.5) == 1
    assert [flow.protocol for flow in nat.flows()] == ["udp"]
    assert nat.expire(299) == 0
    assert nat.expire(301.5) == 1
    assert nat.stats()["ipv6_addresses"] == 2  # the guest's, while its ports are on hold
    nat.expire(500)
    assert nat.stats()["ipv6_addresses"] == 1


def test_packets_of_no_flow_leave_no_addresses_behind() -> None:
    nat = engine(filtering="endpoint-independent")
    for last in range(200):
        send(nat, IPv6(src=f"2001:db8::{last:x}", dst=EXTERNAL) / UDP(sport=1, dport=9), INBOUND)
        send(nat, IPv6(src=GUEST, dst=f"2001:db8::{last:x}") / TCP(flags="A"), OUTBOUND)
    stats = nat.stats()
    assert (stats["no_mapping"], stats["no_flow"], stats["flows"], stats["ipv6_addresses"]) == (
        200,
        200,
        0,
        1,
    )


def test_n27_a_full_table_refuses_new_flows_and_says_so() -> None:
    nat = engine(conntrack_size=4)
    for last in range(4):
        assert (
            send(nat, IPv6(src=GUEST, dst=f"2001:db8::{last:x}:1") / UDP(sport=5000), OUTBOUND)[0] == FORWARD
        )
    assert send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5000), OUTBOUND)[0] == Verdict.DROP_FLOWS_FULL
    (told,) = nat.emitted()
    error = IPv6(told.frame)
    assert (told.direction, error.src, error.dst) == (INBOUND, GATEWAY, GUEST)
    assert (error.payload.type, error.payload.code) == (1, 1)
    assert send(nat, IPv6(src=GUEST, dst="2001:db8::1") / UDP(sport=5000), OUTBOUND)[0] == FORWARD


def test_n30_a_datagram_without_checksum_is_dropped() -> None:
    verdict, _ = send(engine(), IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5, dport=6, chksum=0), OUTBOUND)
    assert verdict == Verdict.DROP_BAD_L4


def test_n30_a_sum_of_zero_is_sent_as_ones() -> None:
    nat = engine()
    datagram = IPv6(src=GUEST, dst=REMOTE) / UDP(sport=50000, dport=6)
    _, left = send(nat, datagram / bytes(2), OUTBOUND)
    _, left = send(nat, datagram / left[UDP].chksum.to_bytes(2, "big"), OUTBOUND)
    assert left[UDP].chksum == 0xFFFF


def test_n31_the_last_hop_is_told_and_not_forwarded() -> None:
    nat = engine()
    packet = IPv6(src=GUEST, dst=REMOTE, hlim=1) / UDP(sport=5, dport=6)
    assert send(nat, packet, OUTBOUND)[0] == Verdict.DROP_TTL
    (told,) = nat.emitted()
    error = IPv6(told.frame)
    assert (error.payload.type, error.payload.code, error.src) == (3, 0, GATEWAY)
    assert bytes(error.payload.payload) == bytes(packet)
    assert nat.stats()["flows"] == 0


def test_n13_a_packet_over_the_egress_mtu_is_refused_with_that_mtu() -> None:
    nat = engine(uplink_mtu=1400)
    fits = IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5, dport=6) / bytes(1400 - 48)
    assert send(nat, fits, OUTBOUND)[0] == FORWARD
    assert send(nat, fits / b"x", OUTBOUND)[0] == Verdict.DROP_TOO_BIG
    (told,) = nat.emitted()
    error = IPv6(told.frame)
    assert (error.payload.type, error.payload.mtu, len(told.frame)) == (2, 1400, 1280)


@pytest.mark.parametrize(
    ("source", "destination", "direction"),
    [
        pytest.param("fe80::1", REMOTE, OUTBOUND, id="link-local"),
        pytest.param("::", REMOTE, OUTBOUND, id="unspecified"),
        pytest.param("::1", REMOTE, OUTBOUND, id="loopback"),
        pytest.param("ff02::1", REMOTE, OUTBOUND, id="multicast-source"),
        pytest.param(GATEWAY, REMOTE, OUTBOUND, id="as-the-gateway"),
        pytest.param("fd00:64::", REMOTE, OUTBOUND, id="routers-anycast"),
        pytest.param("fd00:65::9", REMOTE, OUTBOUND, id="another-network"),
        pytest.param(GUEST, GUEST, OUTBOUND, id="to-itself"),
        pytest.param(GUEST, "ff02::2", OUTBOUND, id="multicast"),
        pytest.param(GUEST, "fe80::2", OUTBOUND, id="to-link-local"),
        pytest.param(GUEST, "::ffff:192.0.2.1", OUTBOUND, id="v4-mapped"),
        pytest.param(GUEST, GATEWAY, OUTBOUND, id="to-the-gateway"),
        pytest.param(GUEST, EXTERNAL, INBOUND, id="inside-source-from-outside"),
        pytest.param(EXTERNAL, EXTERNAL, INBOUND, id="own-source"),
        pytest.param("ff0e::1", EXTERNAL, INBOUND, id="multicast-from-outside"),
    ],
)
def test_n34_martians_are_dropped(source: str, destination: str, direction: Direction) -> None:
    nat = engine()
    verdict, _ = send(nat, IPv6(src=source, dst=destination) / UDP(sport=5, dport=6), direction)
    assert verdict == Verdict.DROP_MARTIAN
    assert nat.emitted() == []


def options(count: int) -> Packet:
    packet = IPv6(src=GUEST, dst=REMOTE)
    for _ in range(count):
        packet /= IPv6ExtHdrDestOpt()
    return packet / UDP(sport=5, dport=6) / b"x"


def test_f12_eight_extension_headers_pass_and_nine_do_not() -> None:
    nat = engine()
    assert send(nat, options(8), OUTBOUND)[0] == FORWARD
    assert send(nat, options(9), OUTBOUND)[0] == Verdict.DROP_BAD_HEADER


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        pytest.param(
            IPv6(src=GUEST, dst=REMOTE, nh=47) / Raw(bytes(8)), Verdict.DROP_UNKNOWN_PROTOCOL, id="gre"
        ),
        pytest.param(
            IPv6(src=GUEST, dst=REMOTE, nh=1) / Raw(bytes(8)), Verdict.DROP_UNKNOWN_PROTOCOL, id="icmp"
        ),
        pytest.param(
            IPv6(src=GUEST, dst=REMOTE) / IPv6ExtHdrRouting() / UDP(),
            Verdict.DROP_UNKNOWN_PROTOCOL,
            id="routing",
        ),
        pytest.param(
            IPv6(src=GUEST, dst=REMOTE) / ICMPv6ND_NS(), Verdict.DROP_UNKNOWN_PROTOCOL, id="neighbour"
        ),
        pytest.param(IPv6(src=GUEST, dst=REMOTE, plen=9) / UDP(), Verdict.DROP_BAD_HEADER, id="length-lies"),
        pytest.param(IPv6(src=GUEST, dst=REMOTE) / UDP(len=9), Verdict.DROP_BAD_L4, id="udp-length-lies"),
        pytest.param(IPv6(src=GUEST, dst=REMOTE) / TCP(flags="SF"), Verdict.DROP_BAD_TCP_FLAGS, id="syn-fin"),
    ],
)
def test_n33_packets_that_are_none_of_ours_are_dropped_by_reason(packet: Packet, verdict: Verdict) -> None:
    assert send(engine(), packet, OUTBOUND)[0] == verdict


def test_f11_a_fragment_that_is_the_whole_packet_passes() -> None:
    nat = engine()
    packet = IPv6(src=GUEST, dst=REMOTE) / IPv6ExtHdrFragment(id=7) / UDP(sport=5, dport=6) / b"x"
    assert send(nat, packet, OUTBOUND)[0] == Verdict.VERDICT_FRAGMENTED
    (left,) = nat.emitted()
    assert IPv6(left.frame).src == EXTERNAL
    assert IPv6ExtHdrFragment not in IPv6(left.frame)


def cut(whole: Packet, size: int) -> list[bytes]:
    """The fragments of a packet, with *size* bytes of what is behind its IPv6 header in each."""
    body = bytes(whole)[40:]
    return [
        bytes(
            IPv6(src=whole.src, dst=whole.dst)
            / IPv6ExtHdrFragment(nh=whole.nh, offset=at // 8, m=int(at + size < len(body)), id=7)
            / Raw(body[at : at + size])
        )
        for at in range(0, len(body), size)
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_n14_fragments_in_any_order_are_translated_as_one_packet(order: tuple[int, ...]) -> None:
    nat = engine()
    whole = IPv6(src=GUEST, dst=REMOTE) / UDP(sport=50000, dport=6) / Raw(bytes(range(250)) * 12)
    parts = cut(IPv6(bytes(whole)), 1200)
    verdicts = [nat.translate([bytearray(parts[i])], OUTBOUND, 0)[0] for i in order]
    assert verdicts == [Verdict.VERDICT_HELD] * 2 + [Verdict.VERDICT_FRAGMENTED]
    left = [IPv6(made.frame) for made in nat.emitted()]
    assert {(part.src, part.dst, len(part) <= 1280) for part in left} == {(EXTERNAL, REMOTE, True)}
    body = b"".join(bytes(part[IPv6ExtHdrFragment].payload) for part in left)
    whole.src, whole.hlim = EXTERNAL, 63
    assert body == bytes(whole)[40:]


@pytest.mark.parametrize(("payload", "gso_type"), [(b"", 0), (bytes(4000), 4)], ids=["whole", "gso"])
def test_a_partial_checksum_stays_the_pseudo_headers_sum(payload: bytes, gso_type: int) -> None:
    nat = engine()
    opening = IPv6(src=GUEST, dst=REMOTE) / TCP(sport=50000, dport=80, flags="S", seq=6)
    assert send(nat, opening, OUTBOUND)[0] == FORWARD
    packet = IPv6(src=GUEST, dst=REMOTE) / TCP(sport=50000, dport=80, flags="A", seq=7) / payload
    packet[TCP].chksum = pseudo(packet)
    offload = header(NEEDS_CSUM, gso_type, 1000 if gso_type else 0, csum_start=40, csum_offset=16)
    buffer = bytearray(offload + bytes(packet))
    assert nat.translate(FrameBatch.over([buffer], vnet=True, l3=0), OUTBOUND, 0)[0] == FORWARD
    left = IPv6(bytes(buffer[12:]))
    assert (left.src, left[TCP].chksum, bytes(buffer[:12])) == (EXTERNAL, pseudo(left), offload)


def test_a_gso_frame_of_ipv4s_kind_is_dropped() -> None:
    packet = IPv6(src=GUEST, dst=REMOTE) / TCP(flags="S") / bytes(3000)
    buffer = bytearray(header(NEEDS_CSUM, 1, 1000, csum_start=40, csum_offset=16) + bytes(packet))
    verdict = engine().translate(FrameBatch.over([buffer], vnet=True, l3=0), OUTBOUND, 0)[0]
    assert verdict == Verdict.DROP_BAD_OFFLOAD


def pseudo(packet: Packet) -> int:
    """The pseudo header's sum, not complemented, as NEEDS_CSUM has it."""
    ends = inet_pton(AF_INET6, packet.src) + inet_pton(AF_INET6, packet.dst)
    size = len(bytes(packet)) - 40
    return 0xFFFF ^ checksum(ends + struct.pack("!II", size, 6))


def test_a_forward_leads_to_its_guest_and_is_gone_when_removed() -> None:
    nat = engine()
    forward = nat.add_forward("tcp", 8080, GUEST, 80)
    assert (forward.external_ip, forward.inside_ip) == (EXTERNAL, GUEST)
    syn = IPv6(src=REMOTE, dst=EXTERNAL) / TCP(sport=999, dport=8080, flags="S")
    verdict, came = send(nat, syn, INBOUND)
    assert (verdict, came.dst, came.dport, came.src) == (FORWARD, GUEST, 80, REMOTE)
    nat.remove_forward(forward)
    assert nat.stats()["flows"] == 0
    assert send(nat, syn, INBOUND)[0] == Verdict.DROP_NO_MAPPING


def test_a_forward_between_families_is_refused() -> None:
    with pytest.raises(ConfigError):
        engine().add_forward("tcp", 80, GUEST, external_ip="203.0.113.1")


def test_flushing_a_guest_closes_its_flows_alone() -> None:
    nat = engine()
    for guest in (GUEST, OTHER):
        send(nat, IPv6(src=guest, dst=REMOTE) / UDP(sport=5, dport=6), OUTBOUND)
    assert nat.flush(guest="fd00:64::77") == 0
    assert nat.flush(guest=GUEST) == 1
    assert [flow.source.address for flow in nat.flows()] == [OTHER]


def test_without_an_external_address_ipv6_is_no_known_protocol() -> None:
    nat = NatEngine(NatEngineConfig(external_ip="203.0.113.1", conntrack_size=16))
    frame = bytearray(bytes(12) + b"\x86\xdd" + bytes(IPv6(src=GUEST, dst=REMOTE) / UDP()))
    assert nat.translate([frame], OUTBOUND, 0)[0] == Verdict.DROP_UNKNOWN_PROTOCOL


def test_an_ipv4_packet_with_the_numbers_of_a_flows_addresses_is_not_of_that_flow() -> None:
    nat = engine()
    send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5000, dport=9), OUTBOUND)
    for low in range(4):
        for high in range(4):
            forged = IP(src=f"240.0.0.{low}", dst=f"240.0.0.{high}") / UDP(sport=5000, dport=9)
            assert nat.translate([bytearray(bytes(forged))], OUTBOUND, 0)[0] == Verdict.DROP_MARTIAN


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"inside6": None}, "inside6"),
        ({"inside6": "fd00::1/64"}, "inside6"),
        ({"gateway6": "fd00:65::1"}, "gateway6"),
        ({"external_ip6": "fe80::1"}, "external_ip6"),
        ({"external_ip6": "fd00:64::5"}, "external_ip6"),
        ({"external_ip6": "203.0.113.1"}, "external_ip6"),
        ({"mtu": 1279}, "mtu"),
    ],
)
def test_a_configuration_that_cannot_be_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        engine(**fields)
    assert raised.value.facts["field"] == field
