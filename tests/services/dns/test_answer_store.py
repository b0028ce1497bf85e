"""What of an upstream's answer is kept and for how long, row by row."""

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
    response,
    texts,
)

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
