from arcbox_net.dataplane.port import Port

class PacketPort(Port):
    def __init__(self, *, frame_max: int = 1514, uso: bool = True) -> None: ...
