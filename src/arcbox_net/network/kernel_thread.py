"""The one thread of a network process that does all kernel work, in order; it is where the guests are.

For a network in the host's namespace that is the namespace of the whole process. For a private one the thread
enters a network namespace of its own and stays; every other thread stays in the host's, where the outside is.
A thread that entered cannot go back, so a second one, which never entered, makes what the kernel thread needs outside.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class KernelThread:
    """Runs functions, one at a time. `netns_fd` is the private namespace's; None while there is none.

    Made by a thread that is outside.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._outside: ThreadPoolExecutor | None = None
        self.netns_fd: int | None = None
        self.netns_path: str | None = None

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of *function*, called in the thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    async def place(self, make: Callable[[], T], /) -> T:
        """`run` as services know it: what *make* makes is where the guests are."""
        return await self.run(make)

    def outside(self, make: Callable[[], T], /) -> T:
        """Called in the thread: what *make* makes is in the host's network namespace."""
        return make() if self._outside is None else self._outside.submit(make).result()

    def prepare_private(self) -> None:
        """Called outside, before `enter`: a thread is in the network namespace of the one that started it."""
        self._outside = ThreadPoolExecutor(1, thread_name_prefix="outside")
        self._outside.submit(int).result()

    def enter(self) -> None:
        """Called in the thread: move it into a network namespace of its own. Raises PermissionDenied, Unsupported."""
        from arcbox_net.host.linux import inside

        assert self._outside is not None
        self.netns_fd = inside.enter_network_namespace()
        self.netns_path = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"

    def shutdown(self) -> None:
        """End the thread, and with it the private namespace unless somebody else holds it."""
        self._executor.shutdown()
        if self._outside is not None:
            self._outside.shutdown()
        if self.netns_fd is not None:
            os.close(self.netns_fd)
            self.netns_fd = None
