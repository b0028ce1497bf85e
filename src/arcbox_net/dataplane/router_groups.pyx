"""Owns what a router says of its groups on the uplink (MLDv2, RFC 3810), so that switches which snoop lead them there.

It listens to the solicited-node groups of its external IPv6 address and of its link-local one. They are reported
ROUTER_JOINS times from when they are set up, a second apart, and after each query; no more often than once a second,
whatever is asked. An answer comes with the next tick: hosts that spread theirs over the time a query allows spare a
querier thousands at once, and there are two groups here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.router_send cimport router_send_frame
from arcbox_net.dataplane.router_state cimport router, router_side
from arcbox_net.dataplane.verdict cimport OUTBOUND
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store, pseudo_sum
from arcbox_net.wire.ethernet cimport (
    ETHERNET_DESTINATION, ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_IPV6, MAC_BYTES, ethernet_set_type,
)
from arcbox_net.wire.icmp cimport ICMP_CHECKSUM, PROTOCOL_ICMPV6
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_EXTENSIONS_MAX, IPV6_HEADER_BYTES, IPV6_HOP_BY_HOP, IPV6_HOP_LIMIT,
    IPV6_SOURCE, IPV6_WALK_OK, ipv6_follow, ipv6_hop_limit, ipv6_total_length, ipv6_write,
)
from arcbox_net.wire.mld cimport (
    MLD_CHANGE_TO_EXCLUDE, MLD_HOP_BY_HOP_BYTES, MLD_HOP_LIMIT, MLD_MODE_IS_EXCLUDE, MLD_QUERY, MLD_QUERY_BYTES_MIN,
    MLD_RECORD_BYTES, MLD_RECORD_GROUP, MLD_REPORT_BYTES, MLD_REPORT_RECORDS,
)
from arcbox_net.wire.neighbour cimport (
    MLD2_REPORT, ipv6_is_link_local, ipv6_is_unspecified, ipv6_solicited_node,
)
from arcbox_net.wire.octets cimport store_u16

cdef enum:
    RECORDS = 2
    MESSAGE_BYTES = MLD_REPORT_BYTES + RECORDS * MLD_RECORD_BYTES
    PACKET_BYTES = IPV6_HEADER_BYTES + MLD_HOP_BY_HOP_BYTES + MESSAGE_BYTES
    ROOM_BYTES = FRAME_VNET_BYTES + ETHERNET_HEADER_BYTES + PACKET_BYTES

cdef uint8_t *ROUTERS = b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x16"  # all that speak MLDv2
cdef uint8_t *ALERT = b"\x3a\0\x05\x02\0\0\x01\0"  # ICMPv6 follows; a router alert for MLD, and padding


cdef bint router_hears_query(router *r, const uint8_t *packet, bint summed) noexcept nogil:
    """Whether a packet from the uplink that begins with hop-by-hop options is a query; it is answered.

    Its IPv6 header was checked. *summed*: somebody else has checked or has yet to compute its checksum.
    """
    cdef uint32_t total = ipv6_total_length(packet), offset = IPV6_HEADER_BYTES, left = IPV6_EXTENSIONS_MAX
    cdef uint8_t protocol = IPV6_HOP_BY_HOP
    if ipv6_follow(packet, total, &protocol, &offset, &left) != IPV6_WALK_OK or protocol != PROTOCOL_ICMPV6:
        return False
    if total - offset < MLD_QUERY_BYTES_MIN or packet[offset] != MLD_QUERY:
        return False
    if ipv6_hop_limit(packet) == MLD_HOP_LIMIT and ipv6_is_link_local(packet + IPV6_SOURCE):
        r.is_queried |= summed or checksum_fold(_sum(packet, packet + offset, total - offset)) == 0xFFFF
    return True


cdef void router_report(router *r) noexcept nogil:
    """Called with each tick."""
    cdef router_side *side = &r.sides[<int>OUTBOUND]
    if not (r.joins_left or r.is_queried) or r.reported_s == r.now_s or ipv6_is_unspecified(side.address6):
        return
    _send(r, side, MLD_CHANGE_TO_EXCLUDE if r.joins_left else MLD_MODE_IS_EXCLUDE)
    r.joins_left -= r.joins_left != 0
    r.is_queried = False
    r.reported_s = r.now_s


cdef void _send(router *r, const router_side *side, uint8_t change) noexcept nogil:
    cdef uint8_t room[ROOM_BYTES]
    cdef uint8_t *frame = room + FRAME_VNET_BYTES
    cdef uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    cdef uint8_t *report = ip + IPV6_HEADER_BYTES + MLD_HOP_BY_HOP_BYTES
    cdef uint8_t *record = report + MLD_REPORT_BYTES
    store_u16(frame + ETHERNET_DESTINATION, 0x3333)
    memcpy(frame + ETHERNET_DESTINATION + 2, ROUTERS + 12, 4)
    memcpy(frame + ETHERNET_SOURCE, side.mac, MAC_BYTES)
    ethernet_set_type(frame, ETHERTYPE_IPV6)
    ipv6_write(ip, IPV6_HOP_BY_HOP, MLD_HOP_BY_HOP_BYTES + MESSAGE_BYTES)
    ip[IPV6_HOP_LIMIT] = MLD_HOP_LIMIT
    memcpy(ip + IPV6_SOURCE, side.link_local6, IPV6_ADDRESS_BYTES)
    memcpy(ip + IPV6_DESTINATION, ROUTERS, IPV6_ADDRESS_BYTES)
    memcpy(ip + IPV6_HEADER_BYTES, ALERT, MLD_HOP_BY_HOP_BYTES)
    memset(report, 0, MESSAGE_BYTES)
    report[0] = MLD2_REPORT
    store_u16(report + MLD_REPORT_RECORDS, RECORDS)
    record[0] = change
    ipv6_solicited_node(record + MLD_RECORD_GROUP, side.link_local6)
    record += MLD_RECORD_BYTES
    record[0] = change
    ipv6_solicited_node(record + MLD_RECORD_GROUP, side.address6)
    checksum_store(report + ICMP_CHECKSUM, _sum(ip, report, MESSAGE_BYTES))
    router_send_frame(r, OUTBOUND, frame, ETHERNET_HEADER_BYTES + PACKET_BYTES)


cdef uint64_t _sum(const uint8_t *ip, const uint8_t *icmp, uint32_t size) noexcept nogil:
    """Of an ICMPv6 message with its pseudo header, which has the protocol behind the options."""
    return checksum_add(
        pseudo_sum(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES, PROTOCOL_ICMPV6, size), icmp, size
    )
