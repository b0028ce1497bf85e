from collections.abc import Iterable
from typing import Self

from typing_extensions import Buffer

from arcbox_net.dataplane.port import Port
from arcbox_net.memory.pool import PacketPool

UP: int
DOWN: int
DIE: int
WATCH: int
UNWATCH: int
REPORT: int
ALL_OFFLOADS: int
HEAD_MAX: int
WATCHES_MAX: int
ALL_PORTS: int

class TestingPort(Port):
    pool: PacketPool

    def __new__(
        cls,
        pool: PacketPool,
        *,
        frame_max: int = 1514,
        takes: int = 0,
        up: bool = True,
        capacity: int = 1024,
        part_bytes: int = 0,
        ticks: bool = False,
    ) -> Self: ...
    def put(self, frames: Iterable[Buffer], *, vnet: bool = False) -> int: ...
    def taken(self, *, vnet: bool = False) -> list[bytes]: ...
    @property
    def waiting(self) -> int: ...
    @property
    def seen(self) -> dict[str, int]: ...
