"""Full and incremental checksums beside memcpy and a read of the same bytes: `python -m bench.dataplane.checksum`.

All is called from Python, and each call costs some 50 ns of its own whatever it does. `read` is libc's memchr for an
octet that is not there. `each kernel` forces the vectors that the module chooses among when it is loaded.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

from arcbox_net import (
    checksum,
    checksum_batch,
    incremental_checksum_update,
    incremental_checksum_update_batch,
)
from arcbox_net.wire._testing import sum_by
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

NAME = "dataplane.checksum"
SEED = 1071
ABSENT = 0xFF
HOT_BYTES, COLD_BYTES = 65536, 256 << 20
SEGMENT_BYTES, HEADER_BYTES = 1460, 20
UPDATES = 4096
KERNELS = (4, 16, 32, 64)
FULL_TARGET_GB_S, UPDATE_TARGET_NS = 60.0, 2.0


def octets(size: int) -> bytes:
    """A multiple of 64 kB, without the octet that `read` looks for."""
    block = random.Random(SEED).randbytes(HOT_BYTES).replace(bytes([ABSENT]), b"\0")
    return block * (size // HOT_BYTES)


def rate(size: int, call: Callable[[], object]) -> Callable[[], Round]:
    """A contender that goes through *size* bytes a call."""

    def measure() -> Round:
        ns = call_ns(call)
        return {"ns": ns, "gb_s": size / ns}

    return measure


def each(count: int, call: Callable[[], object]) -> Callable[[], Round]:
    """A contender that does *count* things a call."""
    return lambda: {"ns": call_ns(call) / count}


def whole(size: int) -> dict[str, Callable[[], Round]]:
    """The contenders over one buffer of *size* bytes."""
    data = bytearray(octets(size))
    copy = memoryview(bytearray(size))
    read = data.find

    def copied() -> None:
        copy[:] = data

    return {
        "checksum": rate(size, lambda: checksum(data)),
        "memcpy": rate(size, copied),
        "read": rate(size, lambda: read(ABSENT)),
    }


def kernels() -> dict[str, Callable[[], Round]]:
    data = octets(HOT_BYTES)

    def of(vector_bytes: int) -> Callable[[], Round]:
        return rate(HOT_BYTES, lambda: sum_by(vector_bytes, data, 0, HOT_BYTES))

    return {f"{size} bytes": of(size) for size in KERNELS if sum_by(size, b"", 0, 0) is not None}


def batch(size: int) -> Callable[[], Round]:
    """`checksum_batch` of 64 kB in parts of *size*, one behind the other."""
    data = octets(HOT_BYTES)
    count = HOT_BYTES // size
    offsets, sizes = array("I", range(0, count * size, size)), array("I", [size] * count)
    out = array("H", bytes(2 * count))
    return each(count, lambda: checksum_batch(data, offsets, sizes, out))


def updates() -> dict[str, Callable[[], Round]]:
    """Each in a batch, and a copy of what the batch of 16-bit values reads and writes."""
    rng = random.Random(SEED)

    def numbers(kind: str, width: int) -> array[int]:
        return array(kind, (rng.getrandbits(width) for _ in range(UPDATES)))

    sums, out = numbers("H", 16), numbers("H", 16)
    old16, new16, old32, new32 = numbers("H", 16), numbers("H", 16), numbers("I", 32), numbers("I", 32)
    to, other = memoryview(out), memoryview(numbers("H", 16))

    def copied() -> None:
        to[:] = memoryview(sums)
        other[:] = memoryview(old16)
        other[:] = memoryview(new16)

    return {
        "16 bits": each(UPDATES, lambda: incremental_checksum_update_batch(sums, old16, new16, out=out)),
        "32 bits": each(
            UPDATES, lambda: incremental_checksum_update_batch(sums, old32, new32, width=32, out=out)
        ),
        "copy of the same arrays": each(UPDATES, copied),
        "16 bits, one call": each(1, lambda: incremental_checksum_update(0x1234, 80, 8080)),
        f"full checksum of {HEADER_BYTES} bytes": batch(HEADER_BYTES),
        f"full checksum of {SEGMENT_BYTES} bytes": batch(SEGMENT_BYTES),
    }


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    payload["hot"] = hot = interleave(whole(HOT_BYTES), rounds)
    payload["cold"] = cold = interleave(whole(COLD_BYTES), rounds)
    payload["kernels"] = by_kernel = interleave(kernels(), rounds)
    payload["updates"] = updated = interleave(updates(), rounds)
    full = table(
        ["GB/s", *hot],
        [
            ["64 kB, hot", *(median_cell(found, "gb_s") for found in hot.values())],
            ["256 MB, from memory", *(median_cell(found, "gb_s") for found in cold.values())],
        ],
    )
    vectors = table(
        ["each kernel, 64 kB, vectors of", "GB/s"],
        [[name, median_cell(found, "gb_s")] for name, found in by_kernel.items()],
    )
    incremental = table(
        ["update", "ns each"], [[name, median_cell(found, "ns")] for name, found in updated.items()]
    )
    hot_gb_s, update_ns = median_of(hot["checksum"], "gb_s"), median_of(updated["16 bits"], "ns")
    targets = (
        f"- 64 kB, hot: {hot_gb_s:.0f} GB/s (target ≥ {FULL_TARGET_GB_S:.0f})\n"
        f"- update in a batch: {update_ns:.2f} ns (target ≤ {UPDATE_TARGET_NS:.0f})"
    )
    show(payload, "\n\n".join([full, vectors, incremental, targets]))
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 7))
