from typing import Self

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.port import Port, Receiver
from arcbox_net.dataplane.port_binding import Control
from arcbox_net.dataplane.router_config import RouterConfig

class Router(Port):
    engine: NatEngine
    def __new__(cls, engine: NatEngine) -> Self: ...
    def set_up(self, worker: Control, number: int, config: RouterConfig) -> None: ...
    def set_neighbour(
        self, worker: Control, number: int, ip: str, mac: str | None, *, inside: bool = False
    ) -> None: ...
    @property
    def outside(self) -> Outside: ...
    @property
    def unresolved(self) -> tuple[int, int]: ...

class Outside(Receiver):
    def __new__(cls, of: Router) -> Self: ...
