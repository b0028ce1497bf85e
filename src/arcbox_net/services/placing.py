"""Where a service's sockets are made: in its guests' network namespace, which may not be the event loop's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Placing(Protocol):
    """Calls *make* in a thread that is in the guests' network namespace, and returns what it made."""

    async def __call__(self, make: Callable[[], T], /) -> T: ...


async def here(make: Callable[[], T], /) -> T:
    """For guests in the caller's own network namespace."""
    return make()
