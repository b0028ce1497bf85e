from arcbox_net.dataplane.port import Port

class PacketPort(Port):
    def __new__(cls, *, frame_max: int = 1514, uso: bool = True) -> PacketPort: ...
