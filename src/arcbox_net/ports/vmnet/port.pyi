from arcbox_net.dataplane.port import Port
from arcbox_net.ports.vmnet.interface import VmnetInterface

STATUS: int

class VmnetPort(Port):
    interface: VmnetInterface
    def __new__(cls, interface: VmnetInterface) -> VmnetPort: ...
