"""Our vhost-user port beside DPDK's own, with DPDK's virtio_user as the guest: `python -m bench.ports.vhost`.

Frames of 64 bytes: from the guest to a back end that forgets them, from a back end to a guest that forgets them, and
round, each sending back what it received. The guest is pinned to one core and the back end to the other; both look
at their rings without pause, so nothing is notified. Ours is a worker with a patch. Counted by the guest.

Through the NAT engine: the datagrams of a flow are answered by a mirror, behind the switch and the engine of a network,
or for comparison by the same mirror behind a patch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

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
from bench.ports.vhost_nat import GUEST_OPTIONS, SWAP, answered, translated
from tests.support.netns import wait_until
from tests.support.testpmd import Testpmd, back_end, driver
from tests.support.vhost_port import ServedPort

NAME = "ports.vhost"
WARM_UP_S = 0.5
MEASURE_S = 1.5
BACK_END_CORE, GUEST_CORE = 0, 1
ENDLESS = 1 << 40
OURS, DPDK = "ours", "DPDK's vhost"
# By what is measured: how the guest and DPDK's back end forward, how the guest starts, which of its counts it is.
WAYS = {
    "in": ("txonly", "rxonly", "start", "TX"),
    "out": ("rxonly", "txonly", "start", "RX"),
    "round": ("io", "io", "start tx_first 8", "RX"),
}
EVERY_CORE = ["taskset", "-c", f"0-{(os.cpu_count() or 1) - 1}"]  # we ourselves are pinned


@contextlib.contextmanager
def our_port(path: Path, way: str) -> Iterator[None]:
    with ServedPort(path, echo=way == "round") as port:
        if way == "out":
            port.flood(ENDLESS)
        yield


ANSWERED = (SWAP, "", "start tx_first 8", "RX")
MIRRORS = {"behind the NAT engine": translated, "behind a patch": answered}


@contextlib.contextmanager
def dpdk_port(path: Path, way: str) -> Iterator[None]:
    mode = WAYS[way][1]
    with Testpmd(back_end(path), forward=mode, core=BACK_END_CORE, prefix=EVERY_CORE) as served:
        wait_until(path.exists)
        served.command("start")
        yield


def measure(contender: str) -> Round:
    port = our_port if contender == OURS else dpdk_port
    return {way: _rate(lambda path, way=way: port(path, way), how) for way, how in WAYS.items()}


def _rate(port: Callable[[Path], AbstractContextManager[None]], how: tuple[str, str, str, str]) -> float:
    """Million frames a second."""
    mode, _, start, count = how
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "vhost.sock")
        with (
            port(path),
            Testpmd(
                driver(path), forward=mode, core=GUEST_CORE, prefix=EVERY_CORE, options=GUEST_OPTIONS
            ) as guest,
        ):
            guest.command(start)
            time.sleep(WARM_UP_S)
            guest.command("clear port stats all")
            began = time.perf_counter()
            time.sleep(MEASURE_S)
            took = time.perf_counter() - began
            return guest.finish()[count] / took / 1e6


def main() -> None:
    rounds_each = rounds_wanted(__doc__ or "", default=5)
    machine = environment()
    os.sched_setaffinity(0, {BACK_END_CORE})
    quiet = quiet_check(wait_s=10)
    contenders = {name: lambda name=name: measure(name) for name in (OURS, DPDK)}
    for name, port in MIRRORS.items():
        contenders[name] = lambda port=port: {"answered": _rate(port, ANSWERED)}
    rounds = interleave(contenders, rounds_each)
    shares = {way: median_of(rounds[OURS], way) / median_of(rounds[DPDK], way) for way in WAYS}
    rows = [
        [way, *(median_cell(rounds[name], way) for name in (OURS, DPDK)), f"{shares[way]:.2f}"]
        for way in WAYS
    ]
    text = table(["million frames/s", OURS, DPDK, "share"], rows)
    answers = [[name, median_cell(rounds[name], "answered")] for name in MIRRORS]
    text += "\n\n" + table(["datagrams answered, million/s", "round"], answers)
    payload = {"environment": machine, "quiet": quiet, "shares": shares, "rounds": rounds}
    show(payload, text)
    write_result(NAME, payload)


if __name__ == "__main__":
    main()
