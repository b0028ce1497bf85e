"""What the sender of a packet is told when it goes nowhere."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_fragments import Stages
from arcbox_net.dataplane.verdict import Direction
from tests.support.packets import read

GUEST, GATEWAY, REMOTE = "192.168.64.9", "192.168.64.1", "198.51.100.7"
EXTERNAL = "203.0.113.1"
GATEWAY_BYTES = bytes([192, 168, 64, 1])
TO_GUEST, TO_UPLINK = Direction.INBOUND, Direction.OUTBOUND
UNREACHABLE, TIME_EXCEEDED = 3, 11
SECOND_NS = 10**9


def stages(**fields: int) -> Stages:
    return Stages(gateway=GATEWAY_BYTES, **fields)


def udp(src: str = GUEST, dst: str = REMOTE, size: int = 100, **fields: object) -> bytes:
    return bytes(IP(src=src, dst=dst, **fields) / UDP(sport=5000, dport=53) / Raw(bytes(size)))


def only_answer(s: Stages) -> Packet:
    """The one packet that was emitted, with its checksums verified."""
    [(_, virtio, frame)] = s.emitted()
    return read(virtio + frame)


def quote(s: Stages) -> bytes:
    """What the one error that was emitted quotes."""
    [(_, _, frame)] = s.emitted()
    return frame[28:]


def test_n31_a_guest_is_told_that_the_ttl_is_over_by_the_gateway() -> None:
    s = stages()
    s.refuse(udp(ttl=1), TO_GUEST, TIME_EXCEEDED, 0)
    answer = only_answer(s)
    assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == (GATEWAY, GUEST, 11, 0)
    assert bytes(answer)[28:] == udp(ttl=1)


def test_n13_the_mtu_is_in_the_lower_half_of_the_last_word() -> None:
    s = stages()
    s.refuse(udp(flags="DF"), TO_GUEST, UNREACHABLE, 4, 1400)
    assert only_answer(s)[ICMP].nexthopmtu == 1400


def test_an_answer_to_the_outside_comes_from_the_address_that_was_asked() -> None:
    s = stages()
    s.refuse(udp(src=REMOTE, dst=EXTERNAL), TO_UPLINK, UNREACHABLE, 3)
    [(towards, virtio, frame)] = s.emitted()
    assert towards == TO_UPLINK
    assert (IP(frame).src, IP(frame).dst, virtio) == (EXTERNAL, REMOTE, bytes(12))


def test_without_a_gateway_the_answer_comes_from_whom_the_packet_was_for() -> None:
    s = Stages()
    s.refuse(udp(), TO_GUEST, UNREACHABLE, 13)
    assert only_answer(s).src == REMOTE


@pytest.mark.parametrize(("size", "quoted"), [(519, 547), (520, 548), (521, 548), (9000, 548)])
def test_an_error_has_576_bytes_at_most(size: int, quoted: int) -> None:
    s = stages()
    packet = udp(size=size)
    s.refuse(packet, TO_GUEST, UNREACHABLE, 0)
    assert quote(s) == packet[:quoted]


def test_options_are_quoted() -> None:
    s = stages()
    packet = udp(options=[IPOption_NOP()] * 4)
    s.refuse(packet, TO_GUEST, UNREACHABLE, 0)
    assert quote(s) == packet


def test_the_answer_goes_back_to_the_mac_it_came_from() -> None:
    s = stages(l3=14)
    s.refuse(
        bytes(Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:01", type=0x800)) + udp(),
        TO_GUEST,
        UNREACHABLE,
        0,
    )
    [(_, _, frame)] = s.emitted()
    assert (Ether(frame).src, Ether(frame).dst) == ("02:00:00:00:00:01", "02:00:00:00:00:09")
    assert Ether(frame).type == 0x0800


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(bytes(IP(src=GUEST, dst=REMOTE) / ICMP(type=3, code=3) / Raw(udp())), id="error"),
        pytest.param(bytes(IP(src=GUEST, dst=REMOTE) / ICMP(type=5) / Raw(udp())), id="redirect"),
        pytest.param(bytes(IP(src=GUEST, dst=REMOTE) / ICMP(type=250)), id="unknown-icmp"),
        pytest.param(bytes(IP(src=GUEST, dst=REMOTE, proto=1)), id="icmp-without-header"),
        pytest.param(udp(frag=10), id="later-fragment"),
        pytest.param(udp(src="0.0.0.0"), id="from-nobody"),
        pytest.param(udp(src="127.0.0.1"), id="from-loopback"),
        pytest.param(udp(src="224.0.0.1"), id="from-multicast"),
        pytest.param(udp(src="255.255.255.255"), id="from-broadcast"),
        pytest.param(udp(dst="239.1.1.1"), id="to-multicast"),
        pytest.param(udp(dst="255.255.255.255"), id="to-broadcast"),
    ],
)
def test_i7_no_error_is_made_about(packet: bytes) -> None:
    s = stages()
    s.refuse(packet, TO_GUEST, UNREACHABLE, 1)
    assert s.emitted() == []


def test_i7_no_error_is_made_about_a_frame_to_many() -> None:
    s = stages(l3=14)
    s.refuse(bytes(Ether(src="02:00:00:00:00:09", dst="ff:ff:ff:ff:ff:ff")) + udp(), TO_GUEST, UNREACHABLE, 1)
    assert s.emitted() == []


@pytest.mark.parametrize("packet", [udp(flags="MF"), bytes(IP(src=GUEST, dst=REMOTE) / ICMP())])
def test_an_error_is_made_about_first_fragments_and_echoes(packet: bytes) -> None:
    s = stages()
    s.refuse(packet, TO_GUEST, UNREACHABLE, 1)
    assert quote(s) == packet


def errors_in(s: Stages, guests: list[str], towards: int, now_ns: int, attempts: int) -> int:
    for _ in range(attempts):
        for guest in guests:
            s.refuse(udp(src=guest, size=0), towards, UNREACHABLE, 1, now_ns=now_ns)
    return len(s.emitted())


def test_i7_a_guest_gets_a_hundred_errors_in_a_second() -> None:
    s = stages()
    told = [errors_in(s, [GUEST], TO_GUEST, at * SECOND_NS // 1000, 1) for at in range(1000)]
    assert 95 <= sum(told) <= 100
    assert errors_in(s, [GUEST], TO_GUEST, 1001 * SECOND_NS // 1000, 50) <= 1
    assert s.counts()["limited"] > 800


def test_i7_a_guest_that_waited_a_second_may_be_told_at_once_again() -> None:
    s = stages()
    assert errors_in(s, [GUEST], TO_GUEST, 0, 50) == 25
    assert errors_in(s, [GUEST], TO_GUEST, SECOND_NS, 50) == 25


def test_i7_a_thousand_errors_are_sent_in_a_second_to_all_guests() -> None:
    s = stages()
    guests = [f"192.168.64.{n}" for n in range(2, 62)]
    told = [errors_in(s, guests, TO_GUEST, at * SECOND_NS // 100, 1) for at in range(100)]
    assert 950 <= sum(told) <= 1000


def test_i7_one_guest_does_not_use_up_what_another_may_be_told() -> None:
    s = stages()
    errors_in(s, [GUEST], TO_GUEST, 0, 400)
    assert errors_in(s, ["192.168.64.10"], TO_GUEST, 0, 1) == 1


def test_i7_what_the_outside_is_told_leaves_enough_for_guests() -> None:
    s = stages()
    for at in range(1000):
        now_ns = at * SECOND_NS // 1000
        outside = errors_in(s, [REMOTE], TO_UPLINK, now_ns, 1)
        assert outside <= 1
    assert errors_in(s, [GUEST], TO_GUEST, SECOND_NS, 25) == 25


def tcp(flags: str, payload: bytes = b"", seq: int = 0xFFFFFFF0, ack: int = 7, **fields: object) -> bytes:
    segment = TCP(sport=40000, dport=80, flags=flags, seq=seq, ack=ack, **fields)
    return bytes(IP(src=GUEST, dst=REMOTE) / segment / Raw(payload))


@pytest.mark.parametrize(
    ("segment", "flags", "seq", "ack"),
    [
        pytest.param(tcp("A", b"x" * 10), "R", 7, 0, id="ack"),
        pytest.param(tcp("S"), "RA", 0, 0xFFFFFFF1, id="syn"),
        pytest.param(tcp("S", b"x" * 20), "RA", 0, 5, id="syn-with-payload-around-the-end"),
        pytest.param(tcp("F", b"x" * 3), "RA", 0, 0xFFFFFFF4, id="fin-without-ack"),
        pytest.param(tcp("S", options=[("MSS", 1460)]), "RA", 0, 0xFFFFFFF1, id="options-are-no-payload"),
    ],
)
def test_t28_a_segment_of_no_connection_is_reset(segment: bytes, flags: str, seq: int, ack: int) -> None:
    s = stages()
    s.reset(segment)
    answer = only_answer(s)
    assert (answer.src, answer.dst, answer[TCP].sport, answer[TCP].dport) == (REMOTE, GUEST, 80, 40000)
    assert (str(answer[TCP].flags), answer[TCP].seq, answer[TCP].ack) == (flags, seq, ack)


def test_a_reset_is_not_answered() -> None:
    s = stages()
    s.reset(tcp("RA"))
    assert s.emitted() == []
