"""SYNs from outside that nobody expects: RFC 5382 REQ-4. Used only when they are to be refused at all.

Such a SYN may be one half of a simultaneous open, so it is answered when 6 s have passed without an outbound SYN for
the same connection. Copies wait in a table of named size; one that finds its place taken is dropped in silence.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.verdict cimport OUTBOUND
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.icmp cimport ICMP_ERROR_BYTES_MAX, ICMP_PORT_UNREACHABLE, ICMP_UNREACHABLE

cdef enum:
    UNSOLICITED_MAX = 128
    UNSOLICITED_S = 6
    UNSOLICITED_BYTES = ETHERNET_HEADER_BYTES + ICMP_ERROR_BYTES_MAX  # as much as an error can quote

cdef struct unsolicited_syn:
    uint64_t key_addresses
    uint64_t key_rest
    uint64_t due_ns  # 0: the place is free
    uint32_t size
    uint8_t l3
    uint8_t bytes[UNSOLICITED_BYTES]

cdef struct unsolicited_table:
    uint32_t count
    uint32_t cursor
    unsolicited_syn places[UNSOLICITED_MAX]


cdef inline void unsolicited_note(
    unsolicited_table *table, const frame *whole, const packet *found, uint64_t hash, uint64_t now_ns
) noexcept nogil:
    """Keep a SYN; *hash* is of its key."""
    cdef unsolicited_syn *place = &table.places[hash % UNSOLICITED_MAX]
    if place.due_ns:
        return
    place.key_addresses = found.key_addresses
    place.key_rest = found.key_rest
    place.due_ns = now_ns + <uint64_t>UNSOLICITED_S * 1_000_000_000
    place.size = min(whole.size, <uint32_t>UNSOLICITED_BYTES)
    place.l3 = whole.l3
    memcpy(place.bytes, whole.data, place.size)
    table.count += 1


cdef inline void unsolicited_forget(
    unsolicited_table *table, uint64_t key_addresses, uint64_t key_rest, uint64_t hash
) noexcept nogil:
    """The guest opens that connection itself."""
    cdef unsolicited_syn *place = &table.places[hash % UNSOLICITED_MAX]
    if place.due_ns and place.key_addresses == key_addresses and place.key_rest == key_rest:
        place.due_ns = 0
        table.count -= 1


cdef inline void unsolicited_refuse(
    unsolicited_table *table, icmp_answers *answers, uint64_t now_ns, uint32_t budget
) noexcept nogil:
    """Answer those that waited long enough, among the next *budget* places."""
    cdef unsolicited_syn *place
    cdef frame syn
    cdef uint32_t _i
    for _i in range(min(budget, <uint32_t>UNSOLICITED_MAX)):
        if table.count == 0:
            return
        place = &table.places[table.cursor]
        table.cursor = (table.cursor + 1) % UNSOLICITED_MAX
        if place.due_ns == 0 or place.due_ns > now_ns:
            continue
        syn = frame(&place.bytes[0], place.size, 0, place.l3, 0)  # the array itself would be copied to where data leads
        icmp_refuse(answers, &syn, OUTBOUND, ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE, 0, now_ns)
        place.due_ns = 0
        table.count -= 1
