"""What the dataplane hands around: where a frame's bytes are and how long it is. Buffers are pool.pxd's.

Four descriptors share a cache line. How many bytes may follow `size` is not in it: of a pool's buffer that is
`pool_room`, of the caller's own memory nobody but the caller knows.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    BURST_MAX = 64  # frames that are moved in one call
    FRAME_VNET_BYTES = 12  # struct virtio_net_hdr_v1

cdef enum:  # frame.flags
    FRAME_VNET = 1  # a virtio-net header lies at data - FRAME_VNET_BYTES
    FRAME_POOL_LARGE = 2  # the buffer is of the pool's large class
    FRAME_POOL = 4  # the buffer is a pool's, and whoever holds the frame releases it

cdef struct frame:
    uint8_t *data  # first byte of the frame: the Ethernet header, or the IP header when l3 is 0
    uint32_t size  # bytes of the frame
    uint16_t headroom  # writable bytes ahead of data (and of its virtio-net header) that belong to this frame
    uint8_t l3  # offset of the IP header from data
    uint8_t flags
