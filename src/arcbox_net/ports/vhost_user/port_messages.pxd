"""What a session tells its port in a worker: port_messages.py for C. Nothing is aligned, so it is copied out."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum:
    MESSAGE_FEATURES = 200
    MESSAGE_MEMORY_STAGE
    MESSAGE_MEMORY_COMMIT
    MESSAGE_MEMORY_DISCARD
    MESSAGE_MEMORY_ADD
    MESSAGE_MEMORY_REMOVE
    MESSAGE_RING_START
    MESSAGE_RING_CALL
    MESSAGE_RING_KICK
    MESSAGE_RING_ENABLE
    MESSAGE_RING_STOP
    MESSAGE_RESET

cdef enum:  # flags of ring_start
    START_ENABLED = 1
    START_RESUMES = 2

cdef enum:
    REPORT_RING_BROKEN = 200  # value: ring << 16 | vring_fault

cdef packed struct region_payload:
    uint64_t gpa
    uint64_t size
    uint64_t user
    uint64_t offset
    int32_t fd

cdef packed struct region_name:
    uint64_t gpa
    uint64_t size
    uint64_t user

cdef packed struct ring_start:
    uint32_t index
    uint32_t size
    uint64_t descriptors
    uint64_t available
    uint64_t used
    uint32_t base
    uint32_t flags
    int32_t kick_fd
    int32_t call_fd

cdef packed struct ring_fd:
    uint32_t index
    int32_t fd

cdef packed struct ring_number:
    uint32_t index
    uint32_t value
