"""Guests of a network of vmnet: all of them at sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcbox_net.errors import Unsupported
from arcbox_net.network.attaching import Attaching

if TYPE_CHECKING:
    from arcbox_net.network.datapath import Datapath
    from arcbox_net.network.guest_port import Port, PortRequest
    from arcbox_net.network.messages import PortInfo

KINDS = ("stream", "dgram")


class VmnetAttaching(Attaching):
    """`open` comes first."""

    _datapath: Datapath

    def open(self, datapath: Datapath) -> None:
        self._datapath = datapath

    async def attach(self, request: PortRequest) -> tuple[PortInfo, list[int]]:
        if request.kind not in KINDS:
            raise Unsupported(
                f"macOS has no guests of kind {request.kind}",
                fix="attach it by --dgram (vfkit, krunkit, Virtualization.framework) or --stream (QEMU)",
                feature=request.kind,
            )
        return await super().attach(request)

    async def open_tap(self, name: str) -> tuple[PortInfo, list[int]]:
        self._ports.get(name)
        return (await self._info(name)), []

    async def infos(self) -> list[PortInfo]:
        found = self._datapath.infos()
        return [found[port.name] for port in self._ports if port.name in found]

    async def detach_gone(self) -> None:
        """No guest has a device that somebody could remove."""

    async def _connect(self, port: Port) -> list[int]:
        await self._let_in(self._datapath, port)
        return []

    async def _disconnect(self, port: Port) -> None:
        await self._datapath.detach(port)
