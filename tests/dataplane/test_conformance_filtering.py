"""Who may reach a mapping from outside or from another guest, and what never opens or closes one."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import ICMP

from arcbox_net.dataplane.verdict import Verdict
from tests.support.frames import ACK, PSH, SYN, TCP, UDP, ends, icmp, read, tcp, udp
from tests.support.nat import E2, E3, EXTERNAL, FORWARDED, A, B, Nat

EIF, ADF, APDF = "endpoint-independent", "address-dependent", "address-and-port-dependent"
CONTACTED, OTHER_PORT, OTHER_ADDRESS = (E2, 5000), (E2, 5001), (E3, 5000)


@pytest.mark.parametrize(
    "filtering, admitted",
    [(EIF, {CONTACTED, OTHER_PORT, OTHER_ADDRESS}), (ADF, {CONTACTED, OTHER_PORT}), (APDF, {CONTACTED})],
)
@pytest.mark.parametrize("build", [udp, tcp])
def test_n8_filtering_is_what_its_name_says(filtering, admitted, build):
    for peer in (CONTACTED, OTHER_PORT, OTHER_ADDRESS):
        nat = Nat(filtering=filtering)
        external = nat.external(build((A, 4000), CONTACTED))
        packet = build(peer, external)
        if peer in admitted:
            assert ends(nat.received(packet)) == (peer, (A, 4000))
        else:
            assert nat.inbound(packet) in (Verdict.DROP_FILTERED, Verdict.DROP_UNSOLICITED_SYN)


def test_n8_the_default_admits_only_what_was_contacted():
    nat = Nat()
    external = nat.external(udp((A, 4000), CONTACTED))
    assert nat.inbound(udp(OTHER_PORT, external)) == Verdict.DROP_FILTERED


def test_n8_a_mapping_that_is_gone_admits_nobody():
    nat = Nat(filtering=EIF)
    external = nat.external(udp((A, 4000), CONTACTED))
    nat.wait(301)
    assert nat.inbound(udp(CONTACTED, external)) == Verdict.DROP_NO_MAPPING


def hairpin(nat: Nat, packet: bytearray) -> bytearray:
    assert nat.outbound(packet) == Verdict.VERDICT_HAIRPIN
    read(packet)
    return packet


def test_n9_a_guest_reaches_another_through_its_external_endpoint():
    nat = Nat(filtering=EIF)
    of_b = nat.external(udp((B, 5000), (E2, 9)))
    there = hairpin(nat, udp((A, 4000), of_b))
    of_a, at_b = ends(there)
    assert of_a.ip == EXTERNAL
    assert at_b == (B, 5000)
    assert ends(hairpin(nat, udp((B, 5000), of_a))) == (of_b, (A, 4000))
    assert nat.external(udp((A, 4000), (E2, 9))) == of_a, "the hairpin used A's own mapping"


def test_l8_isolated_guests_reach_each_other_neither_by_a_mapping_nor_by_a_forward():
    nat = Nat(filtering=EIF, isolated=True)
    of_b = nat.external(udp((B, 5000), (E2, 9)))
    forward = nat.engine.add_forward("tcp", 8080, B, 80)
    for packet in (udp((A, 4000), of_b), tcp((A, 4000), (EXTERNAL, forward.external_port), SYN, seq=1)):
        assert nat.outbound(packet) == Verdict.DROP_ISOLATED
        (told,) = nat.answers()
        assert (told[ICMP].type, told[ICMP].code) == (3, 13)
    assert ends(nat.received(udp((E3, 7), of_b))) == ((E3, 7), (B, 5000))


@pytest.mark.parametrize("filtering", [ADF, APDF])
def test_n9_a_hairpin_passes_the_filter_of_the_mapping_it_goes_to(filtering):
    nat = Nat(filtering=filtering)
    of_b = nat.external(udp((B, 5000), (E2, 9)))
    assert nat.outbound(udp((A, 4000), of_b)) == Verdict.DROP_FILTERED


def test_n8_n9_whom_a_guest_has_asked_is_admitted_beside_as_many_hairpins_as_there_is_room_for():
    nat = Nat(filtering=ADF, conntrack_size=5, ports_per_guest=10)
    for number in range(3):
        nat.engine.add_forward("udp", 8080 + number, B, 80 + number)
        hairpin(nat, udp((A, 4000 + number), (EXTERNAL, 8080 + number)))
    external = nat.external(udp((A, 4100), (E2, 9)))
    assert nat.inbound(udp((E2, 10), external)) == Verdict.VERDICT_FORWARD


def test_n9_a_tcp_handshake_passes_the_hairpin():
    nat = Nat()
    nat.engine.add_forward("tcp", 8080, B, 80)
    of_a, at_b = ends(hairpin(nat, tcp((A, 4000), (EXTERNAL, 8080), SYN, seq=1)))
    assert (of_a.ip, at_b) == (EXTERNAL, (B, 80))
    back = hairpin(nat, tcp((B, 80), of_a, SYN | ACK, seq=100, ack=2))
    assert ends(back) == ((EXTERNAL, 8080), (A, 4000))
    hairpin(nat, tcp((A, 4000), (EXTERNAL, 8080), ACK, seq=2, ack=101))
    hairpin(nat, tcp((A, 4000), (EXTERNAL, 8080), ACK | PSH, b"data", seq=2, ack=101))
    (flow,) = nat.flows()
    assert (flow.hairpin, flow.state) == (True, "established")


def test_n9_i5_an_icmp_error_passes_the_hairpin():
    nat = Nat()
    nat.engine.add_forward("udp", 8080, B, 80)
    sent = udp((A, 4000), (EXTERNAL, 8080))
    there = hairpin(nat, bytearray(sent))
    error = hairpin(nat, icmp(B, ends(there)[0].ip, 3, 3, 0, bytes(there)[:28]))
    seen = read(error)
    assert (seen.src, seen.dst) == (EXTERNAL, A)
    assert bytes(seen)[28:][12:28] == bytes(sent)[12:28], "what A sent"


PAYLOADS = {
    "ftp": b"PORT 192,168,64,2,15,160\r\n",
    "sip": b"REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.64.2:4000\r\nContact: <sip:a@192.168.64.2>\r\n\r\n",
    "irc": b"PRIVMSG b :\x01DCC SEND f 3232251906 4000 10\x01\r\n",
    "h323": b"\x03\x00\x00\x20\x08\x02\x00\x01\x05\x7e\x00\x10\xc0\xa8\x40\x02\x0f\xa0",
    "rtsp": b"SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=4000-4001\r\n\r\n",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("number", [21, 554, 1720, 5060, 6667])
def test_n10_payloads_pass_unread_and_open_nothing(payload, number):
    nat = Nat(filtering=EIF)
    nat.sent(tcp((A, 3000), (E2, number), SYN, seq=1))
    assert bytes(nat.sent(tcp((A, 3000), (E2, number), ACK, payload, seq=2))[TCP].payload) == payload
    assert bytes(nat.sent(udp((A, 3000), (E2, number), payload))[UDP].payload) == payload
    before = nat.mappings()
    assert len(before) == 2
    for guessed, build in itertools.product((4000, 4001), (udp, tcp)):
        assert nat.inbound(build((E2, 9), (EXTERNAL, guessed))) >= Verdict.DROP_FIRST
    assert nat.mappings() == before


@pytest.mark.parametrize(
    "kind, code", [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (4, 0), (5, 1), (11, 0), (12, 0)]
)
@pytest.mark.parametrize("source", [E2, E3, "192.0.2.99"])
def test_n12_no_icmp_message_ends_a_mapping(kind, code, source):
    nat = Nat()
    external = nat.connect()
    before = nat.flows()
    quote = tcp(external, (E2, 80), ACK, bytes(1440), seq=2)[:28]
    mtu = 1400 if (kind, code) == (3, 4) else 0
    verdict = nat.inbound(icmp(source, EXTERNAL, kind, code, mtu, bytes(quote)))
    if kind in (3, 11, 12):
        assert verdict in FORWARDED, f"errors are not filtered by who sent them: {verdict.name}"
    assert [flow.state for flow in nat.flows()] == [flow.state for flow in before]
    nat.received(tcp((E2, 80), external, ACK, seq=101, ack=2))
