from typing import Self

from arcbox_net.dataplane.port import Port

class FloodPort(Port):
    def __new__(cls, size: int = 60) -> Self: ...
    @property
    def left(self) -> int: ...

GO: int

def calls_alone(source: FloodPort, sink: FloodPort, frames: int) -> int: ...
