from enum import IntEnum

class SwitchMessage(IntEnum):
    SWITCH_BIND = 100
    SWITCH_UNBIND = 101
    SWITCH_NETWORK = 102
    SWITCH_LIST = 103
