from arcbox_net.dataplane.port import Port

class VhostUserPort(Port):
    def __init__(self, *, frame_max: int = 1514, pairs: int = 1, unsealed: bool = False) -> None: ...
