"""What a session tells its port in a worker: kinds of message, and payloads as C reads them.

A descriptor in a payload is the port's from the answer on, unless the answer is negative; but that of a region stays
the session's.
"""

from __future__ import annotations

import struct
from enum import IntEnum

NO_FD = -1
RING_ENABLED = 1  # flags of RING_START
RING_RESUMES = 2  # the base is where the used ring ends, whatever the message says
RING_BROKEN = 200  # what the port reports, with the ring's index << 16 and a fault
FAULT_BITS = 16


class PortMessage(IntEnum):
    FEATURES = 200
    MEMORY_STAGE = 201  # a region of the table to come
    MEMORY_COMMIT = 202  # the staged regions become the table, and running rings are looked up again
    MEMORY_DISCARD = 203  # of what was staged
    MEMORY_ADD = 204
    MEMORY_REMOVE = 205
    RING_START = 206
    RING_CALL = 207
    RING_KICK = 208
    RING_ENABLE = 209
    RING_STOP = 210  # answers with the index of the next entry of the available ring
    RESET = 211  # rings stopped, memory unmapped, descriptors closed


FEATURES = struct.Struct("=Q")
REGION = struct.Struct("=QQQQi")  # guest address, size, front end's address, offset in the file, descriptor
REGION_NAME = struct.Struct("=QQQ")  # guest address, size, front end's address
RING_START = struct.Struct("=IIQQQIIii")  # index, size, descriptors, available, used, base, flags, kick, call
RING_FD = struct.Struct("=Ii")
RING_NUMBER = struct.Struct("=II")
