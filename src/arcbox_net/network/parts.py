"""What a network asks of its parts, whoever does the work: our own services, or the system's."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Protocol

from arcbox_net.network.messages import ForwardInfo, LeaseInfo
from arcbox_net.rules import ForwardRule


class Addresses(Protocol):
    """Who has which address. Raises as `NetworkManager` does."""

    @property
    def available(self) -> int: ...

    async def allocate(
        self, holder: str, *, ip: str | None, mac: str | None, hostname: str | None, port: str | None = None
    ) -> LeaseInfo: ...

    async def reserve(self, mac: str, ip: str, hostname: str | None) -> LeaseInfo: ...

    async def release(self, ip: IPv4Address) -> None: ...

    async def release_port(self, ip: IPv4Address) -> None: ...

    def view(self) -> list[LeaseInfo]: ...

    def stats(self) -> dict[str, int]: ...


class Forwards(Protocol):
    """Which ports of the host lead to which guests."""

    async def expose(self, rule: ForwardRule) -> ForwardInfo: ...

    async def unexpose(self, rule: ForwardRule) -> None: ...

    async def guests_changed(self) -> None: ...

    def infos(self) -> list[ForwardInfo]: ...

    def awaited(self) -> set[str]: ...

    def stats(self) -> dict[str, int]: ...
