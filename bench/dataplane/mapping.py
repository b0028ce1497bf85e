"""Mappings found, made and ended beside a copy of the endpoints' array: `python -m bench.dataplane.mapping`.

Each is one loop over all endpoints, in random order. A mapping is made with its first flow and ended with its last.
"""

from __future__ import annotations

import os
import random
import time
from array import array
from collections.abc import Callable

from arcbox_net.dataplane._testing_mapping import Mappings
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from bench.dataplane.slices import call_ns

NAME = "dataplane.mapping"
SEED = 4787
HOLD_DOWN_S = 120
PORTS_AN_ADDRESS = 62_500
PORT_FIRST = 65_536 - PORTS_AN_ADDRESS
# Of a million: guests do not spread over addresses evenly to the last port.
ADDRESSES_MOST = 64
TURN_ENDPOINTS = 1_000_000
# Mappings, and the guests among whom they are.
SIZES = ((256, 4), (16_384, 64), (1_000_000, 64))
FIND_TARGET_NS, MAKE_TARGET_NS = 30.0, 100.0


def endpoints(count: int, guests: int) -> array[int]:
    """Each guest's ports begin where the last one's end, so that as many as can be stay the same outside."""
    found = array(
        "I", (i * guests // count << 16 | (PORT_FIRST + i % PORTS_AN_ADDRESS) for i in range(count))
    )
    random.Random(SEED).shuffle(found)
    return found


def mappings(count: int, **options: int) -> Mappings:
    addresses = 1 if count < PORTS_AN_ADDRESS else ADDRESSES_MOST
    return Mappings(
        {1000 + i: [(PORT_FIRST, 65535)] for i in range(addresses)},
        os.urandom(32),
        mappings_max=count,
        contacts_max=0,
        hold_down_s=HOLD_DOWN_S,
        flows=count,
        ports=PORTS_AN_ADDRESS,
        filtering=2,
        keep_parity=False,
        **options,
    )


def ns_each(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begun) / count


def made_and_ended(count: int, guests: int, *, preserve_ports: bool) -> Callable[[], Round]:
    """A contender that makes all mappings, finds them, ends them, and waits until all ports are free again."""
    of = endpoints(count, guests)
    clock = iter(range(0, 1 << 31, 2 * HOLD_DOWN_S))
    found = mappings(count, preserve_ports=preserve_ports)

    def turn() -> Round:
        now = next(clock)
        make = ns_each(count, lambda: found.open_all(of, now))
        assert found.count == count
        find = ns_each(count, lambda: found.find_all(of))
        end = ns_each(count, lambda: found.close_all(of, now))
        freed = ns_each(count, lambda: found.expire(now + HOLD_DOWN_S + 1, count))
        return {"make": make, "find": find, "end": end, "free": freed}

    def measure() -> Round:
        turns = [turn() for _ in range(TURN_ENDPOINTS // count)]
        return {step: median_of(turns, step) for step in turns[0]}

    return measure


def copied(count: int, guests: int) -> Callable[[], Round]:
    of = endpoints(count, guests)
    to = memoryview(array("I", of))

    def copy() -> None:
        to[:] = memoryview(of)

    return lambda: {"copy": call_ns(copy) / count}


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    rows = []
    for count, guests in SIZES:
        contenders = {
            "preserved": made_and_ended(count, guests, preserve_ports=True),
            "drawn": made_and_ended(count, guests, preserve_ports=False),
            "copy": copied(count, guests),
        }
        payload[str(count)] = measured = interleave(contenders, rounds)
        preserved, drawn = measured["preserved"], measured["drawn"]
        rows.append(
            [
                f"{count:,} of {guests} guests",
                median_cell(drawn, "find"),
                median_cell(preserved, "make"),
                median_cell(drawn, "make"),
                median_cell(drawn, "end"),
                median_cell(drawn, "free"),
                median_cell(measured["copy"], "copy"),
            ]
        )
    hot = payload["16384"]["drawn"]
    size = mappings(1, preserve_ports=True).bytes_per_mapping()
    show(
        payload,
        table(["ns each", "find", "make, port preserved", "make, port drawn", "end", "free", "copy"], rows)
        + f"\n\n- find among 16,384: {median_of(hot, 'find'):.0f} ns (target ≤ {FIND_TARGET_NS:.0f})"
        f"\n- make, port drawn: {median_of(hot, 'make'):.0f} ns (target ≤ {MAKE_TARGET_NS:.0f})"
        f"\n- bytes a mapping: {size}",
    )
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 7))
