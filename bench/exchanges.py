"""Exchanges through a proxy, with both ends where they are put: on one core, on two, or where the scheduler likes.

Waking an idle core takes longer than all else of an exchange, so a figure says little without the cores of the ends.
The proxy is always placed by the scheduler.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from arcbox_net import netspeed
from bench.common import Round, beginning_with

Placement = tuple[set[int], set[int]]  # cores of the client, which is the calling thread, and of the server


def placements() -> dict[str, Placement]:
    cores = sorted(os.sched_getaffinity(0))
    anywhere = set(cores)
    found: dict[str, Placement] = {"anywhere": (anywhere, anywhere)}
    if len(cores) > 1:
        found["one_core"] = ({cores[0]}, {cores[0]})
        found["two_cores"] = ({cores[0]}, {cores[1]})
    return found


def exchange_rounds(
    ports: dict[str, int], host: str, server_pid: int, *, size: int, count: int, rounds: int
) -> dict[str, list[Round]]:
    """Every contender's rounds. *ports*: where on *host* each leads to the netspeed server that is *server_pid*.

    In a round each placement is measured on all contenders, one right after the other.
    """
    found: dict[str, list[Round]] = {name: [] for name in ports}
    for number in range(rounds):
        for name in ports:
            found[name].append({})
        for where, placement in placements().items():
            with placed(server_pid, placement):
                for name in beginning_with(list(ports), number):
                    latency = netspeed.measure_rr(host, ports[name], size=size, count=count)
                    for share in ("p50", "p99"):
                        found[name][number][f"rr_{where}_{share}_us"] = latency[f"{share}_us"]
    return found


@contextlib.contextmanager
def placed(server_pid: int, placement: Placement) -> Iterator[None]:
    """Inside, the calling thread and what the server begins are on these cores."""
    before = os.sched_getaffinity(0), os.sched_getaffinity(server_pid)
    try:
        _place(server_pid, placement)
        yield
    finally:
        _place(server_pid, before)


def _place(server_pid: int, placement: Placement) -> None:
    for pid, cores in zip((0, server_pid), placement, strict=True):
        os.sched_setaffinity(pid, cores)
