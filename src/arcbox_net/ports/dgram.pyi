from arcbox_net.dataplane.port import Port

class DgramPort(Port):
    def __new__(cls, *, frame_max: int) -> DgramPort: ...
