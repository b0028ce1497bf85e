"""The compiled cache and bursts: the same replies as the core gives, caps that hold, shares for guests."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.services.dns.answers import parse_answer
from arcbox_net.services.dns.cache import AnswerCache
from arcbox_net.services.dns.hotpath import HotPath
from arcbox_net.services.dns.rates import RateLimiter
from arcbox_net.services.dns.settings import CACHE_BODY_BYTES_MAX
from arcbox_net.services.dns.wire import Answer, cache_key, parse_query, render, to_wire
from tests.oracle.dns import message, question, response, texts

SEED = bytes(range(16))
ANSWER = Answer(0, 0, 1, 0, b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4", [(6, 60)], 60)


def key(name: str, qtype: int = 1) -> bytes:
    return cache_key(to_wire(name), qtype, 1, 4)


def hot(cache: AnswerCache | None = None, queries_per_s: float = 0) -> HotPath:
    return HotPath(cache or AnswerCache(100, 100000, SEED), RateLimiter(queries_per_s, SEED))


@pytest.fixture
def pair() -> object:
    """A client's socket and ours, connected to each other on loopback."""
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    ours.bind(("127.0.0.1", 0))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(30)
    client.connect(ours.getsockname())
    yield client, ours
    client.close()
    ours.close()


def test_a_guest_is_served_over_ipv6_and_known_by_its_address() -> None:
    cache = AnswerCache(100, 100000, SEED)
    cache.put(key("www.example.com"), ANSWER, 1.0)
    path = hot(cache)
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        ours.bind(("::1", 0))
        client.settimeout(30)
        client.connect(ours.getsockname())
        client.send(question("www.example.com"))
        assert path.serve(ours.fileno(), 2.0) == []
        assert client.recv(2048)[-4:] == bytes((1, 2, 3, 4))
        client.send(question("other.example.com"))
        ((packet, address, guest),) = path.serve(ours.fileno(), 2.0)
        assert guest == socket.inet_pton(socket.AF_INET6, "::1")
        path.send(ours.fileno(), address, packet)
        assert client.recv(2048) == packet


@given(
    st.sampled_from(["www.example.com", "WWW.eXample.com"]),
    st.integers(-1, 0),
    st.sampled_from([100, 512, 513, 600, 1232, 4096]),
    st.booleans(),
    st.sampled_from([0x0100, 0x0120, 0x0110, 0x0000]),
    st.integers(0, 12),
    st.integers(0, 59_000),
)
def test_reply_is_the_one_the_core_would_give(
    name: str, edns: int, payload: int, do: bool, flags: int, records: int, elapsed_ms: int
) -> None:
    query = question(name, use_edns=edns, payload=payload, want_dnssec=do and edns == 0, flags=flags)
    upstream = response(query, [f"@ {60 + i} IN A 192.0.2.{i}" for i in range(records * 4 + 1)], flags=0x20)
    parsed = parse_query(query)
    answer = parse_answer(upstream, parsed.question, parsed.name, 1)
    cache = AnswerCache(100, 1 << 20, SEED)
    cache.put(parsed.key, answer, 1000.0)
    for stream in (False, True):
        limit = parsed.limit(stream)
        later = Answer(
            0,
            answer.flags,
            answer.ancount,
            0,
            answer.body,
            [(at, ttl - elapsed_ms // 1000) for at, ttl in answer.ttls],
        )
        assert hot(cache).answer(query, limit, 1000.0 + elapsed_ms / 1000) == render(parsed, later, limit)


@given(st.binary(max_size=80))
def test_no_bytes_are_answered_from_the_cache_by_accident(tail: bytes) -> None:
    cache = AnswerCache(10, 10000, SEED)
    cache.put(key("a.example.com"), ANSWER, 0.0)
    head = b"\0\1\1\0\0\1\0\0\0\0\0"
    for packet in (tail, head + tail, head + b"\0" + tail, question("a.example.com") + tail[:1] * bool(tail)):
        reply = hot(cache).answer(packet, 512, 1.0)
        if reply is not None:
            assert message(reply).question == message(packet).question


def test_burst_is_answered_and_the_rest_handed_over(pair: tuple[socket.socket, socket.socket]) -> None:
    client, ours = pair
    cache = AnswerCache(100, 100000, SEED)
    cache.put(key("a.example.com"), ANSWER, 0.0)
    path = hot(cache)
    queries = [
        question("A.example.com"),
        question("b.example.com"),
        b"short",
        response(question("a.example.com")),
        b"",
    ]
    for packet in queries:
        client.send(packet)
    misses = path.serve(ours.fileno(), 10.0)
    assert path.received == 5
    ((packet, address, guest),) = misses
    assert packet == queries[1]
    assert guest == bytes([127, 0, 0, 1])
    reply = message(client.recv(2000))
    assert texts(reply.answer) == ["A.example.com. 50 IN A 1.2.3.4"]
    path.send(ours.fileno(), address, b"for the miss")
    assert client.recv(2000) == b"for the miss"
    counts = path.counts()
    assert (counts["cache_hits"], counts["query_short"], counts["query_is_response"]) == (1, 2, 1)


def test_full_burst_says_that_there_may_be_more(pair: tuple[socket.socket, socket.socket]) -> None:
    client, ours = pair
    path = hot()
    for _ in range(70):
        client.send(question("a.example.com"))
    assert len(path.serve(ours.fileno(), 1.0)) == path.received == 64
    assert len(path.serve(ours.fileno(), 1.0)) == path.received == 6
    assert path.serve(ours.fileno(), 1.0) == []


def test_oversized_query_is_dropped_and_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    client, ours = pair
    path = hot()
    client.send(question("a.example.com") + bytes(3000))
    assert path.serve(ours.fileno(), 1.0) == []
    assert path.counts()["query_oversized"] == 1


def test_reply_that_cannot_be_sent_is_counted() -> None:
    path = hot()
    path.send(-1, b"\2\0" + bytes(14), b"x")
    assert path.counts()["send_failed"] == 1


# -- the cache -------------------------------------------------------------------------------------


def test_entries_are_capped_and_the_least_used_goes_first() -> None:
    cache = AnswerCache(10, 1 << 20, SEED)
    for i in range(10):
        cache.put(key(f"n{i}"), ANSWER, 0.0)
    assert cache.get(key("n0"), 1.0)
    cache.put(key("n10"), ANSWER, 1.0)
    assert len(cache) == 10
    assert cache.get(key("n0"), 1.0)
    assert cache.get(key("n1"), 1.0) is None


def test_r23_bytes_are_capped_whatever_the_entries() -> None:
    cache = AnswerCache(100000, 100_000, SEED)
    chance = random.Random(2)
    for i in range(5000):
        size = chance.randrange(16, 3000)
        cache.put(key(f"n{i}"), Answer(0, 0, 1, 0, bytes(size), [(0, 60)], 60), 0.0)
        assert cache.size <= 100_000
    assert len(cache) > 10


def test_entry_larger_than_one_may_be_is_not_kept() -> None:
    cache = AnswerCache(10, 1 << 20, SEED)
    for extra, kept in ((0, 1), (1, 0)):
        cache.clear()
        cache.put(key("big"), Answer(0, 0, 1, 0, bytes(CACHE_BODY_BYTES_MAX + extra), [], 60), 0.0)
        assert len(cache) == kept
    AnswerCache(0, 1000, SEED).put(key("a"), ANSWER, 0.0)


def test_r8_same_hash_bucket_does_not_make_the_same_key() -> None:
    cache = AnswerCache(1, 1 << 20, SEED)  # 16 buckets
    many = AnswerCache(4096, 1 << 20, SEED)
    for i in range(4000):
        many.put(key(f"n{i}"), Answer(0, 0, 1, 0, i.to_bytes(4, "big"), [], 60), 0.0)
        cache.put(key(f"n{i}"), ANSWER, 0.0)
        assert cache.get(key(f"n{i + 1}"), 0.0) is None
    for i in range(4000):
        found = many.get(key(f"n{i}"), 0.0)
        assert found is not None
        assert found.body == i.to_bytes(4, "big")


def test_newer_answer_replaces_the_older() -> None:
    cache = AnswerCache(10, 1 << 20, SEED)
    cache.put(key("a"), ANSWER, 0.0)
    cache.put(key("a"), Answer(3, ttl_s=9), 1.0)
    found = cache.get(key("a"), 2.0)
    assert found is not None
    assert (found.rcode, len(cache)) == (3, 1)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 90), st.integers(0, 40)), max_size=120))
def test_cache_behaves_like_a_dictionary_with_times(steps: list[tuple[int, int, int]]) -> None:
    cache = AnswerCache(1000, 1 << 20, SEED)
    model: dict[int, tuple[float, int]] = {}
    now = 0.0
    for name, ttl, wait in steps:
        now += wait
        if ttl > 20:
            cache.put(key(f"n{name}"), Answer(0, 0, 1, 0, bytes(8), [(2, ttl)], ttl), now)
            model[name] = (now, ttl)
        found = cache.get(key(f"n{name}"), now)
        stored, kept = model.get(name, (0.0, 0))
        assert (found is not None) == (now - stored < kept)
        if found is not None:
            assert found.ttls == [(2, kept - int(now - stored))]


def test_place_of_a_ttl_outside_the_body_is_refused() -> None:
    for at in (-1, 5, 1 << 40):
        with pytest.raises((ValueError, OverflowError)):
            AnswerCache(10, 1000, SEED).put(key("a"), Answer(0, 0, 1, 0, bytes(8), [(at, 1)], 60), 0.0)


def test_idle_forwarder_is_small() -> None:
    """Caps are limits, not allocations: what is resident grows with use."""
    code = (
        "import resource; from arcbox_net.services.dns.cache import *;"
        "from arcbox_net.services.dns.hotpath import *;"
        "from arcbox_net.services.dns.rates import *; s=bytes(16);"
        "a=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; c=AnswerCache(1<<20,1<<30,s);"
        "h=HotPath(c,RateLimiter(2000,s)); b=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(b-a)"
    )
    grown_kib = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert grown_kib < 2048


# -- shares ----------------------------------------------------------------------------------------


def test_r23_guest_over_its_rate_is_stopped_and_others_are_not() -> None:
    limiter = RateLimiter(2000, SEED)
    evil, good = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    allowed = sum(limiter.allow(evil, 1.0 + i / 20000) for i in range(20000))
    assert 2000 <= allowed <= 2000 + 201
    assert limiter.allow(good, 2.0)


def test_r23_rate_limit_works_on_the_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    client, ours = pair
    path = hot(queries_per_s=100)
    handed = 0
    for _ in range(3):
        for _ in range(60):
            client.send(question("a.example.com"))
        handed += len(path.serve(ours.fileno(), 5.0))
    assert handed == 50
    assert path.counts()["rate_limited"] == 130


def test_r23_addresses_of_one_prefix_share_what_sixteen_would_have() -> None:
    limiter = RateLimiter(100, SEED)
    prefix = bytes.fromhex("fd123456789a0000")
    many = [prefix + i.to_bytes(8, "big") for i in range(1, 2001)]
    assert sum(limiter.allow(guest, 1.0) for guest in many) == 16 * 50
    assert not limiter.allow(prefix + b"\xff" * 8, 1.0)
    allowed = sum(limiter.allow(many[i % 64], 1.0 + i / 64000) for i in range(64000))
    assert allowed <= 16 * 100 + 1
    assert limiter.allow(bytes.fromhex("fd12345678ff0000") + b"\1" * 8, 2.0)
    assert limiter.allow(b"\x0a\0\0\1", 2.0)


def test_r23_one_ipv6_address_has_what_an_ipv4_address_has() -> None:
    limiter = RateLimiter(2000, SEED)
    guest = bytes.fromhex("fe80000000000000") + b"\1" * 8
    allowed = sum(limiter.allow(guest, 1.0 + i / 20000) for i in range(20000))
    assert 2000 <= allowed <= 2000 + 201


def test_r23_zero_means_no_limit() -> None:
    limiter = RateLimiter(0, SEED)
    assert all(limiter.allow(b"\1\2\3\4", 1.0) for _ in range(10000))


def test_r23_many_addresses_do_not_grow_the_limiter_nor_forget_a_busy_one() -> None:
    limiter = RateLimiter(100, SEED)
    busy = b"\x0a\0\0\1"
    spent = 0
    for i in range(60000):
        limiter.allow(i.to_bytes(16, "big"), 1.0 + i / 1000)
        spent += limiter.allow(busy, 1.0 + i / 1000)
    assert spent <= 50 + 60 * 100
