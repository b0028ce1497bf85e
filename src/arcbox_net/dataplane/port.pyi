from enum import IntEnum

class PortDrop(IntEnum):
    PORT_DROP_SHORT = 0
    PORT_DROP_LONG = 1
    PORT_DROP_OFFLOAD = 2
    PORT_DROP_DOWN = 3
    PORT_DROP_FULL = 4
    PORT_DROP_POOL = 5
    PORT_DROP_KERNEL = 6
    PORT_DROP_SOURCE_MAC = 7
    PORT_DROP_SOURCE_IP = 8
    PORT_DROP_ARP = 9
    PORT_DROP_ND = 10
    PORT_DROP_VLAN = 11
    PORT_DROP_STORM = 12
    PORT_DROP_ISOLATED = 13
    PORT_DROP_TOO_BIG = 14
    PORT_DROP_NOWHERE = 15
    PORT_DROP_RING = 16
    PORT_DROP_DHCP = 17
    PORT_DROP_EGRESS = 18
    PORT_DROP_WAITING = 19
    PORT_DROP_REASONS = 20

class Port:
    @property
    def number(self) -> int | None: ...

class Receiver: ...
