"""What the DNS forwarder does with each message: bytes, sender and `now` in; actions out. No I/O, no clock.

Theory of operation. A client's query ends at the first of these: malformed or of a kind we refuse; a name
of our own; the cache; no recursion (REFUSED); a lookup that is under way for the same question, which it
joins; a new lookup.

A lookup asks upstreams one after the other. Each try is an *attempt* with its own socket, id and case:

  event                                    what the lookup does
  start, HEDGE_S without an answer         attempt at the next upstream; the others stay open
  datagram that does not match             counted and ignored; after SPOOFS_MAX the same over TCP
  matching answer, TC set                  same upstream over TCP
  matching answer in another case          ignored; at the time-out the same over TCP
  SERVFAIL, REFUSED, socket error          next upstream; the code is kept for the end
  attempt timed out                        next upstream; twice in a row: it is down for a while
  usable answer                            all who wait are answered, other attempts cancelled
  TOTAL_TIMEOUT_S, or nobody left to ask   stale answer if allowed, else the code kept, else SERVFAIL

Each query of ours carries a random id and case, so one that comes back to us as a client's query shows a
loop; loops through other forwarders are seen by a probe under a random name, sent with the first query to
an upstream.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Hashable
from typing import Protocol

from arcbox_net.services.dns.answers import flattened, parse_answer, parse_records
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.rebind import RebindFilter
from arcbox_net.services.dns.settings import (
    ATTEMPTS_MAX,
    HEDGE_S,
    IN_FLIGHT_IPV6_MAX,
    IN_FLIGHT_MAX,
    IN_FLIGHT_PER_GUEST_MAX,
    IPV6_BYTES,
    LOOPED_S,
    SPOOFS_MAX,
    TCP_TIMEOUT_S,
    TOTAL_TIMEOUT_S,
    UDP_TIMEOUT_S,
    WAITERS_MAX,
    DnsSettings,
)
from arcbox_net.services.dns.upstreams import (
    LOOP_SUFFIX,
    NONCE_BYTES,
    OwnAddresses,
    Upstream,
    UpstreamSet,
    Zones,
)
from arcbox_net.services.dns.wire import (
    ANY,
    AXFR,
    BADVERS,
    FORMERR,
    HINFO,
    IN,
    IXFR,
    KEY_RD,
    MAILA,
    MAILB,
    NOERROR,
    NOTIMP,
    OPT,
    REFUSED,
    SERVFAIL,
    SERVFAIL_TTL_S,
    TC,
    TKEY,
    TSIG,
    TXT,
    Answer,
    Query,
    WireError,
    build_query,
    cache_key,
    mix_case,
    parse_query,
    record,
    refuse,
    render,
    to_wire,
)

STALE_TTL_S = 30  # RFC 8767 4
SILENCE_TTL_S = 1  # RFC 9520 3.2: a failure is remembered for at least a second
CUT_TYPE = 0  # cache key type of "this name and all below it do not exist" (RFC 8020)
_RFC8482 = Answer(NOERROR, 0, 1, 0, record(b"\xc0\x0c", HINFO, 3600, b"\x07RFC8482\0"))
_RETRY_CODES = (FORMERR, SERVFAIL, NOTIMP, REFUSED)


class Cache(Protocol):
    """Answers by key; `cache.AnswerCache` is the one there is."""

    def get(self, key: bytes, now: float, stale: bool = False) -> Answer | None: ...
    def put(self, key: bytes, answer: Answer, now: float) -> None: ...
    def clear(self) -> None: ...


@dataclasses.dataclass(slots=True, frozen=True)
class Reply:
    """Send *packet* to *client*."""

    client: Hashable
    packet: bytes


@dataclasses.dataclass(slots=True, frozen=True)
class Ask:
    """Send *packet* to *upstream* from a fresh socket, and report what comes back under *attempt*."""

    attempt: int
    upstream: Upstream
    packet: bytes
    stream: bool


@dataclasses.dataclass(slots=True, frozen=True)
class Cancel:
    """Close the socket of *attempt*."""

    attempt: int


Action = Reply | Ask | Cancel


@dataclasses.dataclass(slots=True)
class _Waiter:
    query: Query
    client: Hashable
    guest: bytes
    stream: bool


@dataclasses.dataclass(slots=True)
class _Lookup:
    key: bytes
    name: bytes
    qtype: int
    key_flags: int
    zone: bytes
    servers: UpstreamSet
    started: float
    waiters: list[_Waiter]
    attempts: dict[int, _Attempt] = dataclasses.field(default_factory=dict)
    tried: list[Upstream] = dataclasses.field(default_factory=list)
    finished: list[Upstream] = dataclasses.field(default_factory=list)
    rcode: int | None = None


@dataclasses.dataclass(slots=True)
class _Attempt:
    lookup: _Lookup | None
    upstream: Upstream
    packet: bytes
    question: bytes
    stream: bool
    edns: bool
    started: float
    spoofs: int = 0
    other_case: bool = False


class Forwarder:
    """The decisions of one network's forwarder. `counts` says what happened how often."""

    def __init__(
        self, settings: DnsSettings, names: LocalNames, cache: Cache, rng: Callable[[int], bytes]
    ) -> None:
        self.counts: dict[str, int] = {}
        self._names = names
        self._cache = cache
        self._rng = rng
        self._chance = b""
        self._chance_at = 0
        self._recursion = settings.recursion
        self._stale = settings.serve_stale
        self._own = OwnAddresses(settings.listen, settings.own_addresses)
        self._own.check(settings.upstreams, "dns.upstreams")
        for endpoints in settings.domain_upstreams.values():
            self._own.check(endpoints, "dns.domain_upstreams")
        domains = {suffix: self._servers(ends) for suffix, ends in settings.domain_upstreams.items()}
        self._zones = Zones(self._servers(settings.upstreams), domains)
        self._rebind = (
            RebindFilter([settings.subnet] if settings.subnet else []) if settings.rebind_protection else None
        )
        self._rebind_allow = [to_wire(suffix) for suffix in settings.rebind_allow]
        self._lookups: dict[bytes, _Lookup] = {}
        self._attempts: dict[int, _Attempt] = {}
        self._in_flight: dict[bytes, int] = {}
        self._in_flight_ipv6 = 0
        self._alarms: list[tuple[float, int, bool]] = []
        self._last_attempt = 0
        self._cuts = 0

    # -- what the shell calls ----------------------------------------------------------------------

    def set_upstreams(self, endpoints: tuple[tuple[str, int], ...]) -> None:
        """Use *endpoints* (as found in resolv.conf) from now on; ours among them are left out."""
        usable = []
        for endpoint in endpoints:
            if self._own.refusal(endpoint):
                self._count("upstream_refused")
            else:
                usable.append(endpoint)
        self._zones.default = self._servers(tuple(usable))
        # Another network's servers may see other names (split horizon).
        self.flush()

    @property
    def upstreams(self) -> list[Upstream]:
        return self._zones.all()

    @property
    def in_flight(self) -> int:
        return len(self._lookups)

    def flush(self) -> None:
        self._cache.clear()
        self._cuts = 0

    def query(self, packet: bytes, client: Hashable, guest: bytes, stream: bool, now: float) -> list[Action]:
        """Take a client's *packet*. *guest* is its address, whose share of the lookups is limited."""
        if len(packet) < 12:
            return self._drop("query_short")
        if packet[2] & 0x80:
            return self._drop("query_is_response")
        if packet[2] & 0x78:
            self._count("query_opcode")
            return [Reply(client, refuse(packet, NOTIMP))]
        if packet[4:6] != b"\0\1":
            self._count("query_qdcount")
            return [Reply(client, refuse(packet, FORMERR))]
        try:
            query = parse_query(packet)
        except WireError as error:
            self._count("query_" + error.reason)
            return [Reply(client, refuse(packet, FORMERR))]
        answer = self._refusal(query) or self._own_answer(query)
        if answer is not None:
            return [Reply(client, render(query, answer, query.limit(stream)))]
        key = query.key
        looped = self._looped(query, key, now)
        if looped is not None:
            return looped
        answer = self._cached(key, query, now)
        if answer is None and not self._recursion:
            self._count("external_refused")
            answer = Answer(REFUSED)
        if answer is not None:
            return [Reply(client, render(query, answer, query.limit(stream)))]
        return self._join(key, _Waiter(query, client, guest, stream), now)

    def upstream_packet(self, attempt_id: int, packet: bytes, now: float) -> list[Action]:
        """Take what an upstream, or somebody in its name, sent on the socket of an attempt."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return []
        if not self._matches(attempt, packet):
            return self._spoofed(attempt_id, attempt, now)
        lookup = attempt.lookup
        if lookup is None:
            return self._close(attempt_id)
        rcode = packet[3] & 15
        if packet[4:6] == b"\0\0" or (
            rcode in (FORMERR, NOTIMP) and attempt.edns and packet[10:12] == b"\0\0"
        ):
            # RFC 6891 7: a server older than EDNS.
            return self._without_edns(attempt_id, attempt, now)
        if packet[2] & TC >> 8 and not attempt.stream:
            self._count("upstream_truncated")
            return [*self._close(attempt_id), self._attempt(lookup, attempt.upstream, True, now)]
        try:
            answer = self._checked(packet, attempt, lookup)
        except WireError as error:
            self._count("upstream_" + error.reason)
            if error.reason != "cname-chain":
                return self._spoofed(attempt_id, attempt, now)
            answer = Answer(SERVFAIL, ttl_s=SERVFAIL_TTL_S)
            return self._finish(lookup, attempt, answer, now)
        lookup.servers.answered(attempt.upstream)
        if answer.rcode in _RETRY_CODES:
            lookup.rcode = answer.rcode
            self._count("upstream_rcode")
            return self._next(attempt_id, attempt, now, finished=True)
        return self._finish(lookup, attempt, answer, now)

    def upstream_failed(self, attempt_id: int, reason: str, now: float) -> list[Action]:
        """The socket of an attempt could not send, was refused or closed. *reason* is a counter's name."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return []
        self._count("upstream_" + reason)
        if attempt.lookup is not None:
            attempt.lookup.servers.refused(attempt.upstream, now)
        return self._next(attempt_id, attempt, now, finished=True)

    def next_alarm(self) -> float | None:
        """When `alarm` has to be called next."""
        return self._alarms[0][0] if self._alarms else None

    def alarm(self, now: float) -> list[Action]:
        """Let time pass until *now*: hedges and time-outs."""
        actions: list[Action] = []
        while self._alarms and self._alarms[0][0] <= now:
            _, attempt_id, hedge = heapq.heappop(self._alarms)
            attempt = self._attempts.get(attempt_id)
            if attempt is None:
                continue
            if hedge:
                actions += self._hedge(attempt, now)
            else:
                actions += self._timed_out(attempt_id, attempt, now)
        return actions

    # -- a client's query --------------------------------------------------------------------------

    def _refusal(self, query: Query) -> Answer | None:
        """The answer to questions of a kind that is not forwarded."""
        if query.edns_version > 0:
            return self._policy("query_badvers", BADVERS)
        if query.qclass != IN:
            return self._policy("query_class", REFUSED)
        if query.qtype in (AXFR, IXFR):
            return self._policy("query_transfer", REFUSED)
        if query.qtype in (OPT, 0):
            return self._policy("query_meta_type", FORMERR)
        if query.qtype in (TKEY, TSIG, MAILA, MAILB):
            return self._policy("query_meta_type", NOTIMP)
        return None

    def _policy(self, reason: str, rcode: int) -> Answer:
        self._count(reason)
        return Answer(rcode)

    def _own_answer(self, query: Query) -> Answer | None:
        answer = self._names.answer(query.name, query.qtype)
        if answer is not None:
            self._count("local")
        elif query.qtype == ANY and self._recursion:
            self._count("query_any")
            return _RFC8482
        return answer

    def _looped(self, query: Query, key: bytes, now: float) -> list[Action] | None:
        """A query of our own that came back: leave that upstream out. None when it is a guest's."""
        if query.name.endswith(LOOP_SUFFIX):
            self._zones.mark_looped(query.name, now)
            return self._drop("query_looped")
        lookup = self._lookups.get(key)
        for attempt_id, attempt in lookup.attempts.items() if lookup else ():
            if query.question == attempt.question and query.id.to_bytes(2, "big") == attempt.packet[:2]:
                self._count("query_looped")
                attempt.upstream.looped_until = now + LOOPED_S
                return self._next(attempt_id, attempt, now, finished=True)
        return None

    def _cached(self, key: bytes, query: Query, now: float) -> Answer | None:
        answer = self._cache.get(key, now)
        if answer is not None or not self._cuts:
            if answer is not None:
                self._count("cache_hits")
            return answer
        name = query.name
        zone, _ = self._zones.find(name)
        at = 0
        # Up to the zone's apex only: the parent zone's upstream does not speak for names of another zone.
        while len(name) - at > len(zone):
            answer = self._cache.get(cache_key(name[at:], CUT_TYPE, IN, query.key_flags), now)
            if answer is not None:
                self._count("cache_cut_hits")
                return answer
            at += name[at] + 1
        return None

    def _join(self, key: bytes, waiter: _Waiter, now: float) -> list[Action]:
        """Wait for the lookup of the same question, or begin it."""
        lookup = self._lookups.get(key)
        if lookup is not None:
            if any(w.client == waiter.client and w.query.id == waiter.query.id for w in lookup.waiters):
                return self._drop("query_repeated")
            if len(lookup.waiters) >= WAITERS_MAX:
                return self._fail(waiter, "waiters_full")
            self._count("coalesced")
            lookup.waiters.append(waiter)
            return []
        if len(self._lookups) >= IN_FLIGHT_MAX:
            return self._fail(waiter, "lookups_full")
        is_ipv6 = len(waiter.guest) == IPV6_BYTES
        if self._in_flight.get(waiter.guest, 0) >= IN_FLIGHT_PER_GUEST_MAX or (
            is_ipv6 and self._in_flight_ipv6 >= IN_FLIGHT_IPV6_MAX
        ):
            return self._fail(waiter, "guest_lookups_full")
        query = waiter.query
        zone, servers = self._zones.find(query.name)
        lookup = _Lookup(key, query.name, query.qtype, query.key_flags, zone, servers, now, [waiter])
        order = servers.order(now)
        if not order:
            return self._fail(waiter, "no_upstream")
        self._lookups[key] = lookup
        self._in_flight[waiter.guest] = self._in_flight.get(waiter.guest, 0) + 1
        self._in_flight_ipv6 += is_ipv6
        actions: list[Action] = [self._attempt(lookup, order[0], False, now)]
        if order[0].probed_at is None:
            actions.append(self._probe(order[0], now))
        return actions

    def _fail(self, waiter: _Waiter, reason: str) -> list[Action]:
        self._count(reason)
        return [
            Reply(waiter.client, render(waiter.query, Answer(SERVFAIL), waiter.query.limit(waiter.stream)))
        ]

    # -- attempts ----------------------------------------------------------------------------------

    def _attempt(
        self, lookup: _Lookup, upstream: Upstream, stream: bool, now: float, edns: bool = True
    ) -> Ask:
        chance = self._random(2 + len(lookup.name))
        name = lookup.name
        if upstream.keeps_case:
            name = mix_case(name, int.from_bytes(chance[2:], "big"))
        packet = build_query(chance[0] << 8 | chance[1], name, lookup.qtype, lookup.key_flags, edns=edns)
        question = packet[12 : 16 + len(name)]
        attempt_id = self._open(_Attempt(lookup, upstream, packet, question, stream, edns, now), now)
        lookup.tried.append(upstream)
        self._count("asked_tcp" if stream else "asked")
        return Ask(attempt_id, upstream, packet, stream)

    def _probe(self, upstream: Upstream, now: float) -> Ask:
        upstream.probed_at = now
        name = upstream.probe_name
        packet = build_query(int.from_bytes(self._random(2), "big"), name, TXT, KEY_RD, edns=False)
        attempt = _Attempt(None, upstream, packet, packet[12:], False, False, now)
        return Ask(self._open(attempt, now), upstream, packet, False)

    def _open(self, attempt: _Attempt, now: float) -> int:
        self._last_attempt += 1
        attempt_id = self._last_attempt
        self._attempts[attempt_id] = attempt
        lookup = attempt.lookup
        timeout = TCP_TIMEOUT_S if attempt.stream else UDP_TIMEOUT_S
        if lookup is not None:
            lookup.attempts[attempt_id] = attempt
            timeout = min(timeout, max(0.0, lookup.started + TOTAL_TIMEOUT_S - now))
            if len(lookup.servers.members) > 1:
                heapq.heappush(self._alarms, (now + HEDGE_S, attempt_id, True))
        heapq.heappush(self._alarms, (now + timeout, attempt_id, False))
        return attempt_id

    def _close(self, attempt_id: int) -> list[Action]:
        attempt = self._attempts.pop(attempt_id)
        if attempt.lookup is not None:
            del attempt.lookup.attempts[attempt_id]
        return [Cancel(attempt_id)]

    def _matches(self, attempt: _Attempt, packet: bytes) -> bool:
        """Whether *packet* answers the attempt's query: id, QR, opcode and the question to the letter."""
        if packet[:2] != attempt.packet[:2] or len(packet) < 12 or packet[2] & 0xF8 != 0x80:
            return False
        if packet[4:6] == b"\0\0":
            return attempt.edns and packet[3] & 15 in (FORMERR, NOTIMP)
        question = packet[12 : 12 + len(attempt.question)]
        if packet[4:6] != b"\0\1" or question.lower() != attempt.question.lower():
            return False
        if question == attempt.question:
            return True
        if attempt.stream:
            # Nobody off the path is in a TCP connection: this server does not keep the case.
            attempt.upstream.keeps_case = False
            return question[-4:] == attempt.question[-4:]
        attempt.other_case = True
        return False

    def _spoofed(self, attempt_id: int, attempt: _Attempt, now: float) -> list[Action]:
        self._count("upstream_mismatch")
        attempt.spoofs += 1
        if attempt.stream:
            return self._next(attempt_id, attempt, now, finished=True)
        if attempt.spoofs < SPOOFS_MAX or attempt.lookup is None:
            return []
        self._count("upstream_under_attack")
        return [*self._close(attempt_id), self._attempt(attempt.lookup, attempt.upstream, True, now)]

    def _without_edns(self, attempt_id: int, attempt: _Attempt, now: float) -> list[Action]:
        assert attempt.lookup is not None
        self._count("upstream_without_edns")
        again = self._attempt(attempt.lookup, attempt.upstream, attempt.stream, now, edns=False)
        return [*self._close(attempt_id), again]

    def _hedge(self, attempt: _Attempt, now: float) -> list[Action]:
        """Also ask another upstream that this lookup has not asked yet."""
        lookup = attempt.lookup
        if lookup is None or len(lookup.tried) >= ATTEMPTS_MAX:
            return []
        fresh = [u for u in lookup.servers.order(now) if u not in lookup.tried]
        return [self._attempt(lookup, fresh[0], False, now)] if fresh else []

    def _timed_out(self, attempt_id: int, attempt: _Attempt, now: float) -> list[Action]:
        lookup = attempt.lookup
        if lookup is None:
            return self._close(attempt_id)
        self._count("upstream_timeout")
        left = lookup.started + TOTAL_TIMEOUT_S - now
        if attempt.other_case and left > HEDGE_S:
            return [*self._close(attempt_id), self._attempt(lookup, attempt.upstream, True, now)]
        lookup.servers.silent(attempt.upstream, now)
        return self._next(attempt_id, attempt, now, finished=False)

    def _next(self, attempt_id: int, attempt: _Attempt, now: float, *, finished: bool) -> list[Action]:
        """An attempt ended without an answer: ask on, wait for the others, or give up.

        An upstream that is *finished* has said no and is not asked again; a silent one may have lost a
        packet.
        """
        actions = self._close(attempt_id)
        lookup = attempt.lookup
        if lookup is None:
            return actions
        if finished:
            lookup.finished.append(attempt.upstream)
        if len(lookup.tried) < ATTEMPTS_MAX and now < lookup.started + TOTAL_TIMEOUT_S - HEDGE_S:
            busy = [a.upstream for a in lookup.attempts.values()]
            order = [u for u in lookup.servers.order(now) if u not in busy and u not in lookup.finished]
            order.sort(key=lookup.tried.count)
            if order:
                return [*actions, self._attempt(lookup, order[0], False, now)]
        return actions if lookup.attempts else actions + self._give_up(lookup, now)

    def _give_up(self, lookup: _Lookup, now: float) -> list[Action]:
        self._count("lookups_failed")
        if self._stale:
            stale = self._cache.get(lookup.key, now, stale=True)
            if stale is not None:
                self._count("stale")
                stale.ttls = [(at, STALE_TTL_S) for at, _ in stale.ttls]
                return self._deliver(lookup, stale)
        if lookup.rcode is None:
            answer = Answer(SERVFAIL, ttl_s=SILENCE_TTL_S)
        else:
            answer = Answer(lookup.rcode, ttl_s=SERVFAIL_TTL_S if lookup.rcode == SERVFAIL else 0)
        if not self._stale:
            self._cache.put(lookup.key, answer, now)
        return self._deliver(lookup, answer)

    # -- answers -----------------------------------------------------------------------------------

    def _checked(self, packet: bytes, attempt: _Attempt, lookup: _Lookup) -> Answer:
        # Our mix of case ends here: what points to the question shows each client's own spelling.
        packet = packet[:12] + lookup.name + packet[12 + len(lookup.name) :]
        answer = parse_answer(packet, attempt.question, lookup.name, lookup.qtype)
        if self._rebind is not None and answer.ancount and not self._may_be_private(lookup):
            records, _, _ = parse_records(packet, 12 + len(attempt.question))
            if self._rebind.catches(packet, records):
                self._count("rebind_refused")
                return Answer(NOERROR)
        return answer

    def _may_be_private(self, lookup: _Lookup) -> bool:
        if lookup.zone != b"\0":
            return True
        name = lookup.name
        at = 0
        while name[at]:
            if name[at:] in self._rebind_allow:
                return True
            at += name[at] + 1
        return False

    def _finish(self, lookup: _Lookup, by: _Attempt, answer: Answer, now: float) -> list[Action]:
        self._cache.put(lookup.key, answer, now)
        if answer.cuts_subtree and answer.ttl_s:
            self._cuts += 1
            flat = flattened(answer, lookup.name)
            self._cache.put(cache_key(lookup.name, CUT_TYPE, IN, lookup.key_flags), flat, now)
        # Whoever was asked earlier and let this one be first counts as silent.
        for attempt in lookup.attempts.values():
            if attempt.started < by.started:
                lookup.servers.silent(attempt.upstream, now)
        return self._deliver(lookup, answer)

    def _deliver(self, lookup: _Lookup, answer: Answer) -> list[Action]:
        del self._lookups[lookup.key]
        guest = lookup.waiters[0].guest
        self._in_flight[guest] -= 1
        self._in_flight_ipv6 -= len(guest) == IPV6_BYTES
        if not self._in_flight[guest]:
            del self._in_flight[guest]
        actions: list[Action] = [
            Reply(w.client, render(w.query, answer, w.query.limit(w.stream))) for w in lookup.waiters
        ]
        for attempt_id in lookup.attempts:
            del self._attempts[attempt_id]
            actions.append(Cancel(attempt_id))
        lookup.attempts.clear()
        return actions

    # -- small things ------------------------------------------------------------------------------

    def _servers(self, endpoints: tuple[tuple[str, int], ...]) -> UpstreamSet:
        return UpstreamSet(endpoints, [self._rng(NONCE_BYTES) for _ in endpoints])

    def _random(self, size: int) -> bytes:
        at = self._chance_at
        if at + size > len(self._chance):
            self._chance = self._rng(4096)
            at = 0
        self._chance_at = at + size
        return self._chance[at : at + size]

    def _drop(self, reason: str) -> list[Action]:
        self._count(reason)
        return []

    def _count(self, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
