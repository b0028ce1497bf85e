"""What one relay thread keeps for the UDP and echo of its door: datagram.pyx and echo.pyx say how they use it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.socket cimport iovec, mmsghdr, sockaddr_in6
from arcbox_net.relay.door cimport DOOR_BURST_MAX, door_packet, relay_door
from arcbox_net.relay.endpoint cimport endpoint_table, relay_endpoint
from arcbox_net.relay.route cimport route_probe

cdef enum:
    SEGMENTS_MAX = 64  # of one super-frame: the least that a kernel with UDP_SEGMENT takes
    SUPER_BYTES_MAX = 65400  # payload of one super-frame; with its headers below 64 KiB in either version
    UDP_PAYLOAD_BYTES_MAX = 65527
    RECEIVE_MAX = 32
    RECEIVE_BYTES = 65536
    RECEIVE_STRIDE = 65536 + 4096 + 192  # payloads begin in different sets of the cache
    ANCILLARY_BYTES = 128

cdef enum datagram_counter:  # the order is that of DATAGRAM_COUNTERS in egress.pyx
    UDP_ENDPOINTS
    UDP_OPENED
    UDP_EXPIRED
    UDP_OUT
    UDP_IN
    UDP_BYTES_OUT
    UDP_BYTES_IN
    UDP_ERRORS_TOLD
    UDP_DROP_DESTINATION  # an address that is not relayed
    UDP_DROP_LIMIT
    UDP_DROP_GUEST_LIMIT
    UDP_DROP_DESCRIPTORS
    UDP_DROP_BUSY  # the host's queue was full
    UDP_DROP_TOO_BIG  # for the path, and not to be fragmented
    UDP_DROP_SEND  # any other error of the host
    UDP_DROP_STRANGER  # from an address the endpoint has not sent to
    UDP_DROP_TUN
    DATAGRAM_COUNTER_COUNT

cdef struct outbound_message:
    door_packet packet  # the first of it
    uint32_t total  # payload bytes
    uint16_t segment  # payload bytes of each datagram but the last
    uint16_t segments
    uint8_t closed  # the last datagram is shorter: nothing can follow
    uint8_t tos
    uint8_t ttl

cdef struct relay_datagrams:
    relay_door *door
    endpoint_table table
    route_probe routes
    uint32_t guest_mtu
    uint64_t paused_until_ms  # no new endpoints: descriptors ran out
    uint16_t ip_id
    uint32_t fragment_id
    uint8_t super_refused  # the TUN's driver knows no UDP super-frames
    relay_endpoint *gathering  # whose datagrams wait for the burst's end
    uint32_t message_count
    uint32_t vector_count
    outbound_message gathered[DOOR_BURST_MAX]
    mmsghdr outgoing[DOOR_BURST_MAX]
    sockaddr_in6 destinations[DOOR_BURST_MAX]
    uint8_t ancillary[DOOR_BURST_MAX][ANCILLARY_BYTES]
    iovec vectors[DOOR_BURST_MAX]
    mmsghdr incoming[RECEIVE_MAX]
    sockaddr_in6 sources[RECEIVE_MAX]
    iovec buffers[RECEIVE_MAX]
    uint8_t received_ancillary[RECEIVE_MAX][ANCILLARY_BYTES]
    uint8_t *payloads  # RECEIVE_MAX of RECEIVE_STRIDE
    uint64_t counters[DATAGRAM_COUNTER_COUNT]

cdef enum echo_counter:  # the order is that of ECHO_COUNTERS in egress.pyx
    ECHO_ENDPOINTS
    ECHO_OPENED
    ECHO_EXPIRED
    ECHO_OUT
    ECHO_IN
    ECHO_ERRORS_TOLD
    ECHO_DROP_FORBIDDEN  # net.ipv4.ping_group_range does not hold our group
    ECHO_DROP_DESTINATION
    ECHO_DROP_LIMIT
    ECHO_DROP_GUEST_LIMIT
    ECHO_DROP_DESCRIPTORS
    ECHO_DROP_SEND
    ECHO_DROP_STRANGER  # from an address that was not asked
    ECHO_DROP_TUN
    ECHO_COUNTER_COUNT

cdef struct relay_echoes:
    relay_datagrams *datagrams  # of the same door; its buffers are used between two bursts
    relay_door *door
    endpoint_table table
    uint64_t paused_until_ms  # no new sockets: descriptors ran out, or they are forbidden
    uint8_t forbidden
    uint64_t counters[ECHO_COUNTER_COUNT]


cdef inline void datagram_count(relay_datagrams *d, int which, uint64_t amount) noexcept nogil:
    abx_store_relaxed_u64(&d.counters[which], d.counters[which] + amount)


cdef inline void echo_count(relay_echoes *echoes, int which, uint64_t amount) noexcept nogil:
    abx_store_relaxed_u64(&echoes.counters[which], echoes.counters[which] + amount)
