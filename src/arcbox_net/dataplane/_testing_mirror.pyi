from typing import Self

from arcbox_net.dataplane.port import Port

class MirrorPort(Port):
    def __new__(cls) -> Self: ...
