"""The forwarder's decisions, row by row: what is asked upstream, what is answered, what is ignored."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.services.dns import forwarder as forwarder_module
from arcbox_net.services.dns.forwarder import Ask
from arcbox_net.services.dns.settings import (
    ATTEMPTS_MAX,
    IN_FLIGHT_IPV6_MAX,
    IN_FLIGHT_PER_GUEST_MAX,
    SPOOFS_MAX,
    WAITERS_MAX,
)
from arcbox_net.services.dns.wire import HEADER, to_wire
from tests.oracle.dns import (
    GATEWAY,
    SOA,
    Core,
    answering,
    asks,
    cancels,
    message,
    question,
    replies,
    response,
    texts,
)

A_RECORD = "@ 60 IN A 198.51.100.7"
THREE = (("192.0.2.1", 53), ("192.0.2.2", 53), ("192.0.2.3", 53))


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


# -- R6: off-path safety ---------------------------------------------------------------------------


def test_r6_id_and_case_are_new_for_each_query() -> None:
    core = Core()
    seen = set()
    for i in range(50):
        (ask,) = asks(core.query(question(f"abcdefghij{i}.example.com")))
        seen.add(ask.packet[:2])
        seen.add(ask.packet[12:30])
    assert len(seen) > 95


def spoofs(ask: Ask) -> list[bytes]:
    """Wrong answers to *ask*: each differs from the right one in one thing."""
    right = bytearray(response(ask.packet, ["@ 60 IN A 203.0.113.66"]))
    wrong_id = right.copy()
    wrong_id[0] ^= 1
    not_answer = right.copy()
    not_answer[2] &= 0x7F
    opcode = right.copy()
    opcode[2] |= 0x20
    other_case = right.copy()
    other_case[13] ^= 0x20
    other_name = right.copy()
    other_name[13] ^= 0x01
    other_type = right.copy()
    other_type[12 + len(to_wire("abc.example.com")) + 1] ^= 0x04
    no_question = HEADER.pack(int.from_bytes(right[:2], "big"), 0x8180, 0, 0, 0, 0)
    return [
        bytes(p)
        for p in (
            wrong_id,
            not_answer,
            opcode,
            other_case,
            other_name,
            other_type,
            no_question,
            right[:11],
            b"",
            right[:-1],
        )
    ]


@pytest.mark.parametrize("which", range(10))
def test_r6_wrong_packet_is_ignored_and_the_right_one_still_taken(which: int) -> None:
    core = Core()
    (ask,) = asks(core.query(question("abc.example.com")))
    assert core.deliver(ask.attempt, spoofs(ask)[which]) == []
    (reply,) = replies(core.deliver(ask.attempt, response(ask.packet, [A_RECORD])))
    assert texts(message(reply.packet).answer) == ["abc.example.com. 60 IN A 198.51.100.7"]


def test_r6_truncated_answer_after_a_spoof_still_goes_over_tcp() -> None:
    core = Core()
    (ask,) = asks(core.query(question("abc.example.com")))
    core.deliver(ask.attempt, spoofs(ask)[0])
    (over_tcp,) = asks(core.deliver(ask.attempt, response(ask.packet, flags=dns.flags.TC)))
    assert over_tcp.stream
    assert core.deliver(ask.attempt, response(ask.packet, ["@ 60 IN A 203.0.113.66"])) == []
    assert replies(core.deliver(over_tcp.attempt, response(over_tcp.packet, [A_RECORD])))


def test_r6_flood_of_spoofs_moves_the_attempt_to_tcp() -> None:
    core = Core()
    (ask,) = asks(core.query(question("abc.example.com")))
    for _ in range(SPOOFS_MAX - 1):
        assert core.deliver(ask.attempt, b"junk") == []
    actions = core.deliver(ask.attempt, b"junk")
    assert cancels(actions) == [ask.attempt]
    assert [a.stream for a in asks(actions)] == [True]


def test_r6_upstream_that_loses_the_case_is_asked_over_tcp_and_remembered() -> None:
    core = Core()

    def lowered(ask: Ask) -> bytes:
        end = 12 + len(to_wire("abcdefgh.example.com"))
        packet = response(ask.packet, [A_RECORD])
        return packet[:12] + packet[12:end].lower() + packet[end:]

    assert message(core.resolve(question("abcdefgh.example.com"), lowered)).answer
    assert [ask.stream for ask in core.asks] == [False, True]
    core.forwarder.flush()
    core.resolve(question("abcdefgh.example.com", "AAAA"), lowered)
    assert [ask.stream for ask in core.asks] == [False]


def test_r6_answer_in_the_client_s_case() -> None:
    core = Core()
    query = question("WwW.eXample.com")
    for reply in (core.resolve(query, answering(A_RECORD)), core.resolve(query)):
        assert reply[12:29] == query[12:29]


# -- R7: coalescing --------------------------------------------------------------------------------


def test_r7_the_same_question_is_asked_once_and_answers_everyone() -> None:
    core = Core()
    (ask,) = asks(core.query(question("a.example.com", id=1), "first"))
    for i in range(5):
        assert core.query(question("A.Example.com", id=2 + i), f"client {i}") == []
    found = replies(core.deliver(ask.attempt, response(ask.packet, [A_RECORD])))
    assert [r.client for r in found] == ["first", *(f"client {i}" for i in range(5))]
    assert [message(r.packet).id for r in found] == [1, 2, 3, 4, 5, 6]


def test_r7_client_subnet_option_neither_splits_the_key_nor_leaves() -> None:
    core = Core()
    ecs = [dns.edns.ECSOption("203.0.113.0", 24)]
    (ask,) = asks(core.query(question("a.example.com", use_edns=0, options=ecs), "one"))
    assert core.query(question("a.example.com", use_edns=0), "two") == []
    assert dns.message.from_wire(ask.packet).options == ()


def test_r7_retransmission_does_not_get_two_replies() -> None:
    core = Core()
    query = question("a.example.com")
    (ask,) = asks(core.query(query))
    assert core.query(query) == []
    assert len(replies(core.deliver(ask.attempt, response(ask.packet, [A_RECORD])))) == 1
    assert core.counts["query_repeated"] == 1


def test_r7_waiters_of_one_lookup_are_limited() -> None:
    core = Core()
    for i in range(WAITERS_MAX):
        assert not replies(core.query(question("a.example.com", id=i), i))
    (reply,) = replies(core.query(question("a.example.com"), "one too many"))
    assert message(reply.packet).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    "other", [{"want_dnssec": True}, {"flags": dns.flags.RD | dns.flags.CD}, {"flags": 0}]
)
def test_r7_questions_that_differ_in_do_cd_or_rd_are_asked_apart(other: dict[str, object]) -> None:
    core = Core()
    assert asks(core.query(question("a.example.com", use_edns=0), 1))
    assert asks(core.query(question("a.example.com", **{"use_edns": 0, **other}), 2))


# -- R8-R10: what is cached ------------------------------------------------------------------------


def test_r8_cache_tells_all_names_types_and_flags_apart() -> None:
    core = Core()
    for i in range(300):
        core.resolve(question(f"host{i}.example.com"), answering(f"@ 60 IN A 198.51.100.{i % 250}"))
    for i in range(300):
        reply = message(core.resolve(question(f"host{i}.example.com")))
        assert texts(reply.answer) == [f"host{i}.example.com. 60 IN A 198.51.100.{i % 250}"]


def test_r9_records_for_other_names_are_left_out() -> None:
    core = Core()
    reply = message(
        core.resolve(
            question("www.example.com"),
            answering(
                "victim.example.net. 60 IN A 203.0.113.66",
                "@ 60 IN CNAME web.example.com.",
                "other.example.com. 60 IN A 203.0.113.66",
                "web.example.com. 60 IN A 198.51.100.7",
                authority=[
                    "example.com. 60 IN NS ns.evil.example.",
                    "example.net. 60 IN NS ns.evil.example.",
                ],
                additional=["victim.example.net. 60 IN A 203.0.113.66"],
            ),
        )
    )
    assert texts(reply.answer) == [
        "www.example.com. 60 IN CNAME web.example.com.",
        "web.example.com. 60 IN A 198.51.100.7",
    ]
    assert reply.authority == []
    assert reply.additional == []
    assert asks(core.query(question("victim.example.net"), "v"))
    assert asks(core.query(question("web.example.com"), "w"))


def test_r9_chain_in_any_order_is_followed() -> None:
    core = Core()
    records = [
        "c.example. 60 IN A 198.51.100.7",
        "b.example. 60 IN CNAME c.example.",
        "@ 60 IN CNAME b.example.",
    ]
    reply = message(core.resolve(question("a.example.com"), answering(*records)))
    assert len(texts(reply.answer)) == 3


@pytest.mark.parametrize("links", [8, 9])
def test_r9_chain_has_at_most_eight_links(links: int) -> None:
    core = Core()
    chain = ["@ 60 IN CNAME n1.example."] + [
        f"n{i}.example. 60 IN CNAME n{i + 1}.example." for i in range(1, links)
    ]
    reply = message(
        core.resolve(question("a.example.com"), answering(*chain, f"n{links}.example. 60 IN A 192.0.2.9"))
    )
    assert reply.rcode() == (dns.rcode.NOERROR if links == 8 else dns.rcode.SERVFAIL)


def test_r9_chain_that_loops_gets_servfail() -> None:
    core = Core()
    loop = ["@ 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example.com."]
    assert message(core.resolve(question("a.example.com"), answering(*loop))).rcode() == dns.rcode.SERVFAIL


def test_r9_dname_and_its_cname_pass() -> None:
    core = Core()
    records = [
        "example.com. 60 IN DNAME example.net.",
        "@ 60 IN CNAME a.example.net.",
        "a.example.net. 60 IN A 192.0.2.9",
    ]
    assert len(texts(message(core.resolve(question("a.example.com"), answering(*records))).answer)) == 3


def test_r10_each_zone_has_its_own_upstream_and_cache() -> None:
    core = Core(domain_upstreams={"corp.example.com": (("192.0.2.99", 5353),)})
    core.resolve(question("www.corp.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.endpoint == ("192.0.2.99", 5353)
    core.resolve(question("www.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.endpoint == ("192.0.2.1", 53)
    core.resolve(question("www.notcorp.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.endpoint == ("192.0.2.1", 53)


def test_r10_nxdomain_of_the_parent_zone_does_not_cut_a_zone_with_its_own_upstream() -> None:
    core = Core(domain_upstreams={"corp.example.com": (("192.0.2.99", 53),)})
    core.resolve(
        question("example.com"), answering(rcode="NXDOMAIN", authority=["com. 60 IN SOA a. b. 1 2 3 4 60"])
    )
    assert message(core.resolve(question("x.example.com"))).rcode() == dns.rcode.NXDOMAIN
    assert asks(core.query(question("www.corp.example.com")))


# -- R11-R14: how long -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soa_ttl", "minimum", "cached"), [(60, 30, 30), (20, 30, 20), (9000, 9000, 300), (60, 0, 0), (0, 60, 0)]
)
def test_r11_negative_answer_is_kept_for_the_soa_s_time(soa_ttl: int, minimum: int, cached: int) -> None:
    core = Core()
    soa = f"example.com. {soa_ttl} IN SOA ns.example.com. root.example.com. 1 2 3 4 {minimum}"
    core.resolve(question("gone.example.com"), answering(rcode="NXDOMAIN", authority=[soa]))
    if cached:
        core.now += cached - 1
        assert message(core.resolve(question("gone.example.com"))).rcode() == dns.rcode.NXDOMAIN
        core.now += 2
    assert asks(core.query(question("gone.example.com")))


def test_r11_nxdomain_holds_for_all_types_and_all_below() -> None:
    core = Core()
    core.resolve(question("gone.example.com"), answering(rcode="NXDOMAIN", authority=[SOA]))
    for name, qtype in (
        ("gone.example.com", "MX"),
        ("a.gone.example.com", "A"),
        ("x.y.gone.example.com", "AAAA"),
    ):
        reply = message(core.resolve(question(name, qtype)))
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert texts(reply.authority)[0].startswith(
            "example.com. 30 IN SOA ns.example.com. root.example.com. 1"
        )
    assert asks(core.query(question("notgone.example.com")))


def test_r11_nodata_holds_for_its_type_only() -> None:
    core = Core()
    core.resolve(question("a.example.com", "MX"), answering(authority=[SOA]))
    assert not asks(core.query(question("a.example.com", "MX")))
    assert asks(core.query(question("a.example.com", "TXT")))


@pytest.mark.parametrize("authority", [[], ["example.net. 60 IN SOA a. b. 1 2 3 4 60"]])
def test_r11_negative_answer_without_a_soa_of_the_name_s_zone_is_not_kept(authority: list[str]) -> None:
    core = Core()
    reply = message(
        core.resolve(question("gone.example.com"), answering(rcode="NXDOMAIN", authority=authority))
    )
    assert reply.authority == []
    assert asks(core.query(question("gone.example.com")))


def test_r12_ttl_counts_down() -> None:
    core = Core()
    core.resolve(question("a.example.com"), answering(A_RECORD))
    core.now += 20.5
    assert message(core.resolve(question("a.example.com"))).answer[0].ttl == 40
    core.now += 40
    assert asks(core.query(question("a.example.com")))


@pytest.mark.parametrize(("ttl", "shown"), [(7 * 86400 + 1, 7 * 86400), (7 * 86400, 7 * 86400)])
def test_r12_ttl_over_a_week_is_a_week(ttl: int, shown: int) -> None:
    core = Core()
    core.resolve(question("a.example.com"), answering(f"@ {ttl} IN A 192.0.2.9"))
    assert message(core.resolve(question("a.example.com"))).answer[0].ttl == shown


@pytest.mark.parametrize("ttl", [0, 1 << 31, 0xFFFFFFFF])
def test_r12_ttl_of_zero_or_with_the_top_bit_is_not_cached(ttl: int) -> None:
    core = Core()

    def script(ask: Ask) -> bytes:
        packet = bytearray(response(ask.packet, ["@ 0 IN A 192.0.2.9"]))
        at = packet.index(b"\0\0\0\0\0\4")
        packet[at : at + 4] = ttl.to_bytes(4, "big")
        return bytes(packet)

    assert message(core.resolve(question("a.example.com"), script)).answer[0].ttl == 0
    assert asks(core.query(question("a.example.com")))


def test_r13_stale_answer_is_given_only_when_allowed_and_upstreams_fail() -> None:
    for allowed in (False, True):
        core = Core(serve_stale=allowed)
        core.resolve(question("a.example.com"), answering(A_RECORD))
        core.now += 3600
        reply = message(core.resolve(question("a.example.com")))
        assert reply.rcode() == (dns.rcode.NOERROR if allowed else dns.rcode.SERVFAIL)
        if allowed:
            assert reply.answer[0].ttl == 30


def test_r13_stale_answer_ends_after_a_day() -> None:
    core = Core(serve_stale=True)
    core.resolve(question("a.example.com"), answering(A_RECORD))
    core.now += 86400 + 61
    assert message(core.resolve(question("a.example.com"))).rcode() == dns.rcode.SERVFAIL


def test_r13_fresh_answer_replaces_a_stale_one() -> None:
    core = Core(serve_stale=True)
    core.resolve(question("a.example.com"), answering(A_RECORD))
    core.now += 3600
    reply = message(core.resolve(question("a.example.com"), answering("@ 60 IN A 198.51.100.8")))
    assert texts(reply.answer) == ["a.example.com. 60 IN A 198.51.100.8"]


def test_r14_servfail_is_remembered_for_five_seconds_at_most() -> None:
    core = Core()
    assert (
        message(core.resolve(question("a.example.com"), answering(rcode="SERVFAIL"))).rcode()
        == dns.rcode.SERVFAIL
    )
    core.now += 4.9
    assert not asks(core.query(question("a.example.com")))
    core.now += 0.2
    assert asks(core.query(question("a.example.com")))


# -- R17: failover ---------------------------------------------------------------------------------


def alive_but(dead: set[str], record: str = A_RECORD) -> object:
    return lambda ask: None if ask.upstream.host in dead else response(ask.packet, [record])


def test_r17_blackholed_upstream_costs_little_and_is_then_skipped() -> None:
    core = Core(upstreams=THREE)
    took = []
    for i in range(100):
        started = core.now
        reply = message(core.resolve(question(f"n{i}.example.com"), alive_but({"192.0.2.1"})))  # type: ignore[arg-type]
        assert reply.rcode() == dns.rcode.NOERROR
        took.append(core.now - started)
        core.now += 0.2
    assert sorted(took)[94] <= 1.2
    assert sum(t > 0 for t in took) <= 2
    core.now += 31
    core.resolve(question("later.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.host == "192.0.2.1"


def test_r17_all_dead_is_servfail_before_the_client_gives_up() -> None:
    for upstreams in (THREE, THREE[:1]):
        core = Core(upstreams=upstreams)
        started = core.now
        assert message(core.resolve(question("a.example.com"))).rcode() == dns.rcode.SERVFAIL
        assert core.now - started <= 5.0
        assert len(core.asks) <= ATTEMPTS_MAX
        assert {ask.upstream.host for ask in core.asks} == {host for host, _ in upstreams}


def test_r17_late_answer_of_the_first_upstream_is_taken() -> None:
    core = Core(upstreams=THREE)
    (first,) = asks(core.query(question("a.example.com")))
    core.now += 0.4
    (second,) = asks(core.forwarder.alarm(core.now))
    assert second.upstream.host == "192.0.2.2"
    actions = core.deliver(first.attempt, response(first.packet, [A_RECORD]))
    assert len(replies(actions)) == 1
    assert cancels(actions) == [first.attempt, second.attempt]


def test_r17_refused_socket_is_answered_by_the_next_at_once() -> None:
    core = Core(upstreams=THREE)
    (first,) = asks(core.query(question("a.example.com")))
    (second,) = asks(core.forwarder.upstream_failed(first.attempt, "unreachable", core.now))
    assert second.upstream.host == "192.0.2.2"
    core.resolve(question("b.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.host == "192.0.2.2"


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP"])
def test_r17_next_upstream_is_asked_when_one_cannot(rcode: str) -> None:
    core = Core(upstreams=THREE)

    def script(ask: Ask) -> bytes:
        return (
            response(ask.packet, rcode=rcode)
            if ask.upstream.host != "192.0.2.3"
            else response(ask.packet, [A_RECORD])
        )

    assert message(core.resolve(question("a.example.com"), script)).rcode() == dns.rcode.NOERROR
    assert message(core.resolve(question("b.example.com"), answering(rcode=rcode))).rcode().name == rcode


def test_r17_no_upstream_at_all_is_servfail_at_once() -> None:
    core = Core(upstreams=())
    assert message(core.resolve(question("a.example.com"))).rcode() == dns.rcode.SERVFAIL


def test_upstream_older_than_edns_is_asked_without() -> None:
    core = Core()

    def script(ask: Ask) -> bytes:
        if dns.message.from_wire(ask.packet).edns == 0:
            return HEADER.pack(int.from_bytes(ask.packet[:2], "big"), 0x8181, 0, 0, 0, 0)
        return response(ask.packet, [A_RECORD])

    assert message(core.resolve(question("a.example.com"), script)).answer


# -- R18: loops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [GATEWAY, f"::ffff:{GATEWAY}", "10.9.8.7", "0.0.0.0", "::", "224.0.0.1"])
def test_r18_upstream_that_is_ourselves_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="upstreams"):
        Core(upstreams=((host, 53),), own_addresses=frozenset({"10.9.8.7"}))
    with pytest.raises(ConfigError, match="domain_upstreams"):
        Core(domain_upstreams={"corp.example": ((host, 53),)}, own_addresses=frozenset({"10.9.8.7"}))


def test_r18_stub_of_the_host_s_resolver_is_a_fine_upstream() -> None:
    assert Core(upstreams=(("127.0.0.53", 53),)).forwarder.upstreams


def test_r18_ourselves_in_resolv_conf_is_left_out() -> None:
    core = Core(upstreams=())
    core.forwarder.set_upstreams(((GATEWAY, 53), (f"::ffff:{GATEWAY}", 53), ("192.0.2.7", 53)))
    assert [str(u) for u in core.forwarder.upstreams] == ["192.0.2.7:53"]


def test_r18_own_query_that_comes_back_moves_to_the_next_upstream() -> None:
    core = Core(upstreams=THREE)
    (ask,) = asks(core.query(question("a.example.com")))
    (second,) = asks(core.query(ask.packet, "the loop"))
    assert second.upstream.host == "192.0.2.2"
    assert core.counts["query_looped"] == 1
    core.resolve(question("b.example.com"), answering(A_RECORD))
    assert core.asks[0].upstream.host == "192.0.2.2"


def test_r18_probe_that_comes_back_through_another_forwarder_shows_the_loop() -> None:
    core = Core()
    probe = [
        a
        for a in core.forwarder.query(question("a.example.com"), 1, b"g", False, core.now)
        if isinstance(a, Ask)
    ][1]
    name = dns.message.from_wire(probe.packet).question[0].name.to_text()
    assert core.query(question(name, "TXT"), "the loop") == []
    assert message(core.resolve(question("b.example.com"))).rcode() == dns.rcode.SERVFAIL
    assert core.asks == []


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


# -- R23: shares -----------------------------------------------------------------------------------


def test_r23_one_guest_s_flood_of_names_leaves_room_for_others() -> None:
    core = Core()
    for i in range(IN_FLIGHT_PER_GUEST_MAX):
        assert asks(core.query(question(f"x{i}.example.com"), i, guest=b"evil"))
    (reply,) = replies(core.query(question("more.example.com"), "m", guest=b"evil"))
    assert message(reply.packet).rcode() == dns.rcode.SERVFAIL
    assert asks(core.query(question("mine.example.com"), "g", guest=b"good"))


def test_r23_a_flood_from_many_ipv6_addresses_leaves_room_for_others() -> None:
    core = Core()
    for i in range(IN_FLIGHT_IPV6_MAX):
        guest = bytes(14) + i.to_bytes(2, "big")
        assert asks(core.query(question(f"x{i}.example.com"), i, guest=guest))
    (reply,) = replies(core.query(question("more.example.com"), "m", guest=b"\xfe" * 16))
    assert message(reply.packet).rcode() == dns.rcode.SERVFAIL
    assert asks(core.query(question("mine.example.com"), "g", guest=b"good"))


def test_r23_all_lookups_end_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "IN_FLIGHT_MAX", 50)
    core = Core(upstreams=THREE)
    actions = [a for i in range(60) for a in core.query(question(f"x{i}.example.com"), i, guest=bytes([i]))]
    found, _ = core.play(actions)
    assert len(found) == 60
    assert core.forwarder.in_flight == 0
    assert core.forwarder._attempts == {}
    assert core.forwarder._in_flight == {}
