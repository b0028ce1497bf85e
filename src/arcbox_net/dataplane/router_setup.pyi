from enum import IntEnum

class RouterMessage(IntEnum):
    ROUTER_SETUP = 200
    ROUTER_NEIGHBOUR = 201
