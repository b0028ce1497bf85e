"""Datagrams that are not whole yet, and the memory of their fragments; see fragment_store.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FRAGMENT_NONE = 0xFFFF  # no datagram, block or owner
    SHARES = 4  # by direction and IP version
    DATAGRAMS_MAX = 2048
    DATAGRAMS_SHARE = 512  # of those, for each share
    DATAGRAMS_OWNER = 64  # of those, for a guest, or for an address outside
    BLOCK_BYTES = 1536  # holds what an Ethernet frame can carry
    BLOCKS_MAX = 16384
    BLOCKS_SHARE = 4096
    BLOCKS_OWNER = (1 << 20) // BLOCK_BYTES
    PARTS_MAX = 128  # 65,535 bytes in packets of 576
    LINK_BYTES_MAX = 32  # what may be ahead of the IP header
    HEADERS_BYTES_MAX = 128  # what may be ahead of a part: the IP header, options, the fragment header
    BUCKETS = 1024

cdef enum:  # links: each datagram is in two lists
    LINK_SHARE = 0
    LINK_OWNER = 1

cdef struct datagram_list:  # oldest first
    uint16_t head
    uint16_t tail

cdef struct datagram_link:
    uint16_t previous
    uint16_t next

cdef struct datagram_part:
    uint16_t offset
    uint16_t size
    uint16_t block  # first of a chain

cdef struct datagram:
    uint64_t key_addresses  # of IPv6 a hash that nobody finds a second pair of addresses for
    uint64_t key_rest  # as a flow's, with the identification in place of the ports
    uint64_t started_ns
    uint32_t held  # payload bytes that are there
    uint32_t size  # payload bytes of the whole; 0 until its end is there
    uint16_t next  # in its bucket
    uint16_t owner
    uint16_t blocks
    uint16_t parts
    uint8_t refused  # fragments overlapped: it will never be whole
    uint8_t ecn  # bits by the ECN fields that were seen
    uint8_t link_size
    uint8_t header_size  # of what the first fragment has ahead of its part; 0 until it is there
    uint8_t link[LINK_BYTES_MAX]
    uint8_t header[HEADERS_BYTES_MAX]
    datagram_part part[PARTS_MAX]  # by offset

cdef struct fragment_owner:
    uint64_t key
    datagram_list datagrams
    uint16_t next  # in its bucket
    uint16_t count
    uint16_t blocks

cdef struct fragment_share:
    datagram_list datagrams
    uint16_t count
    uint16_t blocks

cdef struct fragment_store:
    uint64_t seed[2]
    uint64_t evicted  # datagrams that made room for others
    datagram *datagrams
    datagram_link *links[2]
    fragment_owner *owners
    uint8_t *blocks
    uint16_t *block_next
    uint16_t free_datagram  # chained by its link in the share
    uint16_t free_owner
    uint16_t free_block
    fragment_share shares[SHARES]
    uint16_t buckets[BUCKETS]
    uint16_t owner_buckets[BUCKETS]


cdef bint fragment_store_init(fragment_store *s, const uint64_t *seed) noexcept nogil
cdef void fragment_store_free(fragment_store *s) noexcept nogil
cdef uint16_t datagram_find(fragment_store *s, uint64_t key_addresses, uint64_t key_rest) noexcept nogil
cdef uint16_t datagram_open(
    fragment_store *s, uint64_t key_addresses, uint64_t key_rest, uint64_t owner_key, uint64_t now_ns
) noexcept nogil
cdef void datagram_close(fragment_store *s, uint16_t id) noexcept nogil
cdef void datagram_refuse(fragment_store *s, uint16_t id) noexcept nogil
cdef bint datagram_keep(
    fragment_store *s, uint16_t id, uint16_t index, uint16_t offset, const uint8_t *payload, uint16_t size
) noexcept nogil
cdef bint datagram_part_is(
    const fragment_store *s, const datagram_part *part, const uint8_t *payload, uint32_t size
) noexcept nogil
cdef void datagram_read(const fragment_store *s, const datagram_part *part, uint8_t *out) noexcept nogil


cdef inline uint16_t datagram_oldest(const fragment_store *s, int share) noexcept nogil:
    return s.shares[share].datagrams.head
