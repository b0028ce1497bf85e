"""Which platform this is: the one place that asks. What differs between platforms is behind `Platform`."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol, cast

from arcbox_net.host.check import Check

_LINUX, _MACOS = "arcbox_net.host.linux.platform", "arcbox_net.host.macos.platform"


class ProcessEnd(Protocol):
    """Readable when the process has ended, however it did; no later process of that number is taken for it."""

    def fileno(self) -> int: ...

    def wait(self, timeout_s: float) -> bool:
        """Whether it ends within that time."""
        ...

    def close(self) -> None: ...


class Closeable(Protocol):
    def close(self) -> None: ...


class Platform(Protocol):
    """A module of each platform. `NETWORK`: what its networks are built on. `PORT_KINDS`: the guests that they take."""

    @property
    def NETWORK(self) -> str: ...

    @property
    def PORT_KINDS(self) -> tuple[str, ...]: ...

    def watch_process(self, pid: int) -> ProcessEnd:
        """Raises OSError: ProcessLookupError when there is no such process."""
        ...

    def take_lock(self, fd: int) -> bool:
        """Lock that open file until its descriptor is closed. False: another one has it."""
        ...

    def is_locked(self, fd: int) -> bool:
        """Whether another open file has the lock, which is not taken."""
        ...

    def watch_folder(self, folder: Path, changed: Callable[[], None]) -> Closeable:
        """Have the running event loop call *changed* when a file has gone from *folder*. Raises OSError."""
        ...

    def start_monitor(self, words: list[str], fds: Sequence[int], network_pid: int | None) -> int:
        """Start the command with those descriptors, and the signals that this process blocks unblocked; its pid.

        It is where the network of *network_pid* is, if one is named. Raises CommandFailed.
        """
        ...

    def checks(self, live: Collection[str]) -> list[Check]:
        """What this machine can do for networks. *live*: those that run."""
        ...


@functools.cache
def platform() -> Platform:
    """That of this machine."""
    return cast(Platform, importlib.import_module(_MACOS if sys.platform == "darwin" else _LINUX))
