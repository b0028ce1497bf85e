"""ICMP queries as flows: an echo's identifier is the number of the side that asks, the other side has none."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.packet cimport packet, packet_key
from arcbox_net.dataplane.verdict cimport (
    DROP_NO_MAPPING, DROP_UNKNOWN_PROTOCOL, INBOUND, OUTBOUND, VERDICT_FORWARD,
)
from arcbox_net.wire.icmp cimport (
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, PROTOCOL_ICMP, icmp_identifier_be, icmp_type,
)


cdef inline uint8_t query_check(packet *found) noexcept nogil:
    """Set the key of a guest's echo request or of the reply to one; else why it is dropped (RFC 5508 3.1)."""
    cdef uint32_t identifier_be = icmp_identifier_be(found.l4)
    if found.direction == OUTBOUND:
        if icmp_type(found.l4) != ICMP_ECHO_REQUEST:
            return DROP_UNKNOWN_PROTOCOL
        found.key_rest = packet_key(identifier_be, PROTOCOL_ICMP, OUTBOUND)
        return VERDICT_FORWARD
    if icmp_type(found.l4) == ICMP_ECHO_REPLY:
        found.key_rest = packet_key(identifier_be << 16, PROTOCOL_ICMP, INBOUND)
        return VERDICT_FORWARD
    return DROP_NO_MAPPING if icmp_type(found.l4) == ICMP_ECHO_REQUEST else DROP_UNKNOWN_PROTOCOL
