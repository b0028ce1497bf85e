"""What a network asks of its forwards, whoever does the work: our own relay and rules, or the system's."""

from __future__ import annotations

from typing import Protocol

from arcbox_net.network.messages import ForwardInfo
from arcbox_net.rules import ForwardRule


class Forwards(Protocol):
    """Which ports of the host lead to which guests."""

    async def expose(self, rule: ForwardRule) -> ForwardInfo: ...

    async def unexpose(self, rule: ForwardRule) -> None: ...

    async def guests_changed(self) -> None: ...

    def infos(self) -> list[ForwardInfo]: ...

    def awaited(self) -> set[str]: ...

    def stats(self) -> dict[str, int]: ...
