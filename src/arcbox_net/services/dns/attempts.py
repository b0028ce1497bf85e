"""The tries at upstreams that are open: what is sent, and when to look at each again. `lookups` decides."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from arcbox_net.services.dns.actions import Ask, Cancel
from arcbox_net.services.dns.lookup import Attempt, Lookup
from arcbox_net.services.dns.settings import HEDGE_S, TCP_TIMEOUT_S, TOTAL_TIMEOUT_S, UDP_TIMEOUT_S
from arcbox_net.services.dns.upstreams import Upstream
from arcbox_net.services.dns.wire import KEY_RD, TXT, build_query, mix_case

CHANCE_BYTES = 4096  # random bytes taken from the system at once


class Attempts:
    """Attempts by their number. Each has an id and a mix of case of its own, which an answer has to repeat."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._chance = b""
        self._chance_at = 0
        self._open: dict[int, Attempt] = {}
        self._alarms: list[tuple[float, int, bool]] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def get(self, attempt_id: int) -> Attempt | None:
        return self._open.get(attempt_id)

    def ask(self, lookup: Lookup, upstream: Upstream, stream: bool, now: float, edns: bool = True) -> Ask:
        """Put the question of *lookup* to *upstream*."""
        chance = self._random(2 + len(lookup.name))
        name = lookup.name
        if upstream.keeps_case:
            name = mix_case(name, int.from_bytes(chance[2:], "big"))
        packet = build_query(chance[0] << 8 | chance[1], name, lookup.qtype, lookup.key_flags, edns=edns)
        question = packet[12 : 16 + len(name)]
        lookup.tried.append(upstream)
        attempt = Attempt(lookup, upstream, packet, question, stream, edns, now)
        attempt_id = self._add(attempt, now)
        lookup.attempts[attempt_id] = attempt
        return Ask(attempt_id, upstream, packet, stream)

    def probe(self, upstream: Upstream, now: float) -> Ask:
        """Ask *upstream* for a name that nobody else knows: should it come to us, there is a loop."""
        upstream.probed_at = now
        packet = build_query(
            int.from_bytes(self._random(2), "big"), upstream.probe_name, TXT, KEY_RD, edns=False
        )
        attempt = Attempt(None, upstream, packet, packet[12:], False, False, now)
        return Ask(self._add(attempt, now), upstream, packet, False)

    def close(self, attempt_id: int) -> Cancel:
        attempt = self._open.pop(attempt_id)
        if attempt.lookup is not None:
            del attempt.lookup.attempts[attempt_id]
        return Cancel(attempt_id)

    def next_alarm(self) -> float | None:
        """When `due` has something next."""
        return self._alarms[0][0] if self._alarms else None

    def due(self, now: float) -> Iterator[tuple[int, Attempt, bool]]:
        """The attempts whose time has come; True where it is only time to ask another upstream as well."""
        while self._alarms and self._alarms[0][0] <= now:
            _, attempt_id, hedge = heapq.heappop(self._alarms)
            attempt = self._open.get(attempt_id)
            if attempt is not None:
                yield attempt_id, attempt, hedge

    def _add(self, attempt: Attempt, now: float) -> int:
        self._last += 1
        self._open[self._last] = attempt
        timeout = TCP_TIMEOUT_S if attempt.stream else UDP_TIMEOUT_S
        lookup = attempt.lookup
        if lookup is not None:
            timeout = min(timeout, max(0.0, lookup.started + TOTAL_TIMEOUT_S - now))
            if len(lookup.servers.members) > 1:
                heapq.heappush(self._alarms, (now + HEDGE_S, self._last, True))
        heapq.heappush(self._alarms, (now + timeout, self._last, False))
        return self._last

    def _random(self, size: int) -> bytes:
        at = self._chance_at
        if at + size > len(self._chance):
            self._chance = self._rng(CHANCE_BYTES)
            at = 0
        self._chance_at = at + size
        return self._chance[at : at + size]
