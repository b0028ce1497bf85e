"""The device side of a split virtqueue as virtio 1.2 (2.7, 5.1.6) has it, without a thought for speed.

It reads the guest's memory as it is when asked, and says what a port ought to make of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.vring import RingFault
from tests.support.virtqueue import DESCRIPTOR, HEADER, INDIRECT, NEXT, WRITE, Buffer, Ram, Ring

CHAIN_MAX = 1024
MERGED_MAX = 64
FRAME_BYTES_MIN, FRAME_BYTES_MAX, FRAME_BYTES_PADDED = 14, 65_550, 60
TSO = {1: Feature.HOST_TSO4, 4: Feature.HOST_TSO6}


class BadRing(Exception):
    """The guest has broken its ring."""

    def __init__(self, fault: RingFault) -> None:
        super().__init__(fault.name)
        self.fault = fault


class Dropped(Exception):
    """A frame that is none, or for which there is no room."""

    def __init__(self, reason: PortDrop) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass
class Chain:
    readable: list[Buffer]
    writable: list[Buffer]

    @property
    def room(self) -> int:
        return sum(size for _, size in self.writable)


class Device:
    """One ring in *ram*, of which the guest's addresses from *edges* to *edges* are regions of their own."""

    def __init__(self, ram: Ram, edges: list[int], ring: Ring, features: int, base: int = 0) -> None:
        self.ram, self.ring, self.features = ram, ring, features
        self.regions = list(itertools.pairwise(edges))
        self.next = self.seen = base
        self.lacking = 0  # bytes of the smallest frame that did not fit what was available at `seen`
        self.lacking_reason = PortDrop.PORT_DROP_FULL

    @property
    def header_bytes(self) -> int:
        return 12 if self.features & (Feature.VERSION_1 | Feature.MRG_RXBUF) else 10

    def load(self, address: int, size: int) -> bytes:
        if not any(start <= address < end and address + size <= end for start, end in self.regions):
            raise BadRing(RingFault.FAULT_ADDRESS)
        return self.ram.read(address, size)

    def available(self) -> int:
        index = int.from_bytes(self.ram.read(self.ring.available + 2, 2), "little")
        self.seen = index
        count = (index - self.next) % 65536
        if count > self.ring.size:
            raise BadRing(RingFault.FAULT_AVAILABLE)
        return count

    def head(self, ahead: int = 0) -> int:
        place = (self.next + ahead) % self.ring.size
        return int.from_bytes(self.ram.read(self.ring.available + 4 + 2 * place, 2), "little")

    def walk(self, head: int) -> Chain:
        if head >= self.ring.size:
            raise BadRing(RingFault.FAULT_HEAD)
        chain = Chain([], [])
        for address, size, flags in self.descriptors(head):
            if flags & WRITE:
                chain.writable.append((address, size))
            elif chain.writable:
                raise BadRing(RingFault.FAULT_ORDER)
            else:
                chain.readable.append((address, size))
            if max(chain.room, sum(size for _, size in chain.readable)) >= 1 << 32:
                raise BadRing(RingFault.FAULT_BYTES)
        return chain

    def descriptors(self, head: int) -> Iterator[tuple[int, int, int]]:
        """Address, size and flags of a chain's buffers, those of an indirect table in its place."""
        table, entries, place, nested = self.ring.descriptors, self.ring.size, head, False
        left, count = min(entries, CHAIN_MAX), 0
        while left:
            left -= 1
            if place >= entries:
                raise BadRing(RingFault.FAULT_NEXT)
            address, size, flags, following = DESCRIPTOR.unpack(self.ram.read(table + 16 * place, 16))
            self.load(address, size)
            if flags & INDIRECT:
                if nested:
                    raise BadRing(RingFault.FAULT_NESTED)
                if flags & NEXT:
                    raise BadRing(RingFault.FAULT_INDIRECT_NEXT)
                if not self.features & Feature.INDIRECT_DESC or not 0 < size <= 16 * CHAIN_MAX or size % 16:
                    raise BadRing(RingFault.FAULT_TABLE)
                table, entries, place, nested = address, size // 16, 0, True
                left = min(entries, CHAIN_MAX - count)
                continue
            if size == 0:
                raise BadRing(RingFault.FAULT_EMPTY)
            count += 1
            yield address, size, flags
            if not flags & NEXT:
                return
            place = following
        raise BadRing(RingFault.FAULT_LOOP)

    def receive(self) -> tuple[bytes, bytes]:
        """Take the next chain: the virtio-net header and the frame that the guest sends in it."""
        chain = self.walk(self.head())
        if chain.writable:
            raise BadRing(RingFault.FAULT_DIRECTION)
        self.next = (self.next + 1) % 65536
        content = b"".join(self.load(*each) for each in chain.readable)
        frame = content[self.header_bytes :]
        if len(content) < self.header_bytes + FRAME_BYTES_MIN:
            raise Dropped(PortDrop.PORT_DROP_SHORT)
        if len(frame) > FRAME_BYTES_MAX:
            raise Dropped(PortDrop.PORT_DROP_LONG)
        header = content[: self.header_bytes].ljust(12, b"\0")
        flags, kind, length, segment, start, field, _ = HEADER.unpack(header)
        flags &= 1
        if not self.offload_fits(flags, kind, length, segment, start, field, len(frame)):
            raise Dropped(PortDrop.PORT_DROP_OFFLOAD)
        return HEADER.pack(flags, kind, length, segment, start, field, 0), frame

    def offload_fits(
        self, flags: int, kind: int, length: int, segment: int, start: int, field: int, size: int
    ) -> bool:
        if length > size:
            return False
        if not flags and not kind:
            return True
        if not self.features & Feature.CSUM or (kind & 0x80 and not self.features & Feature.HOST_ECN):
            return False
        if flags and start + field + 2 > size:
            return False
        if kind == 0:
            return True
        wanted = TSO.get(kind & 0x7F)
        return bool(wanted and self.features & wanted and segment and flags)

    def send(self, size: int) -> list[tuple[int, int]]:
        """Make room for a frame of *size* bytes: the used entries, heads and bytes written.

        The guest's index is read when all is used up that was available before, or was too little for such a frame.
        """
        need = self.header_bytes + max(size, FRAME_BYTES_PADDED)
        most = MERGED_MAX if self.features & Feature.MRG_RXBUF else 1
        found: list[tuple[int, int]] = []
        parts, left = 0, need
        known = (self.seen - self.next) % 65536
        if self.lacking and need >= self.lacking:
            known = 0
        while left:
            if len(found) >= known:
                known = self.look_again(len(found), need)
            if len(found) == most:
                raise self.lacks(need, PortDrop.PORT_DROP_TOO_BIG)
            head = self.head(len(found))
            chain = self.walk(head)
            if chain.readable:
                raise BadRing(RingFault.FAULT_DIRECTION)
            parts += len(chain.writable)
            if parts > CHAIN_MAX:
                raise self.lacks(need, PortDrop.PORT_DROP_TOO_BIG)
            found.append((head, min(left, chain.room)))
            left -= found[-1][1]
        self.next = (self.next + len(found)) % 65536
        if self.lacking_reason == PortDrop.PORT_DROP_TOO_BIG:
            self.lacking = 0
        return found

    def look_again(self, count: int, need: int) -> int:
        before = self.seen
        known = self.available()
        if self.seen != before:
            self.lacking = 0
        if count < known and not self.lacking:
            return known
        raise self.lacks(need, PortDrop.PORT_DROP_FULL)

    def lacks(self, need: int, reason: PortDrop) -> Dropped:
        """What a frame of *need* bytes is dropped for: *reason*, or that of one at most as large which did not fit."""
        if not self.lacking or need < self.lacking:
            self.lacking, self.lacking_reason = need, reason
        return Dropped(self.lacking_reason)
