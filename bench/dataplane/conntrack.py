"""The table of flows: lookups, openings and expiry, beside the same memory without keys.

python -m bench.dataplane.conntrack

A lookup is of one packet of 64 k, whose flow's counters and time are written, as a NAT does; `limit` writes the same by
the flows' numbers. Flows are drawn uniformly or by Zipf's law. `bursts` of 32 hide cache misses behind each other.
An opening is of a flow with both its keys; its limit writes the same lines, one behind the other.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from itertools import accumulate, count
from typing import Any

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane._testing_conntrack_loops import Packets, expire, fill, write_flows
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

NAME = "dataplane.conntrack"
SEED = 5382
SIZES = {"256": 256, "4 k": 4096, "64 k": 65536, "1 M": 1 << 20}
PACKETS = 65536
SLICES = 9
CACHE_ENTRIES = 256
ZIPF_EXPONENT = 1.0
UDP_TIMEOUT_S = 300
STEP_FLOWS = 4096  # looked at in one step of expiry
OPEN_TARGET_PER_S, STEP_TARGET_MS, BYTES_TARGET = 5e6, 2.0, 160
MODES = {"bursts": True, "one by one": False}


def uniform(flows: int) -> list[int]:
    return random.Random(SEED).choices(range(flows), k=PACKETS)


def zipf(flows: int) -> list[int]:
    """The n-th most popular flow has 1/n of the first one's packets; popularity has nothing to do with age."""
    chance = random.Random(SEED)
    ranks = chance.sample(range(flows), flows)
    return chance.choices(
        ranks, cum_weights=list(accumulate(rank**-ZIPF_EXPONENT for rank in range(1, flows + 1))), k=PACKETS
    )


def packet_ns(measure: Callable[[], int]) -> float:
    """The median nanoseconds for one of `PACKETS`."""
    return statistics.median(measure() for _ in range(SLICES)) / PACKETS


def lookups(flows: int, draw: Callable[[int], list[int]]) -> dict[str, Callable[[], Round]]:
    """The contenders over one drawing of packets."""
    packets = Packets(draw(flows))
    tables = {"cache": Table(flows, CACHE_ENTRIES), "no cache": Table(flows, 0)}
    for one in tables.values():
        fill(one, flows, 0)

    def found(one: Table, bursts: bool) -> Callable[[], Round]:
        def measure() -> Round:
            before = one.stats
            ns = packet_ns(lambda: packets.find(one, 1, bursts))
            asked = one.stats["cache_lookups"] - before["cache_lookups"]
            bypassed = one.stats["cache_bypassed"] - before["cache_bypassed"]
            return {
                "ns": ns,
                "hit_share": (one.stats["cache_hits"] - before["cache_hits"]) / max(asked, 1),
                "bypassed_share": bypassed / max(asked + bypassed, 1),
            }

        return measure

    def touched(bursts: bool) -> Callable[[], Round]:
        return lambda: {"ns": packet_ns(lambda: packets.touch(tables["no cache"], 1, bursts))}

    contenders = {
        f"{mode}, {name}": found(one, bursts)
        for mode, bursts in MODES.items()
        for name, one in tables.items()
    }
    return contenders | {f"{mode}, limit": touched(bursts) for mode, bursts in MODES.items()}


def lives(flows: int, clock: Iterator[int]) -> dict[str, Callable[[], Round]]:
    """Opening and expiring a table of flows, in memory that has been used before, and in new memory."""
    kept = Table(flows)
    write_flows(kept, flows)

    def cycle(one: Table) -> Round:
        now_s = next(clock)
        opened_ns = fill(one, flows, now_s)
        steps = expire(one, now_s + UDP_TIMEOUT_S + 1, STEP_FLOWS)
        return {
            "open_ns": opened_ns / flows,
            "open_per_s": flows / opened_ns * 1e9,
            "expire_ns": sum(steps) / flows,
            "longest_step_ms": max(steps) / 1e6,
        }

    return {
        "used memory": lambda: cycle(kept),
        "new memory": lambda: cycle(Table(flows)),
        "limit": lambda: {"open_ns": write_flows(kept, flows) / flows},
    }


def run(rounds: int) -> None:
    payload: dict[str, Any] = {"environment": environment("gcc"), "quiet": quiet_check()}
    clock = count(1000, 1000)
    payload["lives"] = {name: interleave(lives(flows, clock), rounds) for name, flows in SIZES.items()}
    payload["lookups"] = {
        f"{name}, {draw.__name__}": interleave(lookups(flows, draw), rounds)
        for name, flows in SIZES.items()
        for draw in (uniform, zipf)
    }
    payload["bytes_per_flow"] = Table(SIZES["1 M"]).stats["bytes_per_flow"]
    show(payload, "\n\n".join([lookup_table(payload), life_table(payload), targets(payload)]))
    write_result(NAME, payload)


def lookup_table(payload: dict[str, Any]) -> str:
    rows = []
    for name, found in payload["lookups"].items():
        cached = found["bursts, cache"]
        shares = [f"{median_of(cached, key):.0%}" for key in ("hit_share", "bypassed_share")]
        rows.append([name, *(median_cell(rounds, "ns") for rounds in found.values()), *shares])
    contenders = next(iter(payload["lookups"].values()))
    return table(["ns a lookup: flows", *contenders, "cache hits when asked", "lookups not asked"], rows)


def life_table(payload: dict[str, Any]) -> str:
    rows = []
    for name, found in payload["lives"].items():
        for kind in ("used memory", "new memory"):
            keys = ("open_ns", "expire_ns", "longest_step_ms")
            limit = median_cell(found["limit"], "open_ns") if kind == "used memory" else ""
            rows.append([f"{name}, {kind}", *(median_cell(found[kind], key) for key in keys), limit])
    step = f"longest step of {STEP_FLOWS}, ms"
    return table(["flows", "open, ns", "expire, ns", step, "limit of opening, ns"], rows)


def targets(payload: dict[str, Any]) -> str:
    million = payload["lives"]["1 M"]["used memory"]
    opened = median_of(million, "open_per_s") / 1e6
    longest = median_of(million, "longest_step_ms")
    return (
        f"- new flows at 1 M: {opened:.1f} M/s (target ≥ {OPEN_TARGET_PER_S / 1e6:.0f})\n"
        f"- longest step of expiring 1 M, median of rounds: {longest:.2f} ms (target ≤ {STEP_TARGET_MS:.0f})\n"
        f"- memory: {payload['bytes_per_flow']:.0f} bytes a flow (target ≤ {BYTES_TARGET})"
    )


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 7))
