"""rtnetlink's notices on the asyncio loop: what the kernel says by itself, a bounded number of datagrams a turn.

Who follows notices also asks, at first and when some were lost: `Notices` has a socket for that, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_ROUTE,
    RECEIVE_BYTES,
    SOL_NETLINK,
    Message,
    open_socket,
    parse,
)
from arcbox_net.host.linux.rtsocket import RouteSocket

RTNLGRP_LINK: Final = 1
RTNLGRP_NEIGH: Final = 3
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV4_ROUTE: Final = 7
RTNLGRP_IPV6_IFADDR: Final = 9
RTNLGRP_IPV6_ROUTE: Final = 11
RTNLGRP_IPV6_RULE: Final = 19
DATAGRAMS_PER_TURN_MAX: Final = 64  # then other work of the loop has its turn
BUFFER_BYTES: Final = 1 << 20
AGAIN_S: Final = 1.0

log = logging.getLogger("arcbox_net.notices")


class Notices:
    """Subscribed to *groups* from the start; *take* gets each message from `listen` on, in the running loop.

    *lost* is called when some were dropped for want of room, and those that were queued with them; if it raises
    ArcboxNetError or OSError, again until it does not. `rt` is for asking, until `close`. *netns*: a path or an fd;
    None: the caller's namespace.
    """

    def __init__(
        self,
        groups: Sequence[int],
        take: Callable[[Message], None],
        lost: Callable[[], None],
        *,
        netns: str | int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._take = take
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self.rt = RouteSocket(netns)
        try:
            self._socket = open_socket(NETLINK_ROUTE, netns)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except BaseException:
            self.close()
            raise

    def listen(self) -> None:
        assert self._socket is not None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Safe to call twice, and from what it calls."""
        self.rt.close()
        if self._socket is None:
            return
        if self._again is not None:
            self._again.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _readable(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            if self._socket is None:  # a callback closed it
                return
            try:
                datagram = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._drain(self._socket)
                self._make_up()
                return
            for message in parse(datagram):
                self._take(message)

    def _make_up(self) -> None:
        """Nobody says again what was lost."""
        assert self._loop is not None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._lost()
        except (ArcboxNetError, OSError) as error:  # a listing that keeps changing, for one
            log.warning("what notices were lost cannot be found out yet: %s", error)
            self._again = self._loop.call_later(AGAIN_S, self._make_up)

    @staticmethod
    def _drain(source: socket.socket) -> None:
        # What is queued is older than what will be listed. Bounded: a flood that outruns us is met again next turn.
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            with contextlib.suppress(InterruptedError):
                try:
                    source.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
