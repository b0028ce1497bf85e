from arcbox_net.dataplane.port import Port

class StreamPort(Port):
    def __new__(cls, *, frame_max: int) -> StreamPort: ...
