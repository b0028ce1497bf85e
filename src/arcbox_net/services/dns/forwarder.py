"""What the DNS forwarder does with each message: bytes, sender and `now` in; actions out. No I/O, no clock.

A client's query ends at the first of these: malformed or of a kind we refuse; a name of our own; a query of
ours that came back; the answers kept; no recursion (REFUSED); a lookup (`lookups`), new or under way for the
same question.

Each query of ours carries a random id and case, so one that comes back to us as a client's query shows a
loop; loops through other forwarders are seen by a probe under a random name, sent with the first query to
an upstream.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable

from arcbox_net.services.dns.actions import Action, Reply
from arcbox_net.services.dns.answer_store import AnswerStore, Cache
from arcbox_net.services.dns.lookup import Waiter
from arcbox_net.services.dns.lookups import Lookups
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.rebind import RebindFilter
from arcbox_net.services.dns.settings import DnsSettings
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
    MAILA,
    MAILB,
    NOERROR,
    NOTIMP,
    OPT,
    REFUSED,
    TKEY,
    TSIG,
    Answer,
    Query,
    WireError,
    parse_query,
    record,
    refuse,
    render,
    to_wire,
)

_RFC8482 = Answer(NOERROR, 0, 1, 0, record(b"\xc0\x0c", HINFO, 3600, b"\x07RFC8482\0"))


class Forwarder:
    """The decisions of one network's forwarder. `counts` says what happened how often."""

    def __init__(
        self, settings: DnsSettings, names: LocalNames, cache: Cache, rng: Callable[[int], bytes]
    ) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._names = names
        self._rng = rng
        self._recursion = settings.recursion
        self._own = OwnAddresses(settings.listen, settings.own_addresses)
        self._own.check(settings.upstreams, "dns.upstreams")
        for endpoints in settings.domain_upstreams.values():
            self._own.check(endpoints, "dns.domain_upstreams")
        domains = {suffix: self._servers(ends) for suffix, ends in settings.domain_upstreams.items()}
        self._zones = Zones(self._servers(settings.upstreams), domains)
        self._store = AnswerStore(cache, settings.serve_stale)
        rebind = None
        if settings.rebind_protection:
            allowed = [to_wire(suffix) for suffix in settings.rebind_allow]
            rebind = RebindFilter([settings.subnet] if settings.subnet else [], allowed)
        self._lookups = Lookups(self._zones, self._store, rebind, rng, self.counts)

    # -- what the shell calls ----------------------------------------------------------------------

    def set_upstreams(self, endpoints: tuple[tuple[str, int], ...]) -> None:
        """Use *endpoints* (as found in resolv.conf) from now on; ours among them are left out."""
        usable = []
        for endpoint in endpoints:
            if self._own.refusal(endpoint):
                self.counts["upstream_refused"] += 1
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
        self._store.clear()

    def query(self, packet: bytes, client: Hashable, guest: bytes, stream: bool, now: float) -> list[Action]:
        """Take a client's *packet*. *guest* is its address, whose share of the lookups is limited."""
        if len(packet) < 12:
            return self._drop("query_short")
        if packet[2] & 0x80:
            return self._drop("query_is_response")
        if packet[2] & 0x78:
            self.counts["query_opcode"] += 1
            return [Reply(client, refuse(packet, NOTIMP))]
        if packet[4:6] != b"\0\1":
            self.counts["query_qdcount"] += 1
            return [Reply(client, refuse(packet, FORMERR))]
        try:
            query = parse_query(packet)
        except WireError as error:
            self.counts["query_" + error.reason] += 1
            return [Reply(client, refuse(packet, FORMERR))]
        answer = self._refusal(query) or self._own_answer(query)
        if answer is not None:
            return [Reply(client, render(query, answer, query.limit(stream)))]
        key = query.key
        looped = self._looped(query, key, now)
        if looped is not None:
            return looped
        answer = self._kept(key, query, now)
        if answer is None and not self._recursion:
            self.counts["external_refused"] += 1
            answer = Answer(REFUSED)
        if answer is not None:
            return [Reply(client, render(query, answer, query.limit(stream)))]
        return self._lookups.join(key, Waiter(query, client, guest, stream), now)

    def upstream_packet(self, attempt_id: int, packet: bytes, now: float) -> list[Action]:
        """Take what an upstream, or somebody in its name, sent on the socket of an attempt."""
        return self._lookups.packet(attempt_id, packet, now)

    def upstream_failed(self, attempt_id: int, reason: str, now: float) -> list[Action]:
        """The socket of an attempt could not send, was refused or closed. *reason* is a counter's name."""
        return self._lookups.failed(attempt_id, reason, now)

    def next_alarm(self) -> float | None:
        """When `alarm` has to be called next."""
        return self._lookups.next_alarm()

    def alarm(self, now: float) -> list[Action]:
        """Let time pass until *now*: hedges and time-outs."""
        return self._lookups.alarm(now)

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
        self.counts[reason] += 1
        return Answer(rcode)

    def _own_answer(self, query: Query) -> Answer | None:
        answer = self._names.answer(query.name, query.qtype)
        if answer is not None:
            self.counts["local"] += 1
        elif query.qtype == ANY and self._recursion:
            self.counts["query_any"] += 1
            return _RFC8482
        return answer

    def _looped(self, query: Query, key: bytes, now: float) -> list[Action] | None:
        """A query of our own that came back: leave that upstream out. None when it is a guest's."""
        if query.name.endswith(LOOP_SUFFIX):
            self._zones.mark_looped(query.name, now)
            return self._drop("query_looped")
        return self._lookups.came_back(key, query, now)

    def _kept(self, key: bytes, query: Query, now: float) -> Answer | None:
        answer = self._store.find(key, now)
        if answer is not None:
            self.counts["cache_hits"] += 1
            return answer
        answer = self._store.find_cut(query, self._zones.find(query.name)[0], now)
        if answer is not None:
            self.counts["cache_cut_hits"] += 1
        return answer

    def _servers(self, endpoints: tuple[tuple[str, int], ...]) -> UpstreamSet:
        return UpstreamSet(endpoints, [self._rng(NONCE_BYTES) for _ in endpoints])

    def _drop(self, reason: str) -> list[Action]:
        self.counts[reason] += 1
        return []
