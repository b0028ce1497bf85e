"""The door of one relay thread: a layer-3 TUN through which it sees guests' packets and sends its own.

    part        reads packets with          owns
    gate        protocol TCP                dials that wait, and the flows that come of them
    datagram    protocol UDP                a host socket for each guest endpoint
    echo        ICMP and ICMPv6 echo        ping sockets
    answer      (writes only)               RST and ICMP errors to guests

A packet is a private copy of what the guest sent, checked once by `door_parse`; the parts read it freely.
It stays where it is until the burst has ended.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.socket cimport AF_INET, AF_INET6, htons, iovec, ntohs, sockaddr_in, sockaddr_in6
from arcbox_net.relay.flow cimport (
    ADDRESS_BYTES, flow_row, gate_flow, gate_syn, relay_item, relay_rule, relay_worker,
)
from arcbox_net.relay.fragments cimport fragment_table
from arcbox_net.relay.guests cimport guest_table
from arcbox_net.relay.reach cimport reach_policy
from arcbox_net.wire.virtio_net cimport VIRTIO_NET_HEADER_BYTES, virtio_net_header

cdef enum:
    DOOR_BURST_MAX = 32
    DOOR_FRAME_BYTES = 65664  # virtio_net_hdr, the largest packet, and a rest that keeps the next one aligned
    IPV4_DOOR = 0  # an index by IP version
    IPV6_DOOR = 1
    FLOW_BUCKETS = 8192

cdef enum door_counter:  # the order is that of DOOR_COUNTERS in egress.pyx
    PACKETS_IN
    PACKETS_OUT
    DROP_SHORT  # not even the headers
    DROP_VIRTIO  # a virtio_net_hdr that does not fit the packet
    DROP_IP_HEADER  # a length or header chain that does not fit the packet
    DROP_FRAGMENT  # of a packet that came in several; see fragments.pyx
    DROP_PROTOCOL
    DROP_L4_HEADER
    DROP_CHECKSUM
    DROP_ADDRESS  # from or to an address that no packet may have
    DROP_WRITE  # the TUN did not take a packet
    DROP_DESTINATION  # multicast, broadcast, link-local: never relayed
    DROP_TCP_PORT  # port 0
    DROP_TCP_FLAGS  # flags that no connection begins with
    DROP_TCP_SEGMENT  # of a connection that is still dialled for, or with flags that no segment has
    DROP_GUESTS  # no place for one more guest
    DROP_DIALS  # too many dials wait; the guest will send its SYN again
    DROP_ANSWER  # too many ICMP errors to one guest
    SYN_REPEATED  # while the dial still waits
    SYN_REPLACED
    SYN_RETURNED  # of a connection that is open or nearly
    SEGMENT_RETURNED  # the same of anything else: the kernel had not found the connection
    REFUSED_HOST  # a guest tried to reach the host itself
    REFUSED_GUEST  # flows_per_guest_max
    RESETS_SENT
    ERRORS_SENT
    ACCEPTED_STRAY  # connections that nobody waited for
    DOOR_COUNTER_COUNT

cdef struct door_packet:
    const virtio_net_header *virtio
    uint8_t *ip  # first byte of the IP header
    uint32_t ip_size  # all of the packet, as its header says
    uint8_t *l4  # first byte of the TCP, UDP or ICMP header
    uint32_t l4_size  # that header and what follows
    uint8_t *payload
    uint32_t payload_size
    uint8_t version  # IPV4_DOOR or IPV6_DOOR
    uint8_t protocol
    uint16_t src_port  # 0 for ICMP
    uint16_t dst_port
    uint8_t src[ADDRESS_BYTES]
    uint8_t dst[ADDRESS_BYTES]
    uint8_t guest[ADDRESS_BYTES]  # whose limits it counts against: guests.pxd
    uint8_t joined  # came in fragments, and may leave in fragments

cdef struct relay_door

cdef struct gate_listener:
    relay_item item  # first
    relay_door *door
    int fd
    uint32_t offered  # SYNs given to the kernel that were not accepted yet

cdef struct relay_door:
    relay_rule rule  # first: the item of the TUN, its descriptor, and the owner of what comes through it
    uint8_t has_gateway[2]
    uint8_t gateways[2][ADDRESS_BYTES]  # our address as guests know it: where ICMP errors come from
    uint64_t counters[DOOR_COUNTER_COUNT]
    uint8_t *frames  # DOOR_BURST_MAX of DOOR_FRAME_BYTES
    reach_policy *reach  # or NULL: no address of the host is known
    guest_table guests
    fragment_table fragments
    void *datagrams  # a relay_datagrams
    void *echoes  # a relay_echoes
    flow_row *closed  # the last flows that ended, a ring
    uint32_t closed_max
    uint64_t closed_count
    gate_listener listeners[2]
    gate_flow **flows  # FLOW_BUCKETS of them
    gate_syn *syns  # free ones
    gate_syn *syn_block
    uint32_t dials_max
    uint32_t dials_per_guest_max
    uint32_t dial_count
    uint32_t flows_max
    uint32_t flows_per_guest_max
    uint32_t flow_count
    uint32_t udp_flows_max
    uint32_t udp_flows_per_guest_max
    uint32_t echo_flows_max
    uint32_t echo_flows_per_guest_max
    uint32_t guest_mtu


cdef void door_on_event(relay_worker *w, relay_door *door) noexcept nogil
cdef int door_parse(uint8_t *frame, size_t size, door_packet *packet) noexcept nogil
cdef int door_write(relay_door *door, const virtio_net_header *header, iovec *vectors, int n) noexcept nogil
cdef bint door_prepare(relay_worker *w, relay_door *door) noexcept nogil
cdef void door_release(relay_door *door) noexcept nogil
cdef int door_open(relay_worker *w, relay_door *door) noexcept nogil
cdef void door_close(relay_worker *w, relay_door *door) noexcept nogil


cdef inline flow_row *door_closed_row(relay_door *door) noexcept nogil:
    """Where to describe a flow that has just ended; NULL when none are kept."""
    if not door.closed_max:
        return NULL
    door.closed_count += 1
    return &door.closed[(door.closed_count - 1) % door.closed_max]


cdef inline void door_count(relay_door *door, int which) noexcept nogil:
    abx_store_relaxed_u64(&door.counters[which], door.counters[which] + 1)


cdef inline void address_map(uint8_t *mapped, const uint8_t *v4) noexcept nogil:
    """Write the four bytes at *v4* as ::ffff:a.b.c.d."""
    memset(mapped, 0, 10)
    mapped[10] = mapped[11] = 0xFF
    memcpy(mapped + 12, v4, 4)


cdef inline uint32_t address_to_name(
    sockaddr_in6 *name, uint8_t version, const uint8_t *address, uint16_t l4_port
) noexcept nogil:
    """Fill in *name*, a sockaddr_in for IPv4; its size."""
    memset(name, 0, sizeof(sockaddr_in6))
    if version == IPV4_DOOR:
        (<sockaddr_in *>name).sin_family = <unsigned short>AF_INET
        (<sockaddr_in *>name).sin_port = htons(l4_port)
        memcpy(&(<sockaddr_in *>name).sin_addr, address + 12, 4)
        return sizeof(sockaddr_in)
    name.sin6_family = <unsigned short>AF_INET6
    name.sin6_port = htons(l4_port)
    memcpy(&name.sin6_addr, address, ADDRESS_BYTES)
    return sizeof(sockaddr_in6)


cdef inline uint16_t address_from_name(const sockaddr_in6 *name, uint8_t *address) noexcept nogil:
    """Write the address in *name* to *address*; its L4 port."""
    if name.sin6_family == AF_INET:
        address_map(address, <const uint8_t *>&(<const sockaddr_in *>name).sin_addr)
        return ntohs((<const sockaddr_in *>name).sin_port)
    memcpy(address, &name.sin6_addr, ADDRESS_BYTES)
    return ntohs(name.sin6_port)
