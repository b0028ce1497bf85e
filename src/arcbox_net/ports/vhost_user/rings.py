"""One ring as its front end sets it up. It begins once all is known, and its descriptors are the port's from then on.

empty -- size, base, addresses, descriptors in any order --> complete: RING_START --> running
running -- GET_VRING_BASE: RING_STOP --> size and addresses stay; the descriptors are gone, and come anew
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from arcbox_net.ports.vhost_user import port_messages
from arcbox_net.ports.vhost_user.port_messages import NO_FD, RING_ENABLED, RING_RESUMES, PortMessage
from arcbox_net.ports.vhost_user.steps import Refused, Steps, ask

RING_SIZE_MAX = 32768
RING_BASE_MAX = 0xFFFF
SHARE_IT = "for QEMU: -object memory-backend-memfd,id=mem,size=…,share=on -machine memory-backend=mem"

Addresses = tuple[int, int, int]  # descriptors, available, used: the front end's


class Ring:
    """See the module's docstring. Owns its descriptors while it does not run."""

    def __init__(self, index: int, close: Callable[[int], None]) -> None:
        self.index = index
        self.running = False
        self.enabled = False
        self.resumes = False
        self._close = close
        self._size = 0
        self._base = 0
        self._addresses: Addresses | None = None
        self._kick: int | None = None  # None: not known yet; NO_FD: the port polls
        self._call: int | None = None

    def set_size(self, size: int) -> Steps[None]:
        if not 0 < size <= RING_SIZE_MAX or size & (size - 1):
            raise Refused(f"ring {self.index} of {size} entries")
        self._change("size", self._size, size)
        self._size = size
        yield from self._start_when_complete()

    def set_base(self, base: int) -> Steps[None]:
        if base > RING_BASE_MAX:
            raise Refused(f"ring {self.index} begins at {base}")
        self._change("base", self._base, base)
        self._base = base
        yield from ()

    def set_addresses(self, addresses: Addresses) -> Steps[None]:
        self._change("addresses", self._addresses, addresses)
        self._addresses = addresses
        yield from self._start_when_complete()

    def set_kick(self, fds: list[int]) -> Steps[None]:
        """Takes the first of *fds*; none means that the port polls."""
        if self.running:
            yield from self._hand_over(PortMessage.RING_KICK, fds)
            return
        self._release(self._kick)
        self._kick = fds.pop(0) if fds else NO_FD
        yield from self._start_when_complete()

    def set_call(self, fds: list[int]) -> Steps[None]:
        """Takes the first of *fds*; none means that the guest polls."""
        if self.running:
            yield from self._hand_over(PortMessage.RING_CALL, fds)
            return
        self._release(self._call)
        self._call = fds.pop(0) if fds else NO_FD

    def enable(self, enabled: bool) -> Steps[None]:
        if self.running:
            yield from ask(PortMessage.RING_ENABLE, port_messages.RING_NUMBER.pack(self.index, enabled))
        self.enabled = enabled

    def stop(self) -> Steps[int]:
        """The index of the next entry of its available ring, which the port takes no more."""
        if self.running:
            self._base = yield from ask(PortMessage.RING_STOP, port_messages.RING_NUMBER.pack(self.index, 0))
            self.running = False
        return self._base

    def close(self) -> None:
        """Close the descriptors that are still its own."""
        self._release(self._kick)
        self._release(self._call)
        self._kick = self._call = None

    def _start_when_complete(self) -> Steps[None]:
        if self.running or not self._size or self._addresses is None or self._kick is None:
            return
        call = NO_FD if self._call is None else self._call
        flags = RING_ENABLED * self.enabled | RING_RESUMES * self.resumes
        fields = self.index, self._size, *self._addresses, self._base, flags, self._kick, call
        nowhere = {errno.EFAULT: f"ring {self.index} is not in memory that is shared with us; {SHARE_IT}"}
        yield from ask(PortMessage.RING_START, port_messages.RING_START.pack(*fields), reasons=nowhere)
        self.running = True
        self._kick = self._call = None

    def _change(self, what: str, old: object, new: object) -> None:
        if self.running and old != new:
            raise Refused(f"ring {self.index} runs, and its {what} cannot change")

    def _hand_over(self, kind: PortMessage, fds: list[int]) -> Steps[None]:
        yield from ask(kind, port_messages.RING_FD.pack(self.index, fds[0] if fds else NO_FD))
        del fds[:1]

    def _release(self, fd: int | None) -> None:
        if fd is not None and fd != NO_FD:
            self._close(fd)
