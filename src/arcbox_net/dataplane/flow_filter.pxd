"""Which flows somebody means: those of a guest, of a protocol, of external ports; those that a configuration allows."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.address_table cimport address_is_interned, address_octets
from arcbox_net.dataplane.addresses cimport is_external, is_guest, is_untranslated
from arcbox_net.dataplane.addresses6 cimport is_guest6
from arcbox_net.dataplane.engine_state cimport nat_engine, nat_settings
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN, half_flow
from arcbox_net.dataplane.half_pair cimport (
    endpoint, half_direction, half_protocol, pair_destination, pair_source,
)
from arcbox_net.dataplane.mapping cimport is_configured
from arcbox_net.dataplane.verdict cimport OUTBOUND
from arcbox_net.wire.octets cimport order_u16

cdef struct flow_filter:
    uint32_t guest_be  # 0: any
    uint8_t protocol  # 0: any
    uint32_t external_be  # 0: any; else with ports of `first_port` to `last_port`
    uint16_t first_port
    uint16_t last_port

# A flow by its ends: the guest's inside and outside, and the one that it talks to. Of a hairpin the other guest's too.
cdef struct flow_ends:
    endpoint guest
    endpoint external
    endpoint remote
    endpoint other_guest
    endpoint other_external


cdef inline flow_ends flow_ends_of(const nat_engine *engine, uint32_t flow) noexcept nogil:
    cdef const half_flow *original = &engine.flows.halves[2 * flow]
    cdef const half_flow *reply = original + 1
    cdef flow_ends ends
    cdef endpoint source = pair_source(original.key_addresses, original.key_rest)
    cdef endpoint destination = pair_destination(original.key_addresses, original.key_rest)
    cdef endpoint reply_source = pair_source(reply.key_addresses, reply.key_rest)
    cdef endpoint reply_destination = pair_destination(reply.key_addresses, reply.key_rest)
    ends.other_guest = endpoint(0, 0)
    ends.other_external = endpoint(0, 0)
    if half_direction(original) == OUTBOUND:
        ends.guest, ends.external, ends.remote = source, reply_destination, destination
        if original.flags & HALF_HAIRPIN:
            ends.other_guest, ends.other_external = reply_source, destination
    else:
        ends.guest, ends.external, ends.remote = reply_source, destination, source
    return ends


cdef inline bint _is_among(const flow_filter *wanted, endpoint external) noexcept nogil:
    if external.ip_be != wanted.external_be:
        return False
    return wanted.first_port <= order_u16(external.number_be) <= wanted.last_port


cdef inline bint flow_matches(const nat_engine *engine, uint32_t flow, const flow_filter *wanted) noexcept nogil:
    cdef flow_ends ends = flow_ends_of(engine, flow)
    if wanted.protocol and wanted.protocol != half_protocol(&engine.flows.halves[2 * flow]):
        return False
    if wanted.guest_be and wanted.guest_be != ends.guest.ip_be and wanted.guest_be != ends.other_guest.ip_be:
        return False
    return wanted.external_be == 0 or _is_among(wanted, ends.external) or _is_among(wanted, ends.other_external)


cdef inline bint _is_allowed6(const nat_engine *engine, endpoint guest, endpoint external) noexcept nogil:
    if not is_guest6(&engine.settings, address_octets(&engine.addresses, guest.ip_be)):
        return False
    return engine.settings.has_ipv6 and is_configured(&engine.mappings, external.ip_be)


cdef inline bint flow_is_allowed(const nat_engine *engine, uint32_t flow) noexcept nogil:
    """Whether the settings would let the flow's packets be translated as they are."""
    cdef const nat_settings *settings = &engine.settings
    cdef flow_ends ends = flow_ends_of(engine, flow)
    if address_is_interned(ends.guest.ip_be):
        return _is_allowed6(engine, ends.guest, ends.external) and (
            ends.other_guest.ip_be == 0 or _is_allowed6(engine, ends.other_guest, ends.other_external)
        )
    if not is_guest(settings, ends.guest.ip_be) or not is_external(settings, ends.external.ip_be):
        return False
    if ends.other_guest.ip_be:
        return is_guest(settings, ends.other_guest.ip_be) and is_external(settings, ends.other_external.ip_be)
    return not is_untranslated(settings, ends.remote.ip_be)
