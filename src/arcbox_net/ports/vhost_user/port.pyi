from arcbox_net.dataplane.port import Port

class VhostUserPort(Port):
    def __new__(cls, *, frame_max: int = 1514, pairs: int = 1, unsealed: bool = False) -> VhostUserPort: ...
