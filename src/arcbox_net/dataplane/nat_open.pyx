"""New flows: outbound, inbound, and hairpin; and flows that are not yet the guest's own doing (HALF_ATTENTION).

Theory of operation
    A guest's packet makes or finds the mapping of its endpoint, and opens a flow. A packet from outside opens one on a
    live mapping whose filter admits it. That flow is weak, both halves with HALF_ATTENTION, until the guest answers: it
    keeps no mapping alive, and ends with it. Flows on a forward are strong from the start.

    Between guests (hairpin, RFC 4787 REQ-9) a packet goes out by the mapping of its sender, its own, and comes in by
    that of its receiver, the target, as if it had been outside: the target's filter judges the sender's external
    address. Both halves' packets come from guests, and both mappings are held.
    If the filter refuses, the sender has still asked: its flow waits (HALF_ATTENTION, not HALF_HAIRPIN), so that the
    other guest's packet, when that asks too, finds itself asked for. As with two guests behind two NATs.
"""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.address_table cimport address_drop, address_hold, address_table
from arcbox_net.dataplane.conntrack cimport conntrack_close, conntrack_find, conntrack_hash, conntrack_open
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow cimport (
    FLOW_NONE, HALF_ATTENTION, HALF_HAIRPIN, HALF_NONE, half_flow,
)
from arcbox_net.dataplane.guests cimport PAID_AS_INCOMING, PAID_BY_GUEST, PAID_BY_OTHER, flow_payer
from arcbox_net.dataplane.half_pair cimport (
    endpoint, half_direction, half_make, half_protocol, pair_addresses, pair_destination, pair_key, pair_source,
)
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse, tcp_refuse
from arcbox_net.dataplane.machine cimport machine_of
from arcbox_net.dataplane.mapping cimport (
    MAPPING_NONE, MAPPING_STATIC, is_configured, mapping, mapping_admits, mapping_alive, mapping_at, mapping_drop,
    mapping_forget, mapping_hold, mapping_inbound, mapping_outbound, mapping_strengthen,
)
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.unsolicited cimport unsolicited_forget, unsolicited_note
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_L4, DROP_FILTERED, DROP_FLOWS_FULL, DROP_GUEST_ADDRESSES, DROP_GUEST_FLOWS, DROP_ISOLATED,
    DROP_MAPPINGS_FULL, DROP_MARTIAN, DROP_NO_FLOW, DROP_NO_MAPPING, DROP_PORTS_EXHAUSTED, DROP_UNSOLICITED_SYN,
    INBOUND, OUTBOUND, VERDICT_FORWARD,
)
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.icmp cimport ICMP_PROHIBITED, ICMP_UNREACHABLE, PROTOCOL_ICMP
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_ACK, TCP_RST, TCP_SYN, tcp_flags


cdef uint8_t nat_admit(nat_engine *engine, const frame *whole, packet *found) noexcept nogil:
    """Whether a packet of the flow `found.half` may pass; of HALF_NONE, whether it may open one. Sets `found.half`."""
    if found.half == HALF_NONE:
        return _open(engine, whole, found)
    if engine.flows.halves[found.half].flags & HALF_ATTENTION:
        return _attend(engine, whole, found)
    return VERDICT_FORWARD


cdef void nat_flow_gone(void *engine, uint32_t flow) noexcept nogil:
    """A flow ends: let go of its addresses and mappings. The conntrack's `gone`."""
    cdef nat_engine *own = <nat_engine *>engine
    cdef half_flow *original = &own.flows.halves[2 * flow]
    cdef bint weak = original.flags & HALF_ATTENTION and not _is_waiting(original)
    cdef uint32_t source_be = <uint32_t>original.new_addresses
    address_drop(&own.addresses, <uint32_t>original.key_addresses)
    address_drop(&own.addresses, <uint32_t>(original.key_addresses >> 32))
    if half_direction(original) == INBOUND:
        mapping_drop(&own.mappings, own.flows.cold[flow].mapping, source_be, not weak, PAID_AS_INCOMING, own.now_s)
        return
    if original.flags & HALF_HAIRPIN:
        mapping_drop(&own.mappings, _target(own, flow), source_be, not weak, PAID_BY_OTHER, own.now_s)
    mapping_drop(
        &own.mappings, own.flows.cold[flow].mapping, <uint32_t>(original.key_addresses >> 32), True, PAID_BY_GUEST,
        own.now_s,
    )


cdef uint8_t _open(nat_engine *engine, const frame *whole, packet *found) noexcept nogil:
    """Open a flow for a packet that belongs to none, and set `found.half`; or why it is dropped."""
    cdef endpoint source = pair_source(found.key_addresses, found.key_rest)
    cdef endpoint destination = pair_destination(found.key_addresses, found.key_rest)
    cdef uint8_t verdict
    if found.protocol != PROTOCOL_ICMP and (source.number_be == 0 or destination.number_be == 0):
        return DROP_BAD_L4
    if found.direction == INBOUND:
        return _open_inbound(engine, whole, found, source, destination)
    if found.protocol == PROTOCOL_TCP and not _is_syn(found):
        if engine.settings.reset_unknown:
            tcp_refuse(&engine.answers, whole, INBOUND)
        return DROP_NO_FLOW
    if is_configured(&engine.mappings, destination.ip_be):
        verdict = _open_hairpin(engine, whole, found, source, destination)
    else:
        verdict = _open_outbound(engine, whole, found, source, destination)
    if verdict == DROP_ISOLATED:
        icmp_refuse(&engine.answers, whole, INBOUND, ICMP_UNREACHABLE, ICMP_PROHIBITED, 0, engine.now_ns)
    elif _is_exhaustion(verdict):
        # RFC 5508 REQ-8, RFC 6888 REQ-11: tell the guest, and leave those who have flows alone.
        icmp_refuse(
            &engine.answers, whole, INBOUND, ICMP_UNREACHABLE, engine.settings.exhausted_code, 0, engine.now_ns
        )
    return verdict


cdef uint8_t _attend(nat_engine *engine, const frame *whole, packet *found) noexcept nogil:
    """Whether a packet of a flow with HALF_ATTENTION may pass; its flow may be another one afterwards."""
    cdef uint32_t flow = found.half >> 1
    cdef half_flow *original = &engine.flows.halves[2 * flow]
    if _is_waiting(original):
        if found.direction == INBOUND:
            return _filtered(found)
        return _open_hairpin(
            engine, whole, found, pair_source(found.key_addresses, found.key_rest),
            pair_destination(found.key_addresses, found.key_rest),
        )
    if found.half == 2 * flow:
        if mapping_alive(&engine.mappings.entries[_target(engine, flow)]):
            return VERDICT_FORWARD
        conntrack_close(&engine.flows, flow)
        return _filtered(found)
    if found.protocol != PROTOCOL_TCP or tcp_flags(found.l4) & TCP_RST == 0:
        mapping_strengthen(&engine.mappings, _target(engine, flow), <uint32_t>original.new_addresses)
        original[0].flags &= <uint8_t>~HALF_ATTENTION
        original[1].flags &= <uint8_t>~HALF_ATTENTION
    return VERDICT_FORWARD


cdef uint8_t _open_outbound(
    nat_engine *engine, const frame *whole, packet *found, endpoint source, endpoint destination
) noexcept nogil:
    cdef half_flow halves[2]
    cdef uint32_t own
    cdef uint8_t verdict = _own_mapping(engine, whole, found, source, &own)
    if verdict != VERDICT_FORWARD:
        return verdict
    _outbound_halves(engine, found, own, source, destination, 0, halves)
    verdict = _begin(engine, found, own, destination.ip_be, True, halves)
    if engine.unsolicited.count and verdict == VERDICT_FORWARD:
        unsolicited_forget(
            &engine.unsolicited, halves[1].key_addresses, halves[1].key_rest,
            conntrack_hash(&engine.flows, halves[1].key_addresses, halves[1].key_rest),
        )
    return verdict


cdef uint8_t _open_inbound(
    nat_engine *engine, const frame *whole, packet *found, endpoint source, endpoint destination
) noexcept nogil:
    cdef half_flow halves[2]
    cdef const address_table *addresses = &engine.addresses
    cdef endpoint inside
    cdef uint8_t flags
    cdef uint32_t target = MAPPING_NONE
    if found.protocol != PROTOCOL_ICMP:  # a reply to a request that is not known
        target = mapping_inbound(
            &engine.mappings, found.protocol, destination.ip_be, destination.number_be
        )
    if target == MAPPING_NONE:
        _note_unsolicited(engine, whole, found)
        return DROP_NO_MAPPING
    if not mapping_admits(&engine.mappings, target, source.ip_be):
        _note_unsolicited(engine, whole, found)
        return _filtered(found)
    if found.protocol == PROTOCOL_TCP and not _is_syn(found):
        return DROP_NO_FLOW
    if engine.flows.flows >= engine.flows.flows_max:
        return DROP_FLOWS_FULL
    inside = _inside(engine, target)
    flags = 0 if engine.mappings.entries[target].flags & MAPPING_STATIC else HALF_ATTENTION
    half_make(addresses, &halves[0], found.protocol, INBOUND, flags, source, destination, source, inside)
    half_make(addresses, &halves[1], found.protocol, OUTBOUND, flags, inside, source, destination, source)
    return _begin(engine, found, target, source.ip_be, flags == 0, halves)


cdef uint8_t _open_hairpin(
    nat_engine *engine, const frame *whole, packet *found, endpoint source, endpoint destination
) noexcept nogil:
    """`found.half` is of the waiting flow of this packet, if there is one."""
    cdef half_flow halves[2]
    cdef const address_table *addresses = &engine.addresses
    cdef endpoint external, inside
    cdef uint32_t own, target, waiting
    cdef uint8_t flags, verdict
    if engine.settings.isolated:
        return DROP_ISOLATED
    if found.protocol == PROTOCOL_ICMP:  # RFC 5508 REQ-7: an identifier is no endpoint of a guest
        return DROP_NO_MAPPING
    target = mapping_inbound(&engine.mappings, found.protocol, destination.ip_be, destination.number_be)
    if target == MAPPING_NONE:
        return DROP_NO_MAPPING
    verdict = _own_mapping(engine, whole, found, source, &own)
    if verdict != VERDICT_FORWARD:
        return verdict
    if own == target:
        return DROP_MARTIAN
    external = _external(engine, own)
    waiting = _waiting_for(engine, found, external, destination)
    if waiting == FLOW_NONE and not mapping_admits(&engine.mappings, target, external.ip_be):
        return _wait(engine, found, own, source, destination)
    flags = HALF_HAIRPIN
    if waiting == FLOW_NONE and engine.mappings.entries[target].flags & MAPPING_STATIC == 0:
        flags |= HALF_ATTENTION
    if not mapping_hold(&engine.mappings, target, external.ip_be, flags == HALF_HAIRPIN, PAID_BY_OTHER):
        mapping_forget(&engine.mappings, own)
        return DROP_GUEST_FLOWS
    inside = _inside(engine, target)
    half_make(addresses, &halves[0], found.protocol, OUTBOUND, flags, source, destination, external, inside)
    half_make(addresses, &halves[1], found.protocol, OUTBOUND, flags, inside, external, destination, source)
    verdict = _replace(engine, found, own, destination.ip_be, waiting, halves)
    if verdict != VERDICT_FORWARD:
        mapping_drop(
            &engine.mappings, target, external.ip_be, flags == HALF_HAIRPIN, PAID_BY_OTHER, engine.now_s
        )
    return verdict


cdef uint8_t _replace(
    nat_engine *engine, packet *found, uint32_t own, uint32_t remote_be, uint32_t waiting, half_flow *halves
) noexcept nogil:
    """Open a hairpin flow in place of the flows that waited for it. Both mappings outlive these: they are held."""
    if not mapping_hold(&engine.mappings, own, remote_be, True, PAID_BY_GUEST):
        mapping_forget(&engine.mappings, own)
        return DROP_GUEST_FLOWS
    if found.half != HALF_NONE:
        conntrack_close(&engine.flows, found.half >> 1)
    if waiting != FLOW_NONE:
        conntrack_close(&engine.flows, waiting)
    return _open_held(engine, found, own, remote_be, True, halves)


cdef uint8_t _wait(
    nat_engine *engine, packet *found, uint32_t own, endpoint source, endpoint destination
) noexcept nogil:
    """Remember that a guest asked for another that does not let it in yet."""
    cdef half_flow halves[2]
    cdef uint8_t verdict
    if found.half == HALF_NONE:
        _outbound_halves(engine, found, own, source, destination, HALF_ATTENTION, halves)
        verdict = _begin(engine, found, own, destination.ip_be, True, halves)
        if verdict != VERDICT_FORWARD:
            return verdict
    else:  # the flow that waits may be of another mapping
        mapping_forget(&engine.mappings, own)
    return _filtered(found)


cdef uint8_t _own_mapping(
    nat_engine *engine, const frame *whole, const packet *found, endpoint source, uint32_t *own
) noexcept nogil:
    """The mapping of a guest's endpoint in *own*, or why there is none."""
    cdef uint8_t why = DROP_MAPPINGS_FULL
    if engine.flows.flows >= engine.flows.flows_max:
        return DROP_FLOWS_FULL
    own[0] = mapping_outbound(
        &engine.mappings, found.protocol, source.ip_be, source.number_be, machine_of(&engine.settings.machines, whole),
        engine.now_s, &why,
    )
    return why if own[0] == MAPPING_NONE else VERDICT_FORWARD


cdef uint8_t _begin(
    nat_engine *engine, packet *found, uint32_t id, uint32_t remote_be, bint strong, const half_flow *halves
) noexcept nogil:
    if not mapping_hold(&engine.mappings, id, remote_be, strong, _payer(halves)):
        mapping_forget(&engine.mappings, id)
        return DROP_GUEST_FLOWS
    return _open_held(engine, found, id, remote_be, strong, halves)


cdef uint8_t _open_held(
    nat_engine *engine, packet *found, uint32_t id, uint32_t remote_be, bint strong, const half_flow *halves
) noexcept nogil:
    """Open a flow for which the mapping is held already."""
    cdef uint32_t flow = conntrack_open(&engine.flows, &halves[0], &halves[1], id, engine.now_s)
    if flow == FLOW_NONE:
        mapping_drop(&engine.mappings, id, remote_be, strong, _payer(halves), engine.now_s)
        return DROP_FLOWS_FULL
    address_hold(&engine.addresses, <uint32_t>halves[0].key_addresses)
    address_hold(&engine.addresses, <uint32_t>(halves[0].key_addresses >> 32))
    found.half = 2 * flow
    return VERDICT_FORWARD


cdef void _outbound_halves(
    nat_engine *engine, const packet *found, uint32_t own, endpoint source, endpoint destination, uint8_t flags,
    half_flow *halves,
) noexcept nogil:
    cdef const address_table *addresses = &engine.addresses
    cdef endpoint external = _external(engine, own)
    half_make(addresses, &halves[0], found.protocol, OUTBOUND, flags, source, destination, external, destination)
    half_make(addresses, &halves[1], found.protocol, INBOUND, flags, destination, external, destination, source)


cdef uint32_t _waiting_for(
    nat_engine *engine, const packet *found, endpoint external, endpoint destination
) noexcept nogil:
    """The flow that the guest at *destination* opened in vain, to reach *external*; or FLOW_NONE."""
    cdef uint32_t half = conntrack_find(
        &engine.flows,
        pair_addresses(external, destination),
        pair_key(external, destination, found.protocol, INBOUND),
    )
    return FLOW_NONE if half == HALF_NONE else half >> 1


cdef bint _is_waiting(const half_flow *original) noexcept nogil:
    if half_direction(original) == INBOUND:
        return False
    return original.flags & (HALF_ATTENTION | HALF_HAIRPIN) == HALF_ATTENTION


cdef uint32_t _target(nat_engine *engine, uint32_t flow) noexcept nogil:
    """The mapping of the guest that a flow came in for."""
    cdef half_flow *original = &engine.flows.halves[2 * flow]
    cdef endpoint destination
    if half_direction(original) == INBOUND:
        return engine.flows.cold[flow].mapping
    destination = pair_destination(original.key_addresses, original.key_rest)
    return mapping_at(
        &engine.mappings, half_protocol(original), destination.ip_be, destination.number_be
    )


cdef bint _is_exhaustion(uint8_t verdict) noexcept nogil:
    """Whether a limit was in the way."""
    if DROP_FLOWS_FULL <= verdict <= DROP_PORTS_EXHAUSTED:
        return True
    return verdict == DROP_MAPPINGS_FULL or verdict == DROP_GUEST_ADDRESSES


cdef flow_payer _payer(const half_flow *original) noexcept nogil:
    return PAID_AS_INCOMING if half_direction(original) == INBOUND else PAID_BY_GUEST


cdef endpoint _external(nat_engine *engine, uint32_t id) noexcept nogil:
    cdef mapping *entry = &engine.mappings.entries[id]
    return endpoint(entry.external_ip_be, entry.external_port_be)


cdef endpoint _inside(nat_engine *engine, uint32_t id) noexcept nogil:
    cdef mapping *entry = &engine.mappings.entries[id]
    return endpoint(entry.inside_ip_be, entry.inside_port_be)


cdef bint _is_syn(const packet *found) noexcept nogil:
    """Whether a connection begins with the segment."""
    return tcp_flags(found.l4) & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN


cdef uint8_t _filtered(const packet *found) noexcept nogil:
    if found.protocol == PROTOCOL_TCP and _is_syn(found):
        return DROP_UNSOLICITED_SYN
    return DROP_FILTERED


cdef void _note_unsolicited(nat_engine *engine, const frame *whole, const packet *found) noexcept nogil:
    if engine.settings.refuse_unsolicited and found.protocol == PROTOCOL_TCP and _is_syn(found):
        unsolicited_note(
            &engine.unsolicited, whole, found,
            conntrack_hash(&engine.flows, found.key_addresses, found.key_rest), engine.now_ns,
        )
