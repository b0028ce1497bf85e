"""Checks what control says of ports and of the network, and then does it. A message that is refused changes nothing."""

from libc.errno cimport EEXIST, EINVAL, ENOENT
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.binding cimport (
    BINDING_GUEST, BINDING_IPV4_MAX, BINDING_IPV6_MAX, BINDING_NONE, BINDING_SERVICE, binding, binding_is_of,
)
from arcbox_net.dataplane.fdb cimport (
    FDB_LEARNED_GUEST_MAX, FDB_LEARNED_MAX, FDB_NONE, FDB_SLOTS, FDB_STATIC, fdb_forget_port,
    fdb_insert_static, fdb_slot,
)
from arcbox_net.dataplane.learning cimport learning_hear
from arcbox_net.dataplane.owners cimport (
    OWNED_STATIC, owner, owners_assign, owners_find, owners_forget_port, owners_loosen_port,
)
from arcbox_net.dataplane.port cimport PORTS_MAX, port, port_message
from arcbox_net.dataplane.switch_state cimport GATEWAYS6_MAX, switch_network, switch_state
from arcbox_net.wire.ethernet cimport MAC_BYTES, ethernet_is_group, ethernet_mac
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cpdef enum SwitchMessage:
    SWITCH_BIND = 100  # to the port that is bound
    SWITCH_UNBIND = 101
    SWITCH_NETWORK = 102  # to any port of the switch, as the next
    SWITCH_LIST = 103

cdef enum:  # bind_payload.flags
    BIND_ANY_IPV4 = 1
    BIND_ISOLATED = 2

cdef packed struct bind_payload:
    uint8_t mac[MAC_BYTES]  # zeros: none
    uint8_t role
    uint8_t flags
    uint32_t ipv4_count
    uint32_t ipv6_count
    uint32_t ipv4_be[BINDING_IPV4_MAX]
    uint8_t ipv6[BINDING_IPV6_MAX][IPV6_ADDRESS_BYTES]

cdef packed struct network_payload:
    uint8_t gateway_mac[MAC_BYTES]
    uint16_t router  # PORTS_MAX or more: none
    uint16_t service  # as router
    uint32_t gateway_be
    uint32_t subnet_be
    uint32_t mask_be
    uint8_t subnet6[IPV6_ADDRESS_BYTES]
    uint8_t mask6[IPV6_ADDRESS_BYTES]  # zeros: no IPv6 of its own
    uint32_t gateway6_count
    uint8_t gateways6[GATEWAYS6_MAX][IPV6_ADDRESS_BYTES]


cdef int switch_message(switch_state *s, port *p, const port_message *message) noexcept nogil:
    """0, or a negative errno."""
    if s.owner == NULL:
        s.owner = p.owner
        s.now_s = <uint32_t>(s.owner.now_ns // 1_000_000_000) + 1
    learning_hear(s)
    if message.kind == SWITCH_BIND:
        return _bind(s, p, message)
    if message.kind == SWITCH_UNBIND:
        return _unbind(s, p.number)
    if message.kind == SWITCH_NETWORK:
        return _set_network(s, message)
    if message.kind == SWITCH_LIST:
        _list(s)
        return 0
    return -EINVAL


cdef int _bind(switch_state *s, port *p, const port_message *message) noexcept nogil:
    cdef bind_payload wanted
    cdef binding *b = &s.bindings[p.number]
    cdef uint64_t mac
    cdef uint32_t i
    if message.size != sizeof(wanted):
        return -EINVAL
    memcpy(&wanted, message.payload, sizeof(wanted))
    mac = ethernet_mac(wanted.mac)
    if not BINDING_GUEST <= wanted.role <= BINDING_SERVICE or ethernet_is_group(wanted.mac):
        return -EINVAL
    if wanted.ipv4_count > BINDING_IPV4_MAX or wanted.ipv6_count > BINDING_IPV6_MAX:
        return -EINVAL
    switch_forget_gone(s)
    if not _is_free(s, &wanted, p.number):
        return -EEXIST
    if b.role != BINDING_NONE and b.mac != mac:
        _unbind(s, p.number)
    if mac:
        fdb_insert_static(&s.macs, mac, p.number)
    if b.role == BINDING_NONE:
        s.members[s.member_count] = p.number
        s.member_count += 1
    b.mac = mac
    b.number = p.number
    b.generation = p.generation
    b.role = wanted.role
    b.any_ipv4 = wanted.flags & BIND_ANY_IPV4 != 0
    b.isolated = wanted.flags & BIND_ISOLATED != 0
    b.learned_max = FDB_LEARNED_GUEST_MAX if b.role == BINDING_GUEST else FDB_LEARNED_MAX
    b.ipv4_count = wanted.ipv4_count
    memcpy(b.ipv4_be, wanted.ipv4_be, sizeof(b.ipv4_be))
    owners_loosen_port(&s.owners, p.number, s.now_s)
    for i in range(wanted.ipv6_count):
        owners_assign(&s.owners, wanted.ipv6[i], p.number)
    return 0


cdef bint _is_free(const switch_state *s, const bind_payload *wanted, uint16_t number) noexcept nogil:
    """Whether nothing of what port *number* shall have is another's for good."""
    cdef uint32_t i, at = fdb_slot(&s.macs, ethernet_mac(wanted.mac))
    cdef const owner *one
    if at != FDB_NONE and s.macs.heard_s[at] == FDB_STATIC and <uint16_t>s.macs.slots[at] != number:
        return False
    for i in range(wanted.ipv6_count):
        one = owners_find(&s.owners, wanted.ipv6[i])
        if one != NULL and one.used_s == OWNED_STATIC and one.port != number:
            return False
    return True


cdef int _unbind(switch_state *s, uint16_t number) noexcept nogil:
    cdef uint32_t i
    if s.bindings[number].role == BINDING_NONE:
        return -ENOENT
    memset(&s.bindings[number], 0, sizeof(binding))
    fdb_forget_port(&s.macs, number)
    owners_forget_port(&s.owners, number)
    for i in range(s.member_count):
        if s.members[i] == number:
            s.member_count -= 1
            s.members[i] = s.members[s.member_count]
            break
    return 0


cdef void switch_forget_gone(switch_state *s) noexcept nogil:
    """Unbind what left its worker without a word: so no address is held by nobody."""
    cdef uint32_t i = s.member_count
    while i > 0:
        i -= 1
        if not binding_is_of(&s.bindings[s.members[i]], s.owner.ports[s.members[i]]):
            _unbind(s, s.members[i])


cdef int _set_network(switch_state *s, const port_message *message) noexcept nogil:
    cdef network_payload wanted
    cdef switch_network *network = &s.network
    if message.size != sizeof(wanted):
        return -EINVAL
    memcpy(&wanted, message.payload, sizeof(wanted))
    if wanted.gateway6_count > GATEWAYS6_MAX:
        return -EINVAL
    memcpy(network.subnet6.address, wanted.subnet6, IPV6_ADDRESS_BYTES)
    memcpy(network.subnet6.mask, wanted.mask6, IPV6_ADDRESS_BYTES)
    network.has_subnet6 = (network.subnet6.mask[0] | network.subnet6.mask[1]) != 0
    network.gateway6_count = wanted.gateway6_count
    memcpy(network.gateways6, wanted.gateways6, sizeof(wanted.gateways6))
    network.has_router = wanted.router < PORTS_MAX
    network.router = wanted.router
    network.has_service = wanted.service < PORTS_MAX
    network.service = wanted.service
    network.gateway_be = wanted.gateway_be
    network.gateway_mac = ethernet_mac(wanted.gateway_mac)
    network.subnet.address_be = wanted.subnet_be & wanted.mask_be
    network.subnet.mask_be = wanted.mask_be
    return 0


cdef void _list(switch_state *s) noexcept nogil:
    """Copy the MAC table for control, which reads it when the message is answered."""
    cdef uint32_t at, n = 0
    for at in range(<uint32_t>FDB_SLOTS):
        if s.macs.slots[at] != 0:
            s.listed[n].mac = s.macs.slots[at] >> 16
            s.listed[n].port = <uint16_t>s.macs.slots[at]
            s.listed[n].is_static = s.macs.heard_s[at] == FDB_STATIC
            s.listed[n].age_s = 0
            if not s.listed[n].is_static and s.now_s > s.macs.heard_s[at]:
                s.listed[n].age_s = s.now_s - s.macs.heard_s[at]
            n += 1
    s.listed_count = n
