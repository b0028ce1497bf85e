from arcbox_net.dataplane.port import Port

class TapPort(Port):
    def __new__(cls, *, frame_max: int = 1514, uso: bool = True, offloads: bool = True) -> TapPort: ...
