"""Whom the forwarder asks and what it believes, row by row."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.services.dns import lookups
from arcbox_net.services.dns.actions import Ask
from arcbox_net.services.dns.lookups import SOCKETS_FULL
from arcbox_net.services.dns.settings import (
    ATTEMPTS_MAX,
    IN_FLIGHT_IPV6_MAX,
    IN_FLIGHT_PER_GUEST_MAX,
    SPOOFS_MAX,
    WAITERS_MAX,
)
from arcbox_net.services.dns.wire import HEADER, to_wire
from tests.oracle.dns import (
    A_RECORD,
    GATEWAY,
    THREE,
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


def test_r17_upstreams_are_not_blamed_for_sockets_that_we_have_none_of() -> None:
    core = Core(upstreams=THREE)
    (first,) = asks(core.query(question("a.example.com")))
    core.forwarder.upstream_failed(first.attempt, SOCKETS_FULL, core.now)
    (again,) = asks(core.query(question("b.example.com"), "other"))
    assert again.upstream is first.upstream


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
    monkeypatch.setattr(lookups, "IN_FLIGHT_MAX", 50)
    core = Core(upstreams=THREE)
    actions = [a for i in range(60) for a in core.query(question(f"x{i}.example.com"), i, guest=bytes([i]))]
    found, _ = core.play(actions)
    assert len(found) == 60
    assert core.forwarder.in_flight == 0
    assert len(core.forwarder._lookups._attempts) == 0
    assert core.forwarder._lookups._by_guest == {}
