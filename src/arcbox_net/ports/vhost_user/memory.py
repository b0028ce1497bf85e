"""The guest's memory as the front end describes it: regions are checked here, and mapped by the port."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from arcbox_net.ports.vhost_user import messages, port_messages
from arcbox_net.ports.vhost_user.messages import Message
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from arcbox_net.ports.vhost_user.steps import Refused, Steps, ask

REGIONS_MAX = 32  # memory slots
PAGE_BYTES = 4096
ADDRESSES = 1 << 64
_REASONS = {
    errno.EACCES: "its memory may not be written by us: it is read-only, or sealed against writing",
    errno.EPERM: "its memory can shrink under us; for QEMU: -object memory-backend-memfd,share=on",
    errno.EOPNOTSUPP: "its huge pages can be taken away under us; for QEMU: memory-backend-memfd without hugetlb=on",
}


@dataclass(frozen=True)
class Region:
    guest_address: int
    size: int
    user_address: int  # in the front end: rings are named by these
    offset: int  # in the file behind it

    @property
    def name(self) -> tuple[int, int, int]:
        """What tells regions apart."""
        return self.guest_address, self.size, self.user_address

    def check(self) -> None:
        if self.size == 0:
            raise Refused("a memory region of 0 bytes")
        for start in (self.guest_address, self.user_address, self.offset):
            if self.size > ADDRESSES - start:
                raise Refused(
                    f"a memory region of {self.size:#x} bytes at {start:#x} ends past all addresses"
                )
        if self.offset % PAGE_BYTES:
            raise Refused(f"a memory region at offset {self.offset:#x}, inside a page")

    def overlaps(self, other: Region) -> bool:
        starts = (self.guest_address, other.guest_address), (self.user_address, other.user_address)
        return any(mine < theirs + other.size and theirs < mine + self.size for mine, theirs in starts)


class MemoryTable:
    """The regions that the port has mapped, with how often each was added, and their files.

    QEMU up to 7.2 adds and removes each slot once for every pair of queues. A file stays open until the port has let
    go of it: the last to have a dead guest's memory gives it back page by page, and must not be the worker.
    """

    def __init__(self, close: Callable[[int], None]) -> None:
        self.regions: dict[Region, int] = {}
        self._files: dict[Region, int] = {}
        self._close = close

    def replace(self, message: Message) -> Steps[None]:
        """SET_MEM_TABLE: all regions at once. The old ones stay unless every new one is good."""
        count, _ = messages.TABLE.unpack_from(message.payload)
        body = message.payload[messages.TABLE.size :]
        regions = [Region(*fields) for fields in messages.REGION.iter_unpack(body)]
        if not count == len(regions) == len(message.fds):
            raise Refused(
                f"{count} regions, of which {len(regions)} are there with {len(message.fds)} descriptors"
            )
        _check_table(regions)
        try:
            for region, fd in zip(regions, message.fds, strict=True):
                yield from _map(PortMessage.MEMORY_STAGE, region, fd)
        except Refused:
            yield from ask(PortMessage.MEMORY_DISCARD)
            raise
        before = self._files
        self.regions = dict.fromkeys(regions, 1)
        self._files = dict(zip(regions, message.fds, strict=True))
        message.fds.clear()
        try:
            yield from ask(PortMessage.MEMORY_COMMIT)  # is carried out even if a ring is lost by it
        finally:
            self._close_all(before)

    def add(self, message: Message) -> Steps[None]:
        region = _one_region(message)
        if len(message.fds) != 1:
            raise Refused(f"{len(message.fds)} descriptors with one memory region")
        if region in self.regions:
            self.regions[region] += 1
            return
        _check_table([*self.regions, region])
        yield from _map(PortMessage.MEMORY_ADD, region, message.fds[0])
        self.regions[region] = 1
        self._files[region] = message.fds.pop()

    def remove(self, message: Message) -> Steps[None]:
        """REM_MEM_REG. Some front ends send a descriptor with it, which nobody needs."""
        name = _one_region(message).name
        region = next((region for region in self.regions if region.name == name), None)
        if region is None:
            raise Refused(f"no memory region at {name[0]:#x} is to be removed")
        self.regions[region] -= 1
        if not self.regions[region]:
            del self.regions[region]
            try:
                yield from ask(PortMessage.MEMORY_REMOVE, port_messages.REGION_NAME.pack(*name))
            finally:
                self._close(self._files.pop(region))

    def close(self) -> None:
        """The port has let go of all of it."""
        self._close_all(self._files)

    def _close_all(self, files: dict[Region, int]) -> None:
        for fd in files.values():
            self._close(fd)
        files.clear()


def _one_region(message: Message) -> Region:
    _, *fields = messages.ONE_REGION.unpack(message.payload)
    return Region(*fields)


def _check_table(regions: list[Region]) -> None:
    if len(regions) > REGIONS_MAX:
        raise Refused(f"{len(regions)} memory regions, of which {REGIONS_MAX} are allowed")
    for number, region in enumerate(regions):
        region.check()
        if any(region.overlaps(other) for other in regions[:number]):
            raise Refused(f"memory regions overlap at {region.guest_address:#x}")


def _map(kind: PortMessage, region: Region, fd: int) -> Steps[None]:
    fields = region.guest_address, region.size, region.user_address, region.offset, fd
    yield from ask(kind, port_messages.REGION.pack(*fields), reasons=_REASONS)
