"""The NAT engine on one core: `python -m bench.dataplane.nat [--rounds N]`.

Frames of 64 bytes lie 2 KB apart in a pool, half of them TCP segments of established connections, half UDP datagrams.
A slice translates all of them once, in bursts of 64, by compiled code; between slices, outside the time, they are put
back as they were. Beside each slice, over the same frames: a copy of each (memcpy), and a loop that touches one octet.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import time
from array import array
from collections.abc import Callable

from arcbox_net import Direction, FrameBatch, NatEngine, NatEngineConfig, PacketPool
from arcbox_net.dataplane._testing_traffic import Traffic
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

NAME = "dataplane.nat"
SEED = 4787
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
SLICES = 9
FRAMES = 65_536
ENDPOINTS = 4096
EXPIRE_BUDGET = 1024
NEW_FLOWS = 1 << 19
CASES = [
    (256, 1024, 60.0),
    (65_536, FRAMES, 40.0),
    (1_000_000, FRAMES, 20.0),
]  # flows, frames, target in Mpps
COLUMNS = ("mpps", "inbound_mpps", "ns", "copy_ns", "touch_ns", "empty_loops")
NEW_TARGET_M_S, CALL_TARGET_NS, EXPIRE_TARGET_MS, FLOW_TARGET_BYTES = 5.0, 2000.0, 2.0, 160
START_NS = 10**12
# By the next of these all flows of the one before have run out, and no port is on hold.
LATER_NS, LAST_NS = 20 * START_NS, 40 * START_NS


def engine(flows: int, cache: int = 256) -> NatEngine:
    """Room for *flows*, and ports for every endpoint."""
    return NatEngine(
        NatEngineConfig(
            external_ip="203.0.113.1",
            inside="10.0.0.0/8",
            gateway="10.255.255.254",
            port_range=(1024, 65535),
            conntrack_size=flows,
            fast_cache_size=cache,
            guest_by="address",  # all frames have one source MAC
            flows_per_guest=flows,
            ports_per_guest=60_000,
            seed=bytes(32),
        )
    )


def establish(nat: NatEngine, traffic: Traffic, flows: int) -> None:
    """Open flows 0 to *flows* - 1, with the handshake of those that are TCP connections."""
    steps = [(SYN, Direction.OUTBOUND), (SYN_ACK, Direction.INBOUND), (ACK, Direction.OUTBOUND)]
    for first in range(0, flows, traffic.count):
        numbers = array("I", (first + i if first + i < flows else first for i in range(traffic.count)))
        for flags, direction in steps:
            if direction == Direction.OUTBOUND:
                traffic.write(numbers, flags)
            else:
                traffic.turn(flags)
            passed = traffic.translate(nat, direction, START_NS)[1]
            assert passed == traffic.count, f"{passed} of {traffic.count}: {nat.stats()}"
    assert nat.stats()["flows"] == flows


def uniform(flows: int, count: int) -> array[int]:
    chance = random.Random(SEED)
    return array("I", (chance.randrange(flows) for _ in range(count)))


def zipf(flows: int, count: int) -> array[int]:
    """The r-th flow gets a share of 1/r of the frames; ranks are spread over the numbers."""
    chance = random.Random(SEED)
    ranks = list(range(flows))
    chance.shuffle(ranks)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, flows + 1)))
    return array("I", chance.choices(ranks, cum_weights=weights, k=count))


class Established:
    """Frames of *flows* established flows through an engine of their own, each way."""

    def __init__(
        self, pool: PacketPool, flows: int, frames: int, cache: int, spread: Callable[[int, int], array[int]]
    ):
        self.traffic = Traffic(pool, frames, endpoints=min(ENDPOINTS, flows))
        self.nat = engine(max(flows, 1024), cache)
        establish(self.nat, self.traffic, flows)
        self.numbers = spread(flows, frames)

    def measure(self) -> Round:
        """Medians over slices, in nanoseconds a frame."""
        traffic = self.traffic
        traffic.write(self.numbers, ACK)
        found: dict[str, list[int]] = {"ns": [], "inbound_ns": [], "copy_ns": [], "touch_ns": []}
        for _ in range(SLICES):
            for name, limit in (("touch_ns", traffic.touch), ("copy_ns", traffic.copy)):
                found[name].append(limit())
            found["ns"].append(self.slice(Direction.OUTBOUND))
            traffic.restore()
        self.slice(Direction.OUTBOUND)
        traffic.turn(ACK)
        for _ in range(SLICES):
            found["inbound_ns"].append(self.slice(Direction.INBOUND))
            traffic.restore()
        medians = {name: statistics.median(values) / traffic.count for name, values in found.items()}
        return {
            **medians,
            "mpps": 1e3 / medians["ns"],
            "inbound_mpps": 1e3 / medians["inbound_ns"],
            "empty_loops": medians["ns"] / medians["touch_ns"],
        }

    def slice(self, direction: Direction) -> int:
        took, passed = self.traffic.translate(self.nat, direction, START_NS)
        assert passed == self.traffic.count, f"{passed} of {self.traffic.count}"
        return took


def open_all(traffic: Traffic, nat: NatEngine, now_ns: int) -> float:
    """Open a flow by every frame of many slices; the median nanoseconds a flow."""
    slices = []
    for first in range(0, NEW_FLOWS, FRAMES):
        traffic.write(array("I", range(first, first + FRAMES)), SYN)
        took, passed = traffic.translate(nat, Direction.OUTBOUND, now_ns)
        assert passed == FRAMES, f"{passed} of {FRAMES}: {nat.stats()}"
        slices.append(took / FRAMES)
    return statistics.median(slices)


def expire_all(nat: NatEngine, flows: int) -> list[int]:
    """Close *flows* flows, which have all run out in the same second; the nanoseconds of each step."""
    steps = []
    closed = 0
    while closed < flows:
        started = time.perf_counter_ns()
        closed += nat.expire(LATER_NS / 1e9, EXPIRE_BUDGET)
        steps.append(time.perf_counter_ns() - started)
    return steps


def new_flows(pool: PacketPool, endpoints: int) -> Round:
    """Flows of *endpoints* in tables whose memory nobody touched before, and in the same when all have run out."""
    traffic, nat = Traffic(pool, FRAMES, endpoints=endpoints, guests=256), engine(NEW_FLOWS)
    first_ns = open_all(traffic, nat, START_NS)
    expire_all(nat, NEW_FLOWS)
    again_ns = open_all(traffic, nat, LAST_NS)
    return {"ns": first_ns, "m_s": 1e3 / first_ns, "again_ns": again_ns, "again_m_s": 1e3 / again_ns}


def expiry(pool: PacketPool, flows: int) -> Round:
    traffic, nat = Traffic(pool, FRAMES, endpoints=ENDPOINTS), engine(flows)
    establish(nat, traffic, flows)
    steps = expire_all(nat, flows)
    return {
        "longest_ms": max(steps) / 1e6,
        "ns_a_flow": sum(steps) / flows,
        "bytes_a_flow": nat.stats()["bytes_per_flow"],
    }


def calls(pool: PacketPool) -> Round:
    """`translate` of a batch of 64 frames from Python, each call timed on its own."""
    traffic, nat = Traffic(pool, 1024, endpoints=256), engine(1024)
    establish(nat, traffic, 256)
    traffic.write(uniform(256, 1024), ACK)
    times, clock = [], []
    with FrameBatch(pool) as batch:
        batch.acquire(64, size=64)
        frames = [traffic.frame(i) for i in range(64)]
        for _ in range(2000):
            for i, frame in enumerate(frames):
                with batch[i] as view:
                    view[:] = frame
            started = time.perf_counter_ns()
            nat.translate(batch, Direction.OUTBOUND, 1000.0)
            ended = time.perf_counter_ns()
            times.append(ended - started)
            clock.append(time.perf_counter_ns() - ended)
    assert nat.stats()["forward"] >= 2000 * 64
    return {"ns": statistics.median(times) - statistics.median(clock), "clock_ns": statistics.median(clock)}


def run(rounds: int) -> None:
    payload: dict[str, object] = {"environment": environment("gcc"), "quiet": quiet_check()}
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with PacketPool(4 * FRAMES, 1, touch=True) as pool:
        measured(payload, pool, rounds)


def measured(payload: dict[str, object], pool: PacketPool, rounds: int) -> None:
    by_flows: dict[str, dict[str, list[Round]]] = {}
    for flows, frames, _ in CASES:
        ways = {
            f"{spread.__name__}, cache {'on' if cache else 'off'}": Established(
                pool, flows, frames, cache, spread
            )
            for spread in (uniform, zipf)
            for cache in (256, 0)
        }
        by_flows[str(flows)] = interleave({name: way.measure for name, way in ways.items()}, rounds)
        ways.clear()
    payload["translate"] = by_flows
    others = interleave(
        {
            "new flows of 4,096 endpoints": lambda: new_flows(pool, ENDPOINTS),
            "new flows of 40,000 endpoints": lambda: new_flows(pool, 40_000),
            "expiry of 1,000,000 flows": lambda: expiry(pool, 1_000_000),
            "call from Python": lambda: calls(pool),
        },
        rounds,
    )
    payload["others"] = others
    show(payload, tables(by_flows, others))
    write_result(NAME, payload)


def tables(by_flows: dict[str, dict[str, list[Round]]], others: dict[str, list[Round]]) -> str:
    first = table(
        [
            "flows, frames",
            "Mpps outbound",
            "Mpps inbound",
            "ns a frame",
            "copy ns",
            "empty loop ns",
            "empty loops",
        ],
        [
            [
                f"{int(flows):,}, {name}",
                *(median_cell(found, key) for key in COLUMNS),
            ]
            for flows, ways in by_flows.items()
            for name, found in ways.items()
        ],
    )
    second = table(
        ["", "M/s", "ns each", "M/s, tables used before", "ns each"],
        [
            [name, *(median_cell(found, key) for key in ("m_s", "ns", "again_m_s", "again_ns"))]
            for name, found in others.items()
            if name.startswith("new")
        ],
    )
    expired, called = others["expiry of 1,000,000 flows"], others["call from Python"]
    paces = [median_of(by_flows[str(flows)]["uniform, cache on"], "mpps") for flows, *_ in CASES]
    new = others["new flows of 4,096 endpoints"]
    reached = [
        f"- {flows:,} flows: {pace:.1f} Mpps (target ≥ {target:.0f})"
        for pace, (flows, _, target) in zip(paces, CASES, strict=True)
    ]
    reached += [
        f"- new flows: {median_of(new, 'm_s'):.1f} M/s, in tables used before {median_of(new, 'again_m_s'):.1f} "
        f"(target ≥ {NEW_TARGET_M_S:.0f})",
        f"- expiry of 1,000,000 flows, {EXPIRE_BUDGET} a step: the longest {median_cell(expired, 'longest_ms')} ms "
        f"(target ≤ {EXPIRE_TARGET_MS:.0f}), {median_cell(expired, 'ns_a_flow')} ns a flow",
        f"- {median_of(expired, 'bytes_a_flow'):.0f} bytes a flow, both ways (target ≤ {FLOW_TARGET_BYTES})",
        f"- a call of translate from Python, 64 frames: {median_cell(called, 'ns')} ns "
        f"(target ≤ {CALL_TARGET_NS:.0f}; two reads of the clock, {median_of(called, 'clock_ns'):.0f} ns, subtracted)",
    ]
    return "\n\n".join([first, second, "\n".join(reached)])


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 3))
