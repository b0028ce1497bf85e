"""What upstreams answered: by question, and the names below which nothing exists (RFC 8020)."""

from __future__ import annotations

from typing import Protocol

from arcbox_net.services.dns.answers import flattened
from arcbox_net.services.dns.lookup import Lookup
from arcbox_net.services.dns.wire import IN, Answer, Query, ancestors, cache_key

STALE_TTL_S = 30  # RFC 8767 4
CUT_TYPE = 0  # cache key type of "this name and all below it do not exist"


class Cache(Protocol):
    """Answers by key; `cache.AnswerCache` is the one there is."""

    def get(self, key: bytes, now: float, stale: bool = False) -> Answer | None: ...
    def put(self, key: bytes, answer: Answer, now: float) -> None: ...
    def clear(self) -> None: ...


class AnswerStore:
    """With *keeps_stale*, `find_stale` has answers whose time is over, and failures do not take their place."""

    def __init__(self, cache: Cache, keeps_stale: bool) -> None:
        self._cache = cache
        self._keeps_stale = keeps_stale
        self._cuts = 0

    def clear(self) -> None:
        self._cache.clear()
        self._cuts = 0

    def find(self, key: bytes, now: float) -> Answer | None:
        return self._cache.get(key, now)

    def find_cut(self, query: Query, zone: bytes, now: float) -> Answer | None:
        """That a name at or above the query's does not exist.

        Up to the apex of *zone* only: the parent zone's upstream does not speak for names of another zone.
        """
        if not self._cuts:
            return None
        for name in ancestors(query.name):
            if len(name) <= len(zone):
                break
            answer = self._cache.get(cache_key(name, CUT_TYPE, IN, query.key_flags), now)
            if answer is not None:
                return answer
        return None

    def find_stale(self, key: bytes, now: float) -> Answer | None:
        """An answer from before upstreams failed."""
        if not self._keeps_stale:
            return None
        answer = self._cache.get(key, now, stale=True)
        if answer is not None:
            answer.ttls = [(at, STALE_TTL_S) for at, _ in answer.ttls]
        return answer

    def keep(self, lookup: Lookup, answer: Answer, now: float) -> None:
        self._cache.put(lookup.key, answer, now)
        if answer.cuts_subtree and answer.ttl_s:
            self._cuts += 1
            cut = cache_key(lookup.name, CUT_TYPE, IN, lookup.key_flags)
            self._cache.put(cut, flattened(answer, lookup.name), now)

    def keep_failure(self, key: bytes, failure: Answer, now: float) -> None:
        if not self._keeps_stale:
            self._cache.put(key, failure, now)
