"""What clients are answered, row by row: sizes, kinds, and names that must not meet."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from arcbox_net.services.dns.actions import Ask
from tests.oracle.dns import (
    A_RECORD,
    SOA,
    Core,
    answering,
    asks,
    message,
    question,
    replies,
    response,
    texts,
)


def big(count: int) -> list[str]:
    return [f'@ 60 IN TXT "{"x" * 200}{i}"' for i in range(count)]


# -- R1, R3, R5: sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "limit"), [(1232, 1232), (4096, 1232), (800, 800), (100, 512)])
def test_r1_udp_answer_larger_than_the_client_takes_is_cut_with_tc(payload: int, limit: int) -> None:
    core = Core()
    reply = core.resolve(question("big.example.com", "TXT", payload=payload, use_edns=0), answering(*big(20)))
    assert len(reply) <= limit
    assert message(reply).flags & dns.flags.TC
    assert not message(reply).answer


def test_r1_answer_of_exactly_the_limit_is_whole() -> None:
    core = Core()
    query = question("big.example.com", "TXT", payload=1232, use_edns=0)
    for pad in range(1, 250):
        core.forwarder.flush()
        reply = core.resolve(query, answering(*big(4), f'@ 60 IN TXT "{"y" * pad}"'))
        assert len(reply) <= 1232
        assert bool(message(reply).flags & dns.flags.TC) == (not message(reply).answer)


def test_r1_the_same_question_over_tcp_gets_it_all() -> None:
    core = Core()
    query = question("big.example.com", "TXT")
    core.resolve(query, answering(*big(20)))
    whole = message(core.resolve(query, stream=True))
    assert not whole.flags & dns.flags.TC
    assert len(texts(whole.answer)) == 20


def test_r2_truncated_upstream_answer_is_fetched_over_tcp() -> None:
    core = Core()

    def script(ask: Ask) -> bytes:
        return response(ask.packet, big(3)) if ask.stream else response(ask.packet, flags=dns.flags.TC)

    reply = message(core.resolve(question("big.example.com", "TXT", use_edns=0), script))
    assert [ask.stream for ask in core.asks] == [False, True]
    assert len(texts(reply.answer)) == 3


def test_r3_client_without_edns_gets_at_most_512_bytes() -> None:
    core = Core()
    reply = core.resolve(question("big.example.com", "TXT", use_edns=False), answering(*big(3)))
    assert len(reply) <= 512
    assert message(reply).flags & dns.flags.TC
    assert message(reply).edns == -1


def test_r4_edns_is_hop_by_hop() -> None:
    core = Core()
    plain = message(core.resolve(question("a.example.com", use_edns=False), answering(A_RECORD)))
    assert plain.edns == -1
    asked = dns.message.from_wire(core.asks[0].packet)
    assert asked.edns == 0
    assert asked.payload == 1232
    with_edns = message(core.resolve(question("a.example.com", use_edns=0, payload=4096)))
    assert (with_edns.edns, with_edns.payload) == (0, 1232)


def test_r4_edns_version_1_gets_badvers() -> None:
    core = Core()
    reply = message(core.resolve(question("a.example.com", use_edns=1)))
    assert reply.rcode() == dns.rcode.BADVERS
    assert reply.edns == 0


def test_r4_two_opt_records_get_formerr() -> None:
    core = Core()
    one = question("a.example.com", use_edns=0)
    two = one[:10] + b"\0\2" + one[12:] + one[-11:]
    assert message(core.resolve(two)).rcode() == dns.rcode.FORMERR


def test_r5_answer_of_64_kib_passes_over_tcp() -> None:
    core = Core()

    def script(ask: Ask) -> bytes:
        return response(ask.packet, big(280)) if ask.stream else response(ask.packet, flags=dns.flags.TC)

    reply = core.resolve(question("big.example.com", "TXT"), script, stream=True)
    assert len(reply) > 57_000
    assert len(texts(message(reply).answer)) == 280


# -- R19-R21: names that must not meet -------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        "@ 60 IN A 10.0.0.1",
        "@ 60 IN A 172.31.0.1",
        "@ 60 IN A 192.168.64.9",
        "@ 60 IN A 127.0.0.1",
        "@ 60 IN A 169.254.169.254",
        "@ 60 IN A 0.0.0.0",
        "@ 60 IN AAAA ::1",
        "@ 60 IN AAAA fd00::1",
        "@ 60 IN AAAA fe80::1",
        "@ 60 IN AAAA ::ffff:10.0.0.1",
        "@ 60 IN AAAA 64:ff9b::10.0.0.1",
        "@ 60 IN HTTPS 1 . ipv4hint=10.0.0.1",
        "@ 60 IN HTTPS 1 . alpn=h2 ipv6hint=fd00::1",
    ],
)
def test_r19_public_name_with_a_private_address_is_dropped_when_asked_for(record: str) -> None:
    qtype = record.split()[3]
    for protected in (True, False):
        core = Core(rebind_protection=protected, rebind_allow=("lan.example.com",))
        reply = message(core.resolve(question("evil.example.com", qtype), answering(record)))
        assert bool(reply.answer) is not protected
        allowed = message(core.resolve(question("nas.lan.example.com", qtype), answering(record)))
        assert allowed.answer


def test_r19_one_private_address_among_public_ones_drops_them_all() -> None:
    core = Core(rebind_protection=True)
    reply = message(core.resolve(question("evil.example.com"), answering(A_RECORD, "@ 60 IN A 10.0.0.1")))
    assert reply.answer == []
    assert core.counts["rebind_refused"] == 1
    assert message(core.resolve(question("good.example.com"), answering(A_RECORD))).answer


def test_r20_host_only_network_asks_nobody() -> None:
    core = Core(recursion=False)
    for name in ("www.example.com", "1.2.3.4.in-addr.arpa", "com", "x.test"):
        for qtype in ("A", "TXT", "ANY", "NS", "PTR"):
            actions = core.query(question(name, qtype))
            assert not asks(actions)
            assert message(replies(actions)[0].packet).rcode() in (dns.rcode.REFUSED, dns.rcode.NXDOMAIN)
    core.names.put("vm1", ["192.168.64.5"], "lease")
    assert message(core.resolve(question("vm1"))).answer
    assert message(core.resolve(question("www.example.com"))).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    "name", ["vm9", "vm9.net1.internal", "a.b.net1.internal", "wpad", "wpad.net1.internal"]
)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "MX", "TXT", "HTTPS"])
def test_r21_unknown_name_of_the_network_never_leaves(name: str, qtype: str) -> None:
    core = Core()
    assert message(core.resolve(question(name, qtype))).rcode() == dns.rcode.NXDOMAIN
    assert core.asks == []


def test_r21_top_level_records_that_validators_need_do_leave() -> None:
    core = Core()
    for qtype in ("DS", "DNSKEY", "NS", "SOA"):
        assert asks(core.query(question("com", qtype)))
    assert asks(core.query(question(".", "NS")))


# -- R22: types and kinds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qtype", "record"),
    [
        ("HTTPS", "@ 60 IN HTTPS 1 . alpn=h2,h3 ipv4hint=198.51.100.7"),
        ("SVCB", "@ 60 IN SVCB 1 Svc.Example.com. port=8443"),
        ("TYPE65432", r"@ 60 IN TYPE65432 \# 5 c00c000102"),
        ("CAA", '@ 60 IN CAA 0 issue "ca.example.net"'),
        ("SRV", "@ 60 IN SRV 1 2 443 Host.Example.com."),
        ("NAPTR", '@ 60 IN NAPTR 1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" .'),
        ("RRSIG", "@ 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example.com. AAAA"),
        ("LOC", "@ 60 IN LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m"),
    ],
)
def test_r22_any_record_type_passes_bit_exact(qtype: str, record: str) -> None:
    core = Core()
    sent: list[bytes] = []

    def script(ask: Ask) -> bytes:
        sent.append(response(ask.packet, [record]))
        return sent[0]

    for packet in (
        core.resolve(question("a.example.com", qtype), script),
        core.resolve(question("a.example.com", qtype)),
    ):
        assert message(packet).answer[0].to_rdataset() == message(sent[0]).answer[0].to_rdataset()
        assert packet[12 + 19 :] == sent[0][12 + 19 : 12 + 19 + len(packet) - 31]


def test_r22_any_gets_the_answer_of_rfc_8482() -> None:
    core = Core()
    reply = message(core.resolve(question("example.com", "ANY")))
    assert texts(reply.answer) == ['example.com. 3600 IN HINFO "RFC8482" ""']


@pytest.mark.parametrize("qtype", ["AXFR", "IXFR"])
def test_r22_transfers_are_refused(qtype: str) -> None:
    assert message(Core().resolve(question("example.com", qtype), stream=True)).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_r22_other_opcodes_are_not_implemented(opcode: int) -> None:
    query = bytearray(question("example.com", "SOA"))
    query[2] = opcode << 3
    reply = Core().resolve(bytes(query))
    assert reply[3] & 15 == dns.rcode.NOTIMP
    assert reply[:2] == query[:2]


@pytest.mark.parametrize("name", ["version.bind", "hostname.bind", "id.server", "version.server"])
def test_r22_chaos_tells_nothing(name: str) -> None:
    query = question(name, "TXT", rdclass="CH")
    assert message(Core().resolve(query)).rcode() == dns.rcode.REFUSED


def test_r22_dnssec_flags_pass_both_ways() -> None:
    core = Core()
    rrsig = "@ 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example.com. AAAA"
    flags = dns.flags.RD | dns.flags.CD
    query = question("a.example.com", want_dnssec=True, flags=flags)
    reply = message(core.resolve(query, answering(A_RECORD, rrsig, flags=dns.flags.AD)))
    asked = dns.message.from_wire(core.asks[0].packet)
    assert asked.ednsflags & dns.flags.DO
    assert asked.flags & dns.flags.CD
    assert reply.flags & dns.flags.AD
    assert reply.ednsflags & dns.flags.DO
    assert len(reply.answer) == 2


def test_r22_ad_is_for_those_who_ask() -> None:
    core = Core()
    script = answering(A_RECORD, flags=dns.flags.AD)
    silent = question("a.example.com", flags=dns.flags.RD)
    asking = question("a.example.com", flags=dns.flags.RD | dns.flags.AD)
    assert not message(core.resolve(silent, script)).flags & dns.flags.AD
    assert message(core.resolve(asking)).flags & dns.flags.AD


def test_r22_proof_of_absence_passes_to_those_who_validate() -> None:
    core = Core()
    proof = [SOA, "example.com. 30 IN NSEC z.example.com. A NS SOA RRSIG NSEC"]
    query = question("gone.example.com", want_dnssec=True)
    reply = message(core.resolve(query, answering(rcode="NXDOMAIN", authority=proof)))
    assert len(reply.authority) == 2
