"""The codec against dnspython, and against messages that lie."""

from __future__ import annotations

import struct

import dns.exception
import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.services.dns import answers
from arcbox_net.services.dns.answers import flattened, parse_answer, parse_records
from arcbox_net.services.dns.wire import (
    DNAME,
    HEADER,
    NAME_BYTES_MAX,
    A,
    Answer,
    WireError,
    ancestors,
    build_query,
    mix_case,
    parse_query,
    read_name,
    render,
    to_text,
    to_wire,
)
from tests.oracle.dns import Core, answering, message, question, response, texts

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, max_size=6).filter(lambda found: sum(len(x) + 1 for x in found) < 255)
QNAME = b"\1a\7example\3com\0"
QUESTION = QNAME + b"\0\1\0\1"


def reply_with(records: bytes, *, an: int = 1, ns: int = 0, ar: int = 0) -> bytes:
    return HEADER.pack(7, 0x8180, 1, an, ns, ar) + QUESTION + records


def rr(owner: bytes, rtype: int, rdata: bytes, rdlength: int | None = None, ttl: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, ttl, len(rdata) if rdlength is None else rdlength) + rdata


# -- round trips against the oracle ----------------------------------------------------------------


@given(
    NAMES, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.booleans(), st.booleans(), st.integers(0, 65535)
)
def test_query_reads_as_dnspython_wrote_it(
    labels: list[bytes], qtype: int, query_id: int, edns: bool, do: bool, payload: int
) -> None:
    name = dns.name.Name([*labels, b""])
    asked = dns.message.make_query(
        name, "A", use_edns=0 if edns else -1, want_dnssec=edns and do, payload=payload
    )
    asked.id = query_id
    asked.question[0].rdtype = dns.rdatatype.RdataType.make(qtype)
    packet = asked.to_wire()
    query = parse_query(packet)
    assert query.id == query_id
    assert query.name == name.canonicalize().to_wire()
    assert (query.qtype, query.qclass) == (qtype, 1)
    assert query.edns == edns
    assert query.do == (edns and do)
    assert query.udp_bytes == (payload if edns else 512)


@given(NAMES, st.integers(1, 0xFFFF), st.integers(0, 7), st.booleans())
def test_query_of_ours_reads_back_in_dnspython(
    labels: list[bytes], qtype: int, key_flags: int, edns: bool
) -> None:
    name = dns.name.Name([*labels, b""])
    asked = dns.message.from_wire(build_query(9, name.to_wire(), qtype, key_flags, edns=edns))
    assert asked.question[0].name == name
    assert asked.question[0].rdtype == qtype
    assert bool(asked.ednsflags & dns.flags.DO) == (edns and bool(key_flags & 1))
    assert bool(asked.flags & dns.flags.CD) == bool(key_flags & 2)
    assert bool(asked.flags & dns.flags.RD) == bool(key_flags & 4)


@given(NAMES)
def test_name_reads_as_dnspython_reads_it(labels: list[bytes]) -> None:
    wire = dns.name.Name([*labels, b""]).to_wire()
    assert read_name(bytes(12) + wire, 12, {}, 12 + len(wire)) == (wire, 12 + len(wire))
    assert dns.name.from_text(to_text(wire)) == dns.name.from_wire(wire, 0)[0]


@given(NAMES, st.integers(0, 2**2048 - 1))
def test_mixed_case_is_the_same_name(labels: list[bytes], chance: int) -> None:
    wire = dns.name.Name([*labels, b""]).to_wire()
    assert mix_case(wire, chance).lower() == wire.lower()
    assert len(mix_case(wire, chance)) == len(wire)


RECORDS = st.lists(
    st.sampled_from(
        [
            "@ 60 IN A 192.0.2.1",
            "@ 61 IN AAAA 2001:db8::1",
            "@ 62 IN MX 10 mail.example.com.",
            "@ 63 IN SRV 1 2 3 a.example.com.",
            '@ 64 IN TXT "one" "two"',
            "@ 65 IN NS ns.example.com.",
            "other.example.net. 60 IN A 203.0.113.1",
            "@ 66 IN SOA ns.example.com. root.example.com. 1 2 3 4 5",
            r"@ 67 IN TYPE700 \# 3 010203",
        ]
    ),
    max_size=12,
    unique=True,
)


@given(RECORDS)
def test_answer_of_an_upstream_comes_out_as_it_went_in_without_the_foreign(records: list[str]) -> None:
    query = question("www.example.com", "A", id=3)
    upstream = response(query, records)
    answer = parse_answer(upstream, query[12:33], query[12:29], 1)
    shown = message(render(parse_query(query), answer, 65535))
    kept = [text.replace("@", "www.example.com.") for text in records if text.startswith("@")]
    assert sorted(texts(shown.answer)) == sorted(kept)


@given(RECORDS)
def test_flattened_answer_fits_behind_another_question(records: list[str]) -> None:
    query = question("www.example.com")
    answer = parse_answer(response(query, records), query[12:33], query[12:29], 1)
    flat = flattened(answer, query[12:29])
    other = question("a.much.longer.name.www.example.com")
    shown = message(render(parse_query(other), flat, 65535))
    same = message(render(parse_query(query), answer, 65535))
    assert sorted(texts(shown.answer)) == sorted(texts(same.answer))


# -- R15: messages that lie ------------------------------------------------------------------------


def name_at_end(wire: bytes) -> bytes:
    return rr(wire, 1, b"\1\2\3\4")


LIES = [
    pytest.param(name_at_end(b"\xc0\x1f"), "bad-pointer", id="pointer-to-self"),
    pytest.param(name_at_end(b"\xc0\x2f"), "bad-pointer", id="pointer-forward"),
    pytest.param(name_at_end(b"\1x\xc0\x1f"), "bad-pointer", id="pointer-to-start-of-own-name"),
    pytest.param(name_at_end(b"\xff\xff"), "bad-pointer", id="pointer-past-end"),
    pytest.param(name_at_end(b"\xc0\x00"), "bad-pointer", id="pointer-into-header"),
    pytest.param(b"\xc0", "name-past-end", id="half-a-pointer"),
    pytest.param(name_at_end(b"\x40" + b"x" * 64 + b"\0"), "label-length", id="label-of-64"),
    pytest.param(name_at_end(b"\x80x\0"), "label-length", id="reserved-label-type"),
    pytest.param(name_at_end(b"\1x" * 127 + b"\1x\0"), "name-length", id="labels-128"),
    pytest.param(
        name_at_end((b"\x3f" + b"x" * 63) * 3 + b"\x3e" + b"x" * 62 + b"\0"), "name-length", id="name-256"
    ),
    pytest.param(b"\x3fxx", "name-past-end", id="label-past-end"),
    pytest.param(b"\xc0\x0c\0\1\0\1\0\0", "record-past-end", id="half-a-record"),
    pytest.param(rr(b"\xc0\x0c", 1, b"\1\2\3\4", 5), "rdata-past-end", id="rdlength-past-end"),
    pytest.param(rr(b"\xc0\x0c", 1, b"\1\2\3"), "rdata-length", id="a-of-3-bytes"),
    pytest.param(rr(b"\xc0\x0c", 28, b"\1" * 4), "rdata-length", id="aaaa-of-4-bytes"),
    pytest.param(rr(b"\xc0\x0c", 5, b"\xc0\x0c\0"), "rdata-length", id="cname-with-more"),
    pytest.param(rr(b"\xc0\x0c", 5, b""), "name-past-end", id="cname-of-nothing"),
    pytest.param(rr(b"\xc0\x0c", 5, b"\3ab") + b"c\0", "name-past-end", id="cname-leaves-its-rdata"),
    pytest.param(rr(b"\xc0\x0c", 15, b"\0"), "name-past-end", id="mx-of-1-byte"),
    pytest.param(rr(b"\xc0\x0c", 6, b"\0\0" + bytes(19)), "rdata-length", id="soa-too-short"),
    pytest.param(rr(b"\xc0\x0c", 1, b"\1\2\3\4") + b"x", "trailing-bytes", id="trailing"),
]


@pytest.mark.parametrize(("records", "reason"), LIES)
def test_r15_upstream_message_that_lies_is_refused(records: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_records(reply_with(records), 12 + len(QUESTION))
    assert caught.value.reason == reason


@pytest.mark.parametrize(("records", "reason"), LIES)
def test_r15_lies_do_not_reach_the_client_and_the_truth_is_still_taken(records: bytes, reason: str) -> None:
    core = Core()
    actions = core.query(question("a.example.com"))
    attempt, packet = actions[0].attempt, actions[0].packet  # type: ignore[union-attr]
    lie = packet[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + packet[12 : 12 + len(QUESTION)] + records
    assert core.deliver(attempt, lie) == []
    assert core.counts["upstream_" + reason] == 1
    assert core.deliver(attempt, response(packet, ["@ 60 IN A 192.0.2.1"]))


@pytest.mark.parametrize(
    "counts", [(65535, 0, 0), (0, 65535, 0), (0, 0, 65535), (65535, 65535, 65535), (2, 0, 0)]
)
def test_r15_counts_that_lie_are_refused(counts: tuple[int, int, int]) -> None:
    packet = HEADER.pack(7, 0x8180, 1, *counts) + QUESTION + rr(b"\xc0\x0c", 1, b"\1\2\3\4")
    with pytest.raises(WireError):
        parse_records(packet, 12 + len(QUESTION))


def test_r15_count_of_65535_in_12_bytes_is_formerr() -> None:
    reply = Core().resolve(HEADER.pack(7, 0x0100, 1, 65535, 0, 0))
    assert message(reply).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize("count", [0, 2, 65535])
def test_r15_question_count_other_than_one_is_formerr(count: int) -> None:
    packet = HEADER.pack(7, 0x0100, count, 0, 0, 0) + QUESTION * 2
    reply = Core().resolve(packet)
    assert reply == HEADER.pack(7, 0x8101, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\x40" + b"x" * 64 + b"\0\0\1\0\1",
        b"\xc0\x0c\0\1\0\1",
        b"\3abc",
        b"\3abc\0\0\1\0",
        b"\1x" * 128 + b"\0\0\1\0\1",
        QUESTION + b"x",
    ],
)
def test_r15_malformed_query_is_formerr(tail: bytes) -> None:
    reply = Core().resolve(HEADER.pack(7, 0x0100, 1, 0, 0, 0) + tail)
    assert reply == HEADER.pack(7, 0x8101, 0, 0, 0, 0)


def test_r15_root_is_a_name() -> None:
    core = Core()
    reply = message(core.resolve(question(".", "NS"), answering(". 60 IN NS a.root-servers.net.")))
    assert texts(reply.answer) == [". 60 IN NS a.root-servers.net."]


def test_r15_longest_name_is_accepted() -> None:
    labels = [b"x" * 63, b"x" * 63, b"x" * 63, b"x" * 61]
    name = dns.name.Name([*labels, b""])
    assert len(name.to_wire()) == NAME_BYTES_MAX
    assert message(Core().resolve(question(name.to_text()), answering("@ 60 IN A 192.0.2.1"))).answer


def test_r15_short_packets_and_responses_from_clients_are_dropped() -> None:
    core = Core()
    for size in range(12):
        assert core.query(question("a.example.com")[:size]) == []
    assert core.query(response(question("a.example.com"))) == []
    assert core.counts == {"query_short": 12, "query_is_response": 1}


def test_r15_work_on_a_message_full_of_pointers_is_linear() -> None:
    """Chained pointers are the worst case: each record is expanded through the ones before it."""
    records = bytearray()
    base = 12 + len(QUESTION)
    target = 12
    count = 0
    while base + len(records) < 0x3FF0:
        here = base + len(records)
        records += rr(struct.pack("!H", 0xC000 | target), 99, b"")
        target = here
        count += 1

    class Steps(dict[int, bytes]):
        taken = 0

        def get(self, key: int, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
            self.taken += 1
            return super().get(key, default)

    known = Steps()
    at = base
    packet = reply_with(bytes(records), an=count)
    for _ in range(count):
        _, at = read_name(packet, at, known, len(packet))
        at += 10
    assert known.taken <= 2 * count


def test_r15_strangers_dnames_cost_no_more_than_other_records(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []

    def counted(name: bytes) -> list[bytes]:
        walks.append(name)
        return ancestors(name)

    monkeypatch.setattr(answers, "ancestors", counted)
    records = [rr(b"\1x\0", DNAME, b"\0")] * 1000
    answer = parse_answer(reply_with(b"".join(records), an=1000), QUESTION, QNAME, A)
    assert answer.ancount == 0
    assert len(walks) <= 2


@given(st.binary(max_size=300))
def test_r15_no_bytes_from_a_client_raise(packet: bytes) -> None:
    core = Core()
    core.query(packet)
    core.query(b"\0\7\1\0\0\1" + packet)


@given(st.binary(max_size=300), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_r15_no_bytes_from_an_upstream_raise(tail: bytes, an: int, ns: int, ar: int) -> None:
    core = Core()
    ask = core.query(question("a.example.com"))[0]
    core.deliver(ask.attempt, tail)  # type: ignore[union-attr]
    head = ask.packet[:2] + b"\x81\x80" + struct.pack("!4H", 1, an, ns, ar)  # type: ignore[union-attr]
    core.deliver(ask.attempt, head + ask.packet[12 : 12 + len(QUESTION)] + tail)  # type: ignore[union-attr]


@given(st.data())
def test_r15_flipped_bytes_never_give_the_client_a_broken_message(data: st.DataObject) -> None:
    """Whatever an upstream sends, what we send on parses (dnspython is the judge)."""
    core = Core()
    ask = core.query(question("a.example.com"))[0]
    records = [
        "@ 60 IN CNAME b.example.com.",
        "b.example.com. 60 IN A 192.0.2.1",
        "b.example.com. 60 IN MX 5 c.d.",
    ]
    packet = bytearray(response(ask.packet, records, ["example.com. 60 IN SOA a. b. 1 2 3 4 5"]))  # type: ignore[union-attr]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(12 + len(QUESTION), len(packet) - 1))
        packet[at] = data.draw(st.integers(0, 255))
    for action in core.deliver(ask.attempt, bytes(packet)):  # type: ignore[union-attr]
        if hasattr(action, "client"):
            try:
                message(action.packet)
            except dns.exception.DNSException:
                # RDATA of types whose content is not ours to judge may be nonsense; the frame must hold.
                parse_records(action.packet, 12 + len(QUESTION))


def test_name_text_is_escaped() -> None:
    assert to_text(b"\4a.b\\\0") == r"a\046b\092"
    assert to_text(b"\0") == "."


@pytest.mark.parametrize("name", ["x" * 64, "a..b", ".".join(["x" * 63] * 4)])
def test_text_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        to_wire(name)


def test_reply_of_an_empty_answer_is_header_question_and_opt() -> None:
    query = parse_query(question("a.example.com", use_edns=0))
    assert len(render(query, Answer(2), 512)) == 12 + len(QUESTION) + 11
