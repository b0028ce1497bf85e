"""What control sees of a worker: events, and the counters in its shared memory, which other programs may read too.

Layout of that memory, in the machine's byte order: a header of 64 bytes (`COUNTERS_HEADER`: magic, version, number of
ports, bytes of a port's row, number of drop reasons, turns, sleeps, messages, reports lost, gap), and a row for each
port number (`COUNTERS_ROW`: rx frames, rx bytes, tx frames, tx bytes, wake-ups, generation, two gaps, drops by reason).
A row whose generation is 0 is of no port. Only the worker writes; each number is read whole, at any time.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from typing_extensions import Buffer

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.errors import ConfigError

COUNTERS_MAGIC = 0x7374636E2D786261  # "abx-ncts"
COUNTERS_VERSION = 1
COUNTERS_HEADER = struct.Struct("=QIIII5Q")
COUNTERS_ROW = struct.Struct("=8Q32Q")
_GENERATION_AT = 5
_DROPS_AT = 8


class WorkerEvent(NamedTuple):
    """EVENT_ANSWER to the message with *ticket* (0, or a negative errno), EVENT_DEAD of a port that broke its protocol,
    or what the port at *number* reports, with a kind and a value of its own."""

    number: int
    kind: int
    value: int
    ticket: int


class PortCounters(NamedTuple):
    """What a port counted since it was added; `drops` by reason, those that occurred."""

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    wakeups: int
    drops: dict[PortDrop, int]


class WorkerCounters(NamedTuple):
    turns: int
    sleeps: int
    messages: int
    reports_lost: int
    ports: dict[int, PortCounters]


def read_counters(memory: Buffer) -> WorkerCounters:
    """What is in a worker's counter memory now. Raises ConfigError if it is something else."""
    magic, version, ports, row_bytes, reasons, turns, sleeps, messages, lost, _ = COUNTERS_HEADER.unpack_from(
        memory
    )
    if (magic, version, row_bytes) != (COUNTERS_MAGIC, COUNTERS_VERSION, COUNTERS_ROW.size):
        raise ConfigError("no counters of this version", field="memory", value=magic)
    found = {}
    for number in range(ports):
        row = COUNTERS_ROW.unpack_from(memory, COUNTERS_HEADER.size + number * row_bytes)
        if row[_GENERATION_AT]:
            drops = {PortDrop(reason): row[_DROPS_AT + reason] for reason in range(reasons)}
            rx_frames, rx_bytes, tx_frames, tx_bytes, wakeups = row[:_GENERATION_AT]
            found[number] = PortCounters(
                rx_frames,
                rx_bytes,
                tx_frames,
                tx_bytes,
                wakeups,
                {reason: count for reason, count in drops.items() if count},
            )
    return WorkerCounters(turns, sleeps, messages, lost, found)
