"""Which IPv6 addresses packets may have, by the side that they come from."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from arcbox_net.dataplane.address_table cimport ADDRESS_NONE, address_find
from arcbox_net.dataplane.engine_state cimport nat_engine, nat_prefix6, nat_settings
from arcbox_net.dataplane.mapping cimport is_configured
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.verdict cimport DROP_MARTIAN, DROP_NO_MAPPING, OUTBOUND, VERDICT_FORWARD
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_SOURCE
from arcbox_net.wire.octets cimport load_u16, load_u32


cdef inline bint prefix6_has(const nat_prefix6 *prefix, const uint8_t *address) noexcept nogil:
    cdef uint64_t words[2]
    memcpy(words, address, sizeof(words))
    return (
        (words[0] & prefix.mask[0]) == prefix.address[0] and (words[1] & prefix.mask[1]) == prefix.address[1]
    )


cdef inline bint is_guest6(const nat_settings *settings, const uint8_t *address) noexcept nogil:
    """Whether a guest may have that address: of the inside network, but not the gateway's, and not the anycast one of
    all routers (RFC 4291 2.6.1).
    """
    if not prefix6_has(&settings.inside6, address) or memcmp(address, settings.gateway6, IPV6_ADDRESS_BYTES) == 0:
        return False
    return memcmp(address, settings.inside6.address, IPV6_ADDRESS_BYTES) != 0


cdef inline bint is_unicast6(const uint8_t *address) noexcept nogil:
    """Not multicast, of one link only, unspecified, loopback, or an IPv4 address in disguise (RFC 4291 2.4, 2.5)."""
    cdef uint32_t first = load_u16(address)
    if first >= 0xFF00 or first & 0xFFC0 == 0xFE80:
        return False
    if load_u32(address) | load_u32(address + 4):
        return True
    return load_u32(address + 8) != 0 and load_u32(address + 8) != 0xFFFF


cdef inline bint is_external6(const nat_engine *engine, const uint8_t *address) noexcept nogil:
    cdef uint32_t number_be = address_find(&engine.addresses, address)
    return number_be != ADDRESS_NONE and is_configured(&engine.mappings, number_be)


cdef inline uint8_t address6_check(const nat_engine *engine, const packet *found) noexcept nogil:
    """VERDICT_FORWARD, or why a packet with these addresses is dropped."""
    cdef const uint8_t *source = found.ip + IPV6_SOURCE
    cdef const uint8_t *destination = found.ip + IPV6_DESTINATION
    cdef const nat_prefix6 *inside = &engine.settings.inside6
    if not is_unicast6(source) or not is_unicast6(destination):
        return DROP_MARTIAN
    if found.direction == OUTBOUND:
        if not is_guest6(&engine.settings, source) or prefix6_has(inside, destination):
            return DROP_MARTIAN
        return VERDICT_FORWARD
    if prefix6_has(inside, source) or is_external6(engine, source):
        return DROP_MARTIAN
    return VERDICT_FORWARD if is_external6(engine, destination) else DROP_NO_MAPPING
