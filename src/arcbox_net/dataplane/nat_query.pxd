"""ICMP queries as flows: an echo's identifier is the number of the side that asks, the other side has none."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.packet cimport packet, packet_key
from arcbox_net.dataplane.verdict cimport (
    DROP_NO_MAPPING, DROP_UNKNOWN_PROTOCOL, INBOUND, OUTBOUND, VERDICT_FORWARD, Direction,
)
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP, icmp_identifier_be, icmp_type


cdef inline uint8_t query_check(
    packet *found, uint8_t request, uint8_t reply, uint64_t family
) noexcept nogil:
    """Set the key of a guest's echo request or of the reply to one; else why it is dropped (RFC 5508 3.1).

    *request* and *reply* are the ICMP version's types, *family* is what its keys have beside the IPv4 ones.
    """
    cdef uint32_t identifier_be = icmp_identifier_be(found.l4)
    cdef uint8_t kind = icmp_type(found.l4)
    if kind != (request if found.direction == OUTBOUND else reply):
        return DROP_NO_MAPPING if kind == request else DROP_UNKNOWN_PROTOCOL
    if found.direction == INBOUND:
        identifier_be <<= 16
    found.key_rest = packet_key(identifier_be, PROTOCOL_ICMP, <Direction>found.direction) | family
    return VERDICT_FORWARD
