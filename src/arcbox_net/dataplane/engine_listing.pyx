"""Flows and mappings as Python sees them, and what Python says of them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.dataplane.address_table cimport (
    ADDRESS_NONE, address_find, address_is_interned, address_octets, address_take,
)
from arcbox_net.dataplane.addresses cimport is_guest
from arcbox_net.dataplane.addresses6 cimport is_guest6
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow cimport HALF_ATTENTION, HALF_HAIRPIN, flow_cold, half_flow
from arcbox_net.dataplane.half_pair cimport (
    endpoint, half_direction, half_protocol, pair_destination, pair_source,
)
from arcbox_net.dataplane.mapping cimport MAPPING_STATIC, mapping
from arcbox_net.dataplane.tcp_state cimport (
    TCP_CLOSING, TCP_ESTABLISHED, TCP_HALF_CLOSED, TCP_OPENING, TCP_RESET, tcp_state,
)
from arcbox_net.dataplane.verdict cimport INBOUND
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES
from arcbox_net.wire.octets cimport load_u32, order_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP
from arcbox_net.wire.udp cimport PROTOCOL_UDP

from arcbox_net.dataplane.nat_views import Endpoint, NatFlow, NatMapping
from arcbox_net.dataplane.verdict import Direction
from arcbox_net.errors import ConfigError, LimitReached

_PROTOCOLS = {PROTOCOL_ICMP: "icmp", PROTOCOL_TCP: "tcp", PROTOCOL_UDP: "udp"}
_TCP_STATES = {
    <int>TCP_OPENING: "opening",
    <int>TCP_ESTABLISHED: "established",
    <int>TCP_HALF_CLOSED: "half-closed",
    <int>TCP_CLOSING: "closing",
    <int>TCP_RESET: "reset",
}


cdef uint8_t protocol_of(name) except 0:
    for number, known in _PROTOCOLS.items():
        if name == known:
            return number
    raise ConfigError(f"{name!r} is no protocol", fix="use tcp, udp or icmp", field="protocol", value=name)


cdef uint32_t address_be_of(address) except? 0:
    """An `IPv4Address` as tables have it."""
    cdef uint32_t address_be
    memcpy(&address_be, <const char *>address.packed, 4)
    return address_be


cdef uint32_t address_of(const nat_engine *engine, text) except? 0:
    """An address of either family as tables have it: ADDRESS_NONE for an IPv6 one that none of them has."""
    address = _address(text)
    return address_be_of(address) if address.version == 4 else address_find(&engine.addresses, address.packed)


cdef uint32_t address_held(nat_engine *engine, text) except? 0:
    """As `address_of`, for any address: who asks drops it."""
    cdef uint32_t number_be
    address = _address(text)
    if address.version == 4:
        return address_be_of(address)
    number_be = address_take(&engine.addresses, address.packed)
    if number_be == ADDRESS_NONE:
        raise LimitReached("the table of IPv6 addresses is full", limit="addresses", value=engine.addresses.count)
    return number_be


cdef object _address(text):
    try:
        address = ip_address(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no IP address", field="address", value=text) from error
    if address.version == 4 and address.is_reserved:  # as the numbers of IPv6 addresses read
        raise ConfigError(f"{text} is an address of no host", field="address", value=text)
    return address


cdef object guest_address(const nat_engine *engine, text):
    """Parse an address that a guest may have."""
    address = _address(text)
    if address.version == 4:
        usable = is_guest(&engine.settings, address_be_of(address))
    else:
        usable = engine.settings.has_ipv6 and is_guest6(&engine.settings, address.packed)
    if not usable:
        raise ConfigError(f"{text} can be no guest's address", field="inside_ip", value=text)
    return address


cdef object flow_view(const nat_engine *engine, uint32_t flow):
    """The live flow of that number."""
    cdef const half_flow *original = &engine.flows.halves[2 * flow]
    cdef const half_flow *reply = original + 1
    cdef const flow_cold *cold = &engine.flows.cold[flow]
    return NatFlow(
        _PROTOCOLS[half_protocol(original)],
        _endpoint(engine, pair_source(original.key_addresses, original.key_rest)),
        _endpoint(engine, pair_destination(original.key_addresses, original.key_rest)),
        _endpoint(engine, pair_source(reply.key_addresses, reply.key_rest)),
        _endpoint(engine, pair_destination(reply.key_addresses, reply.key_rest)),
        Direction(<int>half_direction(original)),
        original.flags & HALF_HAIRPIN != 0,
        _state(original),
        engine.now_s - cold.created_s,
        engine.now_s - max(original.last_seen_s, reply.last_seen_s),
        original.bytes,
        original.packets,
        reply.bytes,
        reply.packets,
    )


cdef object mapping_view(const nat_engine *engine, uint32_t id):
    """The live mapping of that number."""
    cdef const mapping *entry = &engine.mappings.entries[id]
    return NatMapping(
        _PROTOCOLS[entry.protocol],
        _endpoint(engine, endpoint(entry.inside_ip_be, entry.inside_port_be)),
        _endpoint(engine, endpoint(entry.external_ip_be, entry.external_port_be)),
        entry.refs,
        entry.flags & MAPPING_STATIC != 0,
    )


cdef object _endpoint(const nat_engine *engine, endpoint end):
    cdef const uint8_t *octets
    if address_is_interned(end.ip_be):
        octets = address_octets(&engine.addresses, end.ip_be)
        return Endpoint(str(IPv6Address((<const char *>octets)[:IPV6_ADDRESS_BYTES])), order_u16(end.number_be))
    return Endpoint(str(IPv4Address(load_u32(<const unsigned char *>&end.ip_be))), order_u16(end.number_be))


cdef object _state(const half_flow *original):
    if original.flags & HALF_ATTENTION:
        return "weak" if half_direction(original) == INBOUND or original.flags & HALF_HAIRPIN else "waiting"
    if half_protocol(original) != PROTOCOL_TCP:
        return "open"
    return _TCP_STATES[<int>tcp_state(original[0].tcp, original[1].tcp)]
