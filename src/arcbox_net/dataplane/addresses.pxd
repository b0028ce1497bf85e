"""Which addresses packets may have, by the side that they come from; and which the engine routes untranslated."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.engine_state cimport nat_prefix, nat_settings
from arcbox_net.dataplane.packet cimport packet, packet_destination_be, packet_source_be
from arcbox_net.dataplane.verdict cimport DROP_MARTIAN, DROP_NO_MAPPING, OUTBOUND, VERDICT_FORWARD
from arcbox_net.wire.octets cimport load_u32


cdef inline bint prefix_has(const nat_prefix *prefix, uint32_t address_be) noexcept nogil:
    return address_be & prefix.mask_be == prefix.address_be


cdef inline bint is_external(const nat_settings *settings, uint32_t address_be) noexcept nogil:
    cdef uint32_t i
    for i in range(settings.external_count):
        if settings.externals_be[i] == address_be:
            return True
    return False


cdef inline bint is_guest(const nat_settings *settings, uint32_t address_be) noexcept nogil:
    """Whether a guest may have that address: of the inside network, but for its first, its last and the gateway's."""
    cdef uint32_t host_be = address_be & ~settings.inside.mask_be
    if not prefix_has(&settings.inside, address_be) or address_be == settings.gateway_be:
        return False
    return host_be != 0 and host_be != ~settings.inside.mask_be


cdef inline bint is_unicast(uint32_t address_be) noexcept nogil:
    """Not "this network", loopback, multicast, reserved or broadcast (RFC 6890)."""
    cdef uint32_t first = load_u32(<const uint8_t *>&address_be) >> 24
    return first != 0 and first != 127 and first < 224


cdef inline bint is_untranslated(const nat_settings *settings, uint32_t remote_be) noexcept nogil:
    cdef uint32_t i
    for i in range(settings.untranslated_count):
        if prefix_has(&settings.untranslated[i], remote_be):
            return True
    return False


cdef inline bint is_routed(const nat_settings *settings, const packet *found) noexcept nogil:
    """Whether the packet's remote address is one that is not translated for."""
    return is_untranslated(
        settings, packet_destination_be(found) if found.direction == OUTBOUND else packet_source_be(found)
    )


cdef inline uint8_t address_check(const nat_settings *settings, const packet *found) noexcept nogil:
    """VERDICT_FORWARD, or why a packet with these addresses is dropped."""
    cdef uint32_t source_be = packet_source_be(found), destination_be = packet_destination_be(found)
    if source_be == destination_be or not is_unicast(source_be):
        return DROP_MARTIAN
    if found.direction == OUTBOUND:
        if not is_guest(settings, source_be) or not is_unicast(destination_be):
            return DROP_MARTIAN
        return DROP_MARTIAN if prefix_has(&settings.inside, destination_be) else VERDICT_FORWARD
    if prefix_has(&settings.inside, source_be) or is_external(settings, source_be):
        return DROP_MARTIAN
    if is_routed(settings, found):
        return VERDICT_FORWARD if is_guest(settings, destination_be) else DROP_MARTIAN
    return VERDICT_FORWARD if is_external(settings, destination_be) else DROP_NO_MAPPING
