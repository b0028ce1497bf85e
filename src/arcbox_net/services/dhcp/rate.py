"""How many datagrams of each guest are looked at: a token bucket a key, and a bound on the keys."""

from __future__ import annotations

from collections.abc import Hashable

KEYS_MAX = 4096
BURST_S = 2.0  # of the rate, which may come at once


class RateLimit:
    """`per_s` 0 is no limit. Keys beyond KEYS_MAX push out those that were quiet longest."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * BURST_S)
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def take(self, key: Hashable, now_mono: float) -> bool:
        """Whether *key* has one left at *now_mono*."""
        if not self._per_s:
            return True
        # Re-inserted at the end, so the dict is in the order of last use.
        tokens, since = self._buckets.pop(key, (self._burst, now_mono))
        tokens = min(self._burst, tokens + (now_mono - since) * self._per_s)
        granted = tokens >= 1.0
        if len(self._buckets) >= KEYS_MAX:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = (tokens - 1.0 if granted else tokens, now_mono)
        return granted
