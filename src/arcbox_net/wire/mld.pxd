"""Multicast listener discovery, version 2 (RFC 3810): queries, and reports of groups."""

from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    MLD_QUERY = 130
    MLD_QUERY_BYTES_MIN = 24  # version 1's, which is the beginning of a later one
    MLD_HOP_LIMIT = 1
    MLD_HOP_BY_HOP_BYTES = 8  # with the router alert (RFC 2711)
    MLD_REPORT_RECORDS = 6  # how many: 16 bits
    MLD_REPORT_BYTES = 8  # without records
    MLD_RECORD_GROUP = 4
    MLD_RECORD_BYTES = MLD_RECORD_GROUP + IPV6_ADDRESS_BYTES
    MLD_MODE_IS_EXCLUDE = 2  # of no source: all are listened to
    MLD_CHANGE_TO_EXCLUDE = 4
