"""What guests may reach through the relay: never the host itself, but for ports that are published there.

The relay dials from the host's side, where loopback and the host's own addresses are within reach of any
socket; so a destination is judged before it is dialled, and once more by the way the kernel chose (route.pyx).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from arcbox_net.relay.flow cimport ADDRESS_BYTES

cdef enum:
    REACH_TCP = 0
    REACH_UDP = 1

cdef enum reach_verdict:
    REACH_OK
    REACH_HOST  # the host itself: looks closed
    REACH_NEVER  # no destination for a packet that is routed: silence

cdef struct reach_port:
    uint8_t address[ADDRESS_BYTES]  # one of the host's, or all zero (behind ::ffff: for IPv4) for any
    uint16_t l4_port

cdef struct reach_policy:
    uint32_t address_count
    uint32_t port_counts[2]
    uint8_t *addresses  # the host's, sorted, ADDRESS_BYTES each
    reach_port *ports[2]  # published: guests may come back in through them


cdef inline bint reach_is_host(const reach_policy *policy, const uint8_t *address) noexcept nogil:
    cdef uint32_t low = 0, high = policy.address_count, middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        order = memcmp(policy.addresses + <size_t>middle * ADDRESS_BYTES, address, ADDRESS_BYTES)
        if order == 0:
            return True
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return False


cdef inline bint reach_is_published(
    const reach_policy *policy, int protocol, bint v4, const uint8_t *address, uint16_t l4_port
) noexcept nogil:
    cdef reach_port *entry
    cdef uint32_t i
    cdef uint8_t any_address[ADDRESS_BYTES]
    cdef uint64_t zero = 0
    memcpy(any_address, address, ADDRESS_BYTES)
    memcpy(any_address + 8, &zero, 8)
    if v4:
        memcpy(any_address + 10, address + 10, 2)
    else:
        memcpy(any_address, &zero, 8)
    for i in range(policy.port_counts[protocol]):
        entry = &policy.ports[protocol][i]
        if entry.l4_port == l4_port and (
            memcmp(entry.address, address, ADDRESS_BYTES) == 0
            or memcmp(entry.address, any_address, ADDRESS_BYTES) == 0
        ):
            return True
    return False


cdef inline bint reach_is_loopback(bint v4, const uint8_t *address) noexcept nogil:
    cdef int i
    if v4:
        return address[12] == 127
    for i in range(15):
        if address[i]:
            return False
    return address[15] == 1


cdef inline reach_verdict reach_check(
    const reach_policy *policy, int protocol, bint v4, const uint8_t *address, uint16_t l4_port
) noexcept nogil:
    """Whether a guest may be connected to *address*."""
    cdef uint8_t any_bit = 0
    cdef int i
    if reach_is_loopback(v4, address):
        return REACH_HOST
    if v4:
        if address[12] == 0 or address[12] >= 224:  # this network, multicast, class E with broadcast
            return REACH_NEVER
    else:
        for i in range(12):
            any_bit |= address[i]
        if any_bit == 0 or address[0] == 0xFF:  # unspecified and IPv4-compatible, multicast
            return REACH_NEVER
        if address[0] == 0xFE and address[1] & 0xC0 == 0x80:  # link-local: another link than the guest's
            return REACH_NEVER
    if policy == NULL or not reach_is_host(policy, address):
        return REACH_OK
    return REACH_OK if reach_is_published(policy, protocol, v4, address, l4_port) else REACH_HOST


cdef inline bint reach_stays_here(
    const reach_policy *policy, int protocol, bint v4, const uint8_t *source, const uint8_t *address,
    uint16_t l4_port, bint by_loopback
) noexcept nogil:
    """Whether a dial from *source* to *address* goes to the host after all, *by_loopback* or not, and may not."""
    if reach_is_loopback(v4, source):
        return True
    if not by_loopback and memcmp(source, address, ADDRESS_BYTES) != 0:
        return False
    return policy == NULL or not reach_is_published(policy, protocol, v4, address, l4_port)
