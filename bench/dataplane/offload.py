"""Cutting and joining super-frames beside memcpy of the same bytes: `python -m bench.dataplane.offload`.

Called from within one loop that holds no GIL, as a worker calls it; the port counts what it gets. Payload stays where
it is: what is made are headers, and checksums over all bytes. `bare` segments leave their checksums to the port.
"""

from __future__ import annotations

from collections.abc import Callable

from arcbox_net.dataplane._testing_offload import CSUM, ECN, TSO4, TSO6, NotingPort, time_memcpy
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
from tests.support.offload import payload, plain, super_tcp, udp

NAME = "dataplane.offload"
MSS = 1448
SUPER_BYTES = 45 * MSS
LOOPS = 20_000
TARGET_US = 1.8


def sending(port: NotingPort, frames: list[bytes], **split: int) -> Callable[[], Round]:
    def measure() -> Round:
        ns, frames_out = port.time(frames, LOOPS, **split)
        return {"us": ns / 1000, "frames_out": frames_out}

    return measure


def main() -> None:
    rounds = rounds_wanted(__doc__ or "", 9)
    whole = super_tcp(payload(SUPER_BYTES), MSS)
    whole6 = super_tcp(payload(45 * (MSS - 20)), MSS - 20, v6=True)
    segments = NotingPort().send([whole])
    takes_all = NotingPort(takes=CSUM | TSO4 | TSO6 | ECN)
    datagrams = [plain(udp(payload(18)))] * 64
    contenders = {
        f"memcpy of {SUPER_BYTES} bytes": lambda: {"us": time_memcpy(SUPER_BYTES, LOOPS) / 1000},
        "IPv4 super-frame into 45 segments": sending(NotingPort(), [whole]),
        "IPv6 super-frame into 45 segments": sending(NotingPort(), [whole6]),
        "the same, from a guest's pieces of 4096": sending(NotingPort(), [whole], head=256, piece=4096),
        "into 45 bare segments": sending(NotingPort(takes=CSUM), [whole]),
        "45 segments joined, checksums verified": sending(takes_all, segments),
        "64 datagrams that pass": sending(NotingPort(), datagrams),
        "64 datagrams that pass to a port that takes all": sending(takes_all, datagrams),
    }
    quiet = quiet_check(wait_s=10)
    found = interleave(contenders, rounds)
    text = table(["what", "us"], [[name, median_cell(measured, "us")] for name, measured in found.items()])
    result = {
        "environment": environment(),
        "quiet": quiet,
        "target_us": TARGET_US,
        "median_us": {name: median_of(measured, "us") for name, measured in found.items()},
        "rounds": found,
    }
    show(result, text)
    write_result(NAME, result)


if __name__ == "__main__":
    main()
