"""The questions under way: whom to ask, what to believe, when to ask on. No I/O, no clock.

Theory of operation. A lookup asks upstreams one after the other. Each try is an *attempt* with its own
socket, id and case:

  event                                    what the lookup does
  start, HEDGE_S without an answer         attempt at the next upstream; the others stay open
  datagram that does not match             counted and ignored; after SPOOFS_MAX the same over TCP
  matching answer, TC set                  same upstream over TCP
  matching answer in another case          ignored; at the time-out the same over TCP
  SERVFAIL, REFUSED, socket error          next upstream; the code is kept for the end
  attempt timed out                        next upstream; twice in a row: it is down for a while
  usable answer                            all who wait are answered, other attempts cancelled
  TOTAL_TIMEOUT_S, or nobody left to ask   stale answer if allowed, else the code kept, else SERVFAIL
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from arcbox_net.services.dns.actions import Action, Reply
from arcbox_net.services.dns.answer_store import AnswerStore
from arcbox_net.services.dns.answers import parse_answer, parse_records
from arcbox_net.services.dns.attempts import Attempts
from arcbox_net.services.dns.lookup import Attempt, Lookup, Waiter
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
    TOTAL_TIMEOUT_S,
    WAITERS_MAX,
)
from arcbox_net.services.dns.upstreams import Upstream, Zones
from arcbox_net.services.dns.wire import (
    FORMERR,
    NOERROR,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    SERVFAIL_TTL_S,
    TC,
    Answer,
    Query,
    WireError,
    render,
)

SOCKETS_FULL = "sockets_full"  # a reason to fail that is ours, and says nothing of the upstream
SILENCE_TTL_S = 1  # RFC 9520 3.2: a failure is remembered for at least a second
_RETRY_CODES = (FORMERR, SERVFAIL, NOTIMP, REFUSED)


class Lookups:
    """One lookup for each question, however many ask it. *counts* is the forwarder's."""

    def __init__(
        self,
        zones: Zones,
        store: AnswerStore,
        rebind: RebindFilter | None,
        rng: Callable[[int], bytes],
        counts: collections.Counter[str],
    ) -> None:
        self._zones = zones
        self._store = store
        self._rebind = rebind
        self._counts = counts
        self._attempts = Attempts(rng)
        self._lookups: dict[bytes, Lookup] = {}
        self._by_guest: collections.Counter[bytes] = collections.Counter()
        self._ipv6 = 0

    def __len__(self) -> int:
        return len(self._lookups)

    def join(self, key: bytes, waiter: Waiter, now: float) -> list[Action]:
        """Wait for the lookup of the same question, or begin it."""
        lookup = self._lookups.get(key)
        if lookup is None:
            return self._begin(key, waiter, now)
        if any(w.client == waiter.client and w.query.id == waiter.query.id for w in lookup.waiters):
            self._counts["query_repeated"] += 1
            return []
        if len(lookup.waiters) >= WAITERS_MAX:
            return self._refuse(waiter, "waiters_full")
        self._counts["coalesced"] += 1
        lookup.waiters.append(waiter)
        return []

    def came_back(self, key: bytes, query: Query, now: float) -> list[Action] | None:
        """Ask elsewhere if the client's *query* is one that we sent. None when it is the client's own."""
        lookup = self._lookups.get(key)
        for attempt_id, attempt in lookup.attempts.items() if lookup else ():
            if query.question == attempt.question and query.id.to_bytes(2, "big") == attempt.packet[:2]:
                self._counts["query_looped"] += 1
                attempt.upstream.looped_until = now + LOOPED_S
                return self._next(attempt_id, attempt, now, finished=True)
        return None

    def packet(self, attempt_id: int, packet: bytes, now: float) -> list[Action]:
        """Take what an upstream, or somebody in its name, sent on the socket of an attempt."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return []
        if not attempt.answered_by(packet):
            return self._spoofed(attempt_id, attempt, now)
        lookup = attempt.lookup
        if lookup is None:
            return [self._attempts.close(attempt_id)]
        rcode = packet[3] & 15
        if packet[4:6] == b"\0\0" or (
            rcode in (FORMERR, NOTIMP) and attempt.edns and packet[10:12] == b"\0\0"
        ):
            # RFC 6891 7: a server older than EDNS.
            self._counts["upstream_without_edns"] += 1
            return self._again(attempt_id, attempt, now, stream=attempt.stream, edns=False)
        if packet[2] & TC >> 8 and not attempt.stream:
            self._counts["upstream_truncated"] += 1
            return self._again(attempt_id, attempt, now, stream=True)
        try:
            answer = self._checked(packet, attempt, lookup)
        except WireError as error:
            self._counts["upstream_" + error.reason] += 1
            if error.reason != "cname-chain":
                return self._spoofed(attempt_id, attempt, now)
            answer = Answer(SERVFAIL, ttl_s=SERVFAIL_TTL_S)
            return self._finish(lookup, attempt, answer, now)
        lookup.servers.answered(attempt.upstream)
        if answer.rcode in _RETRY_CODES:
            lookup.rcode = answer.rcode
            self._counts["upstream_rcode"] += 1
            return self._next(attempt_id, attempt, now, finished=True)
        return self._finish(lookup, attempt, answer, now)

    def failed(self, attempt_id: int, reason: str, now: float) -> list[Action]:
        """The socket of an attempt could not send, was refused or closed. *reason* is a counter's name."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return []
        self._counts["upstream_" + reason] += 1
        if attempt.lookup is not None and reason != SOCKETS_FULL:
            attempt.lookup.servers.refused(attempt.upstream, now)
        return self._next(attempt_id, attempt, now, finished=True)

    def next_alarm(self) -> float | None:
        """When `alarm` has to be called next."""
        return self._attempts.next_alarm()

    def alarm(self, now: float) -> list[Action]:
        """Let time pass until *now*: hedges and time-outs."""
        actions: list[Action] = []
        for attempt_id, attempt, hedge in self._attempts.due(now):
            if hedge:
                actions += self._hedge(attempt, now)
            else:
                actions += self._timed_out(attempt_id, attempt, now)
        return actions

    # -- a lookup's beginning ----------------------------------------------------------------------

    def _begin(self, key: bytes, waiter: Waiter, now: float) -> list[Action]:
        if len(self._lookups) >= IN_FLIGHT_MAX:
            return self._refuse(waiter, "lookups_full")
        guest = waiter.guest
        is_ipv6 = len(guest) == IPV6_BYTES
        if self._by_guest[guest] >= IN_FLIGHT_PER_GUEST_MAX or (is_ipv6 and self._ipv6 >= IN_FLIGHT_IPV6_MAX):
            return self._refuse(waiter, "guest_lookups_full")
        query = waiter.query
        zone, servers = self._zones.find(query.name)
        order = servers.order(now)
        if not order:
            return self._refuse(waiter, "no_upstream")
        lookup = Lookup(key, query.name, query.qtype, query.key_flags, zone, servers, now, [waiter])
        self._lookups[key] = lookup
        self._by_guest[guest] += 1
        self._ipv6 += is_ipv6
        actions: list[Action] = [self._ask(lookup, order[0], now)]
        if order[0].probed_at is None:
            actions.append(self._attempts.probe(order[0], now))
        return actions

    def _refuse(self, waiter: Waiter, reason: str) -> list[Action]:
        self._counts[reason] += 1
        return [_reply(waiter, Answer(SERVFAIL))]

    # -- asking on ---------------------------------------------------------------------------------

    def _ask(
        self, lookup: Lookup, upstream: Upstream, now: float, *, stream: bool = False, edns: bool = True
    ) -> Action:
        self._counts["asked_tcp" if stream else "asked"] += 1
        return self._attempts.ask(lookup, upstream, stream, now, edns)

    def _again(
        self, attempt_id: int, attempt: Attempt, now: float, *, stream: bool, edns: bool = True
    ) -> list[Action]:
        """Put the same question to the same upstream in another way."""
        assert attempt.lookup is not None
        again = self._ask(attempt.lookup, attempt.upstream, now, stream=stream, edns=edns)
        return [self._attempts.close(attempt_id), again]

    def _spoofed(self, attempt_id: int, attempt: Attempt, now: float) -> list[Action]:
        self._counts["upstream_mismatch"] += 1
        attempt.spoofs += 1
        if attempt.stream:
            return self._next(attempt_id, attempt, now, finished=True)
        if attempt.spoofs < SPOOFS_MAX or attempt.lookup is None:
            return []
        self._counts["upstream_under_attack"] += 1
        return self._again(attempt_id, attempt, now, stream=True)

    def _hedge(self, attempt: Attempt, now: float) -> list[Action]:
        """Also ask another upstream that this lookup has not asked yet."""
        lookup = attempt.lookup
        if lookup is None or len(lookup.tried) >= ATTEMPTS_MAX:
            return []
        fresh = [u for u in lookup.servers.order(now) if u not in lookup.tried]
        return [self._ask(lookup, fresh[0], now)] if fresh else []

    def _timed_out(self, attempt_id: int, attempt: Attempt, now: float) -> list[Action]:
        lookup = attempt.lookup
        if lookup is None:
            return [self._attempts.close(attempt_id)]
        self._counts["upstream_timeout"] += 1
        left = lookup.started + TOTAL_TIMEOUT_S - now
        if attempt.other_case and left > HEDGE_S:
            return self._again(attempt_id, attempt, now, stream=True)
        lookup.servers.silent(attempt.upstream, now)
        return self._next(attempt_id, attempt, now, finished=False)

    def _next(self, attempt_id: int, attempt: Attempt, now: float, *, finished: bool) -> list[Action]:
        """An attempt ended without an answer: ask on, wait for the others, or give up.

        An upstream that is *finished* has said no and is not asked again; a silent one may have lost a
        packet.
        """
        actions: list[Action] = [self._attempts.close(attempt_id)]
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
                return [*actions, self._ask(lookup, order[0], now)]
        return actions if lookup.attempts else actions + self._give_up(lookup, now)

    def _give_up(self, lookup: Lookup, now: float) -> list[Action]:
        self._counts["lookups_failed"] += 1
        stale = self._store.find_stale(lookup.key, now)
        if stale is not None:
            self._counts["stale"] += 1
            return self._deliver(lookup, stale)
        if lookup.rcode is None:
            answer = Answer(SERVFAIL, ttl_s=SILENCE_TTL_S)
        else:
            answer = Answer(lookup.rcode, ttl_s=SERVFAIL_TTL_S if lookup.rcode == SERVFAIL else 0)
        self._store.keep_failure(lookup.key, answer, now)
        return self._deliver(lookup, answer)

    # -- answers -----------------------------------------------------------------------------------

    def _checked(self, packet: bytes, attempt: Attempt, lookup: Lookup) -> Answer:
        # Our mix of case ends here: what points to the question shows each client's own spelling.
        packet = packet[:12] + lookup.name + packet[12 + len(lookup.name) :]
        answer = parse_answer(packet, attempt.question, lookup.name, lookup.qtype)
        # A zone with upstreams of its own was configured: it may have private addresses.
        if self._rebind is not None and answer.ancount and lookup.zone == b"\0":
            records, _, _ = parse_records(packet, 12 + len(attempt.question))
            if self._rebind.catches(lookup.name, packet, records):
                self._counts["rebind_refused"] += 1
                return Answer(NOERROR)
        return answer

    def _finish(self, lookup: Lookup, by: Attempt, answer: Answer, now: float) -> list[Action]:
        self._store.keep(lookup, answer, now)
        # Whoever was asked earlier and let this one be first counts as silent.
        for attempt in lookup.attempts.values():
            if attempt.started < by.started:
                lookup.servers.silent(attempt.upstream, now)
        return self._deliver(lookup, answer)

    def _deliver(self, lookup: Lookup, answer: Answer) -> list[Action]:
        del self._lookups[lookup.key]
        guest = lookup.waiters[0].guest
        self._by_guest[guest] -= 1
        self._ipv6 -= len(guest) == IPV6_BYTES
        if not self._by_guest[guest]:
            del self._by_guest[guest]
        replies: list[Action] = [_reply(waiter, answer) for waiter in lookup.waiters]
        return replies + [self._attempts.close(attempt_id) for attempt_id in list(lookup.attempts)]


def _reply(waiter: Waiter, answer: Answer) -> Reply:
    return Reply(waiter.client, render(waiter.query, answer, waiter.query.limit(waiter.stream)))
