"""How guest ports come and go while a network runs: address, name, row, device and filter, undone if one fails.

A port's row is durable before its device exists, and its device is gone before its row is deleted, so that
reconcile finds every device of ours in the rows. Whoever calls holds the network's lock. How a guest is connected,
a subclass knows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arcbox_net.addresses import parse_ipv4
from arcbox_net.config_ports import TAP, PortConfig
from arcbox_net.errors import ArcboxNetError, StateError
from arcbox_net.network.guest_port import Port, PortRequest
from arcbox_net.network.holders import Holders
from arcbox_net.network.messages import PortInfo
from arcbox_net.network.ports import PortTable

if TYPE_CHECKING:
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.datapath import Datapath
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.state import State

log = logging.getLogger("arcbox_net")


class Attaching(ABC):
    """Attaches and detaches.

    `changing` is the network's lock, `awaited` are guests' names that forwards wait for; `guests_changed` re-aims
    forwards. `holder_ended` is called when a port is to go with its process.
    """

    _datapath: Datapath | None

    def __init__(
        self,
        ports: PortTable,
        state: State,
        kernel: KernelThread,
        addressing: Addressing | None,
        naming: Naming,
        *,
        changing: asyncio.Lock,
        awaited: Callable[[], Collection[str]],
        guests_changed: Callable[[], Awaitable[None]],
        holder_ended: Callable[[str], None],
    ) -> None:
        self._ports = ports
        self._state = state
        self._kernel = kernel
        self._addressing = addressing
        self._naming = naming
        self._changing = changing
        self._awaited = awaited
        self._guests_changed = guests_changed
        self._holders = Holders(holder_ended)
        self._datapath = None

    async def listen_again(self) -> None:
        """Let the guests of an earlier run's sockets connect again."""
        for port in self._ports:
            if port.socket is None:
                continue
            try:
                await self._connect(port)
            except (ArcboxNetError, OSError) as error:
                log.error("port %s of the earlier run is gone: %s", port.name, error)
                await self._forget(port)

    async def stop(self) -> None:
        """Close the sockets of guests; links and rules are somebody else's to remove."""
        self._holders.close()
        datapath, self._datapath = self._datapath, None
        if datapath is not None:
            await datapath.close()

    async def attach(self, request: PortRequest) -> tuple[PortInfo, list[int]]:
        """A new guest port, and its TAP fds, which the caller closes after handing them on."""
        await self.detach_gone()  # whose name the caller may want again, before the kernel's notice came
        name = self._ports.choose_name(request.name, self._awaited())
        mac = self._ports.choose_mac(request.mac, name)
        ip = await self._address(request, name, mac)
        port: Port | None = None
        fds: list[int] = []
        is_connected = False
        try:
            planned = self._ports.plan(request, name, mac, ip)
            self._naming.add_port(planned)
            port = planned
            await self._kernel.run(self._state.put, "ports", name, port.to_row())
            self._ports.add(port)
            fds = await self._connect(port)
            is_connected = True
            await self._guests_changed()
            return (await self._info(name)), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            if port is not None:
                await self._undo(port, is_connected)
            elif self._addressing is not None and ip is not None:
                await self._addressing.release_port(ip)
            raise

    async def attach_configured(self, ports: Iterable[PortConfig]) -> None:
        """Attach those *ports* that are not there from an earlier run. Raises what `attach` does."""
        for port in ports:
            request = PortRequest(**dataclasses.asdict(port), persist=port.kind == TAP)
            former = self._ports.find(port.name)
            try:
                if former is not None and not self._ports.is_as(former, request):
                    await self.detach(former)
                    former = None
                if former is None:
                    await self.attach(request)
            except ArcboxNetError as error:
                error.message = f"port {port.name}: {error.message}"
                raise

    async def _address(self, request: PortRequest, name: str, mac: str) -> IPv4Address | None:
        if self._addressing is None:
            return parse_ipv4(request.ip, field="ip") if request.ip is not None else None
        lease = await self._addressing.allocate(
            f"port:{name}", ip=request.ip, mac=mac, hostname=request.hostname, port=name
        )
        return IPv4Address(lease.ip)

    @abstractmethod
    async def open_tap(self, name: str) -> tuple[PortInfo, list[int]]:
        """The queues of an attached TAP once more. Raises PortNotFound; no fds when the port is no TAP."""

    async def detach(self, port: Port) -> None:
        """Remove the port, its device and its address."""
        await self._disconnect(port)
        await self._forget(port)

    @abstractmethod
    async def infos(self) -> list[PortInfo]:
        """Every port, in the order of attachment."""

    @abstractmethod
    async def detach_gone(self) -> None:
        """Detach the ports whose device somebody removed."""

    @abstractmethod
    async def _connect(self, port: Port) -> list[int]:
        """Let the guest in; its TAP's fds. On failure nothing of it is left."""

    @abstractmethod
    async def _disconnect(self, port: Port) -> None:
        """As `_connect` never happened. Again is fine."""

    async def _let_in(self, datapath: Datapath, port: Port) -> None:
        """A guest at a socket joins the datapath."""
        assert port.socket is not None
        if port.socket.holder is not None:
            self._holders.hold(port.name, port.socket.holder)  # first: if it is gone, nothing else is there
        await datapath.attach(port)

    async def _give_up(self, port: Port) -> None:
        """As `_disconnect`, for a port whose device was not made, or is gone."""
        await self._disconnect(port)

    async def _info(self, name: str) -> PortInfo:
        return next(info for info in await self.infos() if info.name == name)

    async def _undo(self, port: Port, is_connected: bool) -> None:
        """Detach a port of which something failed, as far as that goes: its caller is told of the first failure."""
        for step in (self._disconnect if is_connected else self._give_up, self._forget):
            try:
                await step(port)
            except (ArcboxNetError, OSError) as error:
                log.error("port %s: %s", port.name, error)

    async def _forget(self, port: Port) -> None:
        """The device is gone: forget the rest, and go on past a disk that refuses (reconcile drops such rows)."""
        self._holders.drop(port.name)
        self._ports.discard(port.name)
        self._naming.remove_port(port)
        try:
            await self._kernel.run(self._state.delete, "ports", port.name)
            if self._addressing is not None and port.ip is not None:
                await self._addressing.release_port(port.ip)
        except StateError as error:
            log.error("port %s: %s", port.name, error)
        await self._guests_changed()
