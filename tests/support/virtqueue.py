"""A guest's side of virtqueues in Python: memory that can be shared, and a driver that can also do what none does.

Addresses: what the guest has at `gpa`, the front end has at `gpa + USER`. Each ring lies in RAM like everything else.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator

USER = 0x7F00_0000_0000
NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("=QIHH")
USED = struct.Struct("=II")
HEADER = struct.Struct(
    "=BBHHHHH"
)  # of virtio-net: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers

Buffer = tuple[int, int]  # address, size


class Ram:
    """A sealed memfd from guest address *gpa* on."""

    def __init__(self, size: int = 1 << 20, gpa: int = 0x10_0000, *, sealed: bool = True) -> None:
        self.gpa, self.size = gpa, size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        if sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.view = mmap.mmap(self.fd, size)

    def close(self) -> None:
        self.view.close()
        os.close(self.fd)

    def write(self, gpa: int, content: bytes) -> None:
        self.view[gpa - self.gpa : gpa - self.gpa + len(content)] = content

    def read(self, gpa: int, size: int) -> bytes:
        return self.view[gpa - self.gpa : gpa - self.gpa + size]


class Ring:
    """A ring of *size* at *gpa*. Descriptors are handed out one after the other, and never checked."""

    def __init__(self, ram: Ram, gpa: int, size: int) -> None:
        self.ram, self.size = ram, size
        self.descriptors = gpa
        self.available = gpa + 16 * size
        self.used = (self.available + 6 + 2 * size + 3) & ~3
        self.end = self.used + 6 + 8 * size
        self.index = 0  # of the available ring, as published
        self.seen = 0  # of the used ring
        self.free = 0  # the next descriptor to hand out

    def put(self, place: int, address: int, size: int, flags: int = 0, following: int = 0) -> None:
        self.ram.write(self.descriptors + 16 * place, DESCRIPTOR.pack(address, size, flags, following))

    def descriptor(self, place: int) -> tuple[int, ...]:
        """Address, size, flags, and the next one."""
        return DESCRIPTOR.unpack(self.ram.read(self.descriptors + 16 * place, DESCRIPTOR.size))

    def chain(self, readable: Iterable[Buffer] = (), writable: Iterable[Buffer] = ()) -> int:
        """Write descriptors, linked in order; the head."""
        parts = [(*each, 0) for each in readable] + [(*each, WRITE) for each in writable]
        places = [(self.free + i) % self.size for i in range(len(parts))]
        self.free = (self.free + len(parts)) % self.size
        for i, (address, size, flags) in enumerate(parts):
            last = i == len(parts) - 1
            following = 0 if last else places[i + 1]
            self.put(places[i], address, size, flags if last else flags | NEXT, following)
        return places[0]

    def indirect(self, table: int, readable: Iterable[Buffer] = (), writable: Iterable[Buffer] = ()) -> int:
        """As `chain`, with the descriptors in a table at *table*."""
        parts = [(*each, 0) for each in readable] + [(*each, WRITE) for each in writable]
        for i, (address, size, flags) in enumerate(parts):
            last = i == len(parts) - 1
            body = DESCRIPTOR.pack(address, size, flags if last else flags | NEXT, 0 if last else i + 1)
            self.ram.write(table + 16 * i, body)
        place, self.free = self.free, (self.free + 1) % self.size
        self.put(place, table, 16 * len(parts), INDIRECT)
        return place

    def offer(self, *heads: int) -> None:
        """Make chains available."""
        for head in heads:
            place = self.available + 4 + 2 * (self.index % self.size)
            self.ram.write(place, struct.pack("=H", head))
            self.index = (self.index + 1) & 0xFFFF
        self.set_index(self.index)

    def set_index(self, index: int) -> None:
        self.index = index
        self.ram.write(self.available + 2, struct.pack("=H", index))

    def suppress_calls(self) -> None:
        self.ram.write(self.available, struct.pack("=H", 1))

    def call_at(self, index: int) -> None:
        """Write `used_event`: the entry at whose use the guest wants to be called."""
        self.ram.write(self.available + 4 + 2 * self.size, struct.pack("=H", index & 0xFFFF))

    @property
    def kick_at(self) -> int:
        """`avail_event`: the entry at which the device wants to be kicked."""
        return int.from_bytes(self.ram.read(self.used + 4 + 8 * self.size, 2), "little")

    @property
    def kicks_suppressed(self) -> bool:
        return self.ram.read(self.used, 2) != b"\0\0"

    @property
    def used_index(self) -> int:
        return int.from_bytes(self.ram.read(self.used + 2, 2), "little")

    def finished(self) -> list[tuple[int, int]]:
        """Entries of the used ring since the last call: head and bytes written."""
        return list(self._finished())

    def _finished(self) -> Iterator[tuple[int, int]]:
        while self.seen != self.used_index:
            yield USED.unpack(self.ram.read(self.used + 4 + 8 * (self.seen % self.size), USED.size))
            self.seen = (self.seen + 1) & 0xFFFF
