"""The vhost-user port on a ring in memory, without worker, socket or guest: `python -m bench.ports.vring`.

The guest costs nothing: its ring is full, and only the index goes up. In the same rounds, the copies alone that the
port cannot do without: the header and the frame of each buffer.
"""

from __future__ import annotations

from collections.abc import Callable

from arcbox_net.ports.vhost_user.features import Feature
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from tests.ports.vhost_user.guest import PLAIN, USUAL, Guest, frame

NAME = "ports.vring"
RING_SIZE = 256
BURST = 64
TURNS = {64: 50_000, 1514: 20_000}
BUFFER_BYTES = 2048
FEATURES = USUAL | Feature.EVENT_IDX


def full_guest(size: int) -> Guest:
    """A guest whose rings are full: of frames of *size* bytes one way, of empty buffers the other way."""
    guest = Guest(FEATURES, size=RING_SIZE)
    for _ in range(RING_SIZE):
        guest.transmit(frame(size))
    guest.worker.receive()
    guest.supply(*[BUFFER_BYTES] * RING_SIZE)
    return guest


def measured(size: int, run: Callable[[Guest, int], tuple[int, int]]) -> Callable[[], Round]:
    def measure() -> Round:
        guest = full_guest(size)
        took_ns, frames = run(guest, TURNS[size])
        guest.close()
        if frames != TURNS[size] * BURST:
            raise RuntimeError(f"{frames} of {TURNS[size] * BURST} frames")
        return {"m_s": frames / took_ns * 1e3, "ns": took_ns / frames}

    return measure


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    contenders: dict[str, Callable[[], Round]] = {}
    for size in TURNS:
        sent = [(PLAIN, frame(size))] * BURST
        copied = min(size, 256) + len(PLAIN)
        contenders |= {
            f"in {size}": measured(size, lambda guest, turns: guest.worker.receive_again(turns, BURST)),
            f"out {size}": measured(
                size, lambda guest, turns, sent=sent: guest.worker.send_again(turns, sent)
            ),
            f"copy {size}": measured(
                size,
                lambda guest, turns, copied=copied: (
                    guest.worker.copy_again(turns, BURST, copied),
                    turns * BURST,
                ),
            ),
        }
    payload["rounds"] = found = interleave(contenders, rounds)
    rates = table(
        ["frames in bursts of 64", "million/s", "ns a frame"],
        [
            [
                f"{size} bytes, {what}",
                median_cell(found[f"{name} {size}"], "m_s"),
                median_cell(found[f"{name} {size}"], "ns"),
            ]
            for size in TURNS
            for name, what in (
                ("in", "from the guest"),
                ("out", "to the guest"),
                ("copy", "the head's copy alone"),
            )
        ],
    )
    show(payload, rates)
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 5))
