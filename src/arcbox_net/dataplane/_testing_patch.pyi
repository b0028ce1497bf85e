from arcbox_net.dataplane.port import Receiver
from arcbox_net.dataplane.worker import Worker

class Patch(Receiver):
    def lead(self, worker: Worker, source: int, destination: int) -> None: ...
