"""What a port of the switch may send: its role, its MAC and IPv4 addresses, its limits.

A guest's frames are checked, and dropped when they are another's or a router's. The uplink leads to the network's
bridge, where others check; a trusted port is a guest that may send anything; router and service send as the gateway.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.port cimport port
from arcbox_net.dataplane.rate_limit cimport rate, rate_allows, rate_limit, rate_take

cdef enum:
    BINDING_IPV4_MAX = 16
    BINDING_IPV6_MAX = 16  # static ones: those that a guest chooses for itself are in owners.pxd
    STORM_INTERVAL_NS = 1_000_000  # 1,000 broadcasts and multicasts a second
    STORM_BURST = 1000
    CLAIM_INTERVAL_NS = 2_000_000_000  # 30 new IPv6 addresses a minute
    CLAIM_BURST = 64
    SENDS = -1  # what a check returns for a frame that goes on; otherwise a PortDrop

cdef enum:  # binding.role
    BINDING_NONE = 0
    BINDING_GUEST = 1
    BINDING_UPLINK = 2
    BINDING_TRUSTED = 3
    BINDING_ROUTER = 4
    BINDING_SERVICE = 5

cdef struct binding:
    uint64_t mac  # ethernet_mac; 0: none is known, so learned ones are its own
    uint32_t ipv4_count
    uint32_t ipv4_be[BINDING_IPV4_MAX]
    uint32_t generation  # of the port that was bound
    uint32_t learned_max
    uint16_t number
    uint16_t role
    bint any_ipv4  # addresses are somebody else's business
    bint isolated
    rate_limit storm
    rate_limit claims
    rate_limit served


cdef inline bint binding_is_of(const binding *b, const port *p) noexcept nogil:
    """Whether *b* was made for the port that has the number now."""
    return b.role != BINDING_NONE and p != NULL and p.generation == b.generation


cdef inline bint binding_has_ipv4(const binding *b, uint32_t address_be) noexcept nogil:
    cdef uint32_t i
    for i in range(b.ipv4_count):
        if b.ipv4_be[i] == address_be:
            return True
    return False


cdef inline bint within(rate_limit *limit, uint64_t interval_ns, uint64_t burst, uint64_t now_ns) noexcept nogil:
    """Whether one more is allowed, counted if so: one in each interval, and *burst* of them at once."""
    cdef rate allowed = rate(interval_ns, (burst - 1) * interval_ns)
    if not rate_allows(limit, &allowed, now_ns):
        return False
    rate_take(limit, &allowed, now_ns)
    return True
