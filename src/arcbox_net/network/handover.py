"""What fd.sock's requests mean: attach a TAP or open one that is attached, and hand its queues over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcbox_net.config_ports import TAP
from arcbox_net.errors import ConfigError
from arcbox_net.network.guest_port import PortRequest
from arcbox_net.network.messages import AttachTap, OpenTap, TapReply

if TYPE_CHECKING:
    from arcbox_net.network.core import Network
    from arcbox_net.network.fdpass import Handler


def tap_handler(network: Network) -> Handler:
    """The FdServer's handler for *network*."""

    async def handle(request: AttachTap | OpenTap) -> tuple[TapReply, list[int]]:
        if isinstance(request, OpenTap):
            port, fds = await network.open_tap(request.name)
        else:
            port, fds = await network.attach(PortRequest(kind=TAP, **msgspec.structs.asdict(request)))
        if not fds:
            raise ConfigError(f"port {port.name!r} is no TAP", field="name", value=port.name)
        return TapReply(port=port, fds=len(fds)), fds

    return handle
