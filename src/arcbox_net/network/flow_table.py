"""Which flows there are: at most so many, and each until it was silent for so long. Without clock and sockets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
F = TypeVar("F")


class FlowTable(Generic[K, F]):
    """Flows by key, those that were silent for longest first. Times are seconds of one clock that does not go back."""

    def __init__(self, flows_max: int, idle_s: float) -> None:
        self._flows_max = flows_max
        self._idle_s = idle_s
        self._flows: OrderedDict[K, tuple[F, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[F]:
        return iter([flow for flow, _ in self._flows.values()])

    @property
    def is_full(self) -> bool:
        return len(self._flows) >= self._flows_max

    def get(self, key: K) -> F | None:
        found = self._flows.get(key)
        return found[0] if found else None

    def add(self, key: K, flow: F, now: float) -> None:
        """Asked only while it is not full."""
        assert not self.is_full and key not in self._flows
        self._flows[key] = flow, now

    def touch(self, key: K, now: float) -> None:
        """The flow of *key* is not silent. One that has gone stays so."""
        found = self._flows.get(key)
        if found:
            self._flows[key] = found[0], now
            self._flows.move_to_end(key)

    def remove(self, key: K) -> None:
        self._flows.pop(key, None)

    def take_idle(self, now: float) -> list[F]:
        """Those that were silent for too long, which are in it no more."""
        taken = []
        while (end := self.next_end) is not None and end <= now:
            taken.append(self._flows.popitem(last=False)[1][0])
        return taken

    def take_all(self) -> list[F]:
        taken = list(self)
        self._flows.clear()
        return taken

    @property
    def next_end(self) -> float | None:
        """When the next flow will have been silent for too long, if nothing comes."""
        oldest = next(iter(self._flows.values()), None)
        return oldest[1] + self._idle_s if oldest else None
