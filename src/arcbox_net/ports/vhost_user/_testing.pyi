from collections.abc import Callable, Iterable

from arcbox_net.dataplane.port import Port, PortDrop
from arcbox_net.memory.guest_memory import GuestMemory
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.vhost_user.vring import RingFault

PAYLOAD_BYTES: dict[str, int]

class Turns:
    port: Port
    is_up: bool
    is_ready: bool
    takes: int
    watches: int
    sent: tuple[int, int]
    drops: dict[PortDrop, int]

    def __new__(cls, port: Port, pool: PacketPool | None = None) -> Turns: ...
    def message(self, kind: int, payload: bytes = b"") -> int: ...
    def receive(
        self, budget: int = 64, *, before_release: Callable[[], object] | None = None
    ) -> list[tuple[bytes, bytes, list[int]]]: ...
    def send(
        self, frames: Iterable[tuple[bytes, bytes]], *, part_bytes: int = 4096, flush: bool = True
    ) -> None: ...
    def flush(self) -> None: ...
    def arm(self) -> bool: ...
    def kicked(self) -> bool: ...
    def reported(self) -> list[tuple[int, int]]: ...
    def receive_again(self, turns: int, burst: int, pair: int = 0) -> tuple[int, int]: ...
    def copy_again(self, turns: int, burst: int, size: int, pair: int = 0) -> int: ...
    def send_again(
        self, turns: int, frames: Iterable[tuple[bytes, bytes]], pair: int = 0
    ) -> tuple[int, int]: ...

class Walker:
    def __new__(
        cls,
        memory: GuestMemory,
        size: int,
        descriptors: int,
        available: int,
        used: int,
        *,
        indirect: bool = True,
        event_idx: bool = False,
        base: int = 0,
    ) -> Walker: ...
    def available(self) -> tuple[RingFault, int]: ...
    def take(self) -> tuple[RingFault, int, tuple[int, int, list[bytes]] | None]: ...
