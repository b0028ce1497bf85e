"""Time of calls that take nanoseconds: the median of many slices, each of as many calls as are worth a clock read."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

SLICES = 51
SLICE_S = 0.0005


def call_ns(call: Callable[[], object]) -> float:
    """The median over slices of what one *call* takes, the loop around it included."""
    timer = timeit.Timer(call)
    number = 1
    while timer.timeit(number) < SLICE_S:
        number *= 2
    return statistics.median(timer.repeat(SLICES, number)) / number * 1e9
