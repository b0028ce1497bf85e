"""The ports of one external address in one space (TCP, UDP or ICMP query ids): which may be given out, which are free.

A port has a *place* in the bitmaps: the even ones first, then the odd ones. So ports of one parity and class (below
1024, or not) are neighbours, and looking for one of a kind is looking at a run of words. Place 0 would be port 0,
which is never given out, and means "none".
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.random_ports cimport random_source

cdef enum:
    PLACES = 65536
    PLACE_NONE = 0
    PLACE_ODD = 32768  # the place of port 1
    POOL_WORDS = 1024
    SUMMARY_WORDS = 16

    LOW_PORTS = 1024

    RANGES_MAX = 64  # of ports, of all external addresses together

    # Kinds of ports, as bits of a set; a low port is one below 1024.
    KINDS = 4
    EVEN_LOW = 1
    EVEN_HIGH = 2
    ODD_LOW = 4
    ODD_HIGH = 8
    LOW_KINDS = EVEN_LOW | ODD_LOW
    HIGH_KINDS = EVEN_HIGH | ODD_HIGH
    ODD_KINDS = ODD_LOW | ODD_HIGH
    EVEN_KINDS = EVEN_LOW | EVEN_HIGH
    ALL_KINDS = LOW_KINDS | HIGH_KINDS

cdef struct port_range:
    uint16_t first
    uint16_t last

cdef struct port_span:
    uint32_t first  # a place
    uint32_t count

cdef struct port_kind:
    port_span spans[RANGES_MAX]
    uint32_t span_count
    uint32_t ports  # in the spans
    uint32_t free
    uint32_t first_word
    uint32_t end_word

cdef struct port_pool:
    uint64_t free[POOL_WORDS]  # nobody has it, and anybody may get it
    uint64_t summary[SUMMARY_WORDS]  # the words of `free` that are not 0
    uint64_t usable[POOL_WORDS]  # in a range of the address
    port_kind kinds[KINDS]


cdef void pool_init(port_pool *pool, const port_range *ranges, uint32_t count) noexcept nogil
cdef uint32_t pool_draw(port_pool *pool, uint32_t kinds, random_source *random) noexcept nogil


cdef inline uint32_t place_of(uint16_t port) noexcept nogil:
    return (<uint32_t>(port & 1) << 15) | (port >> 1)


cdef inline uint16_t port_at(uint32_t place) noexcept nogil:
    return <uint16_t>((place << 1) | (place >> 15))


cdef inline uint32_t kind_at(uint32_t place) noexcept nogil:
    """Which of `port_pool.kinds` a place belongs to: its bit is 1 << that."""
    return (place >> 15) << 1 | ((place & (PLACE_ODD - 1)) >= 512)


cdef inline bint bit_at(const uint64_t *words, uint32_t place) noexcept nogil:
    return (words[place >> 6] >> (place & 63)) & 1


cdef inline uint32_t pool_count(const port_pool *pool, uint32_t kinds) noexcept nogil:
    """The ports of these kinds that the ranges hold."""
    cdef uint32_t ports = 0
    cdef int kind
    for kind in range(KINDS):
        if kinds >> kind & 1:
            ports += pool.kinds[kind].ports
    return ports


cdef inline uint32_t pool_free_count(const port_pool *pool) noexcept nogil:
    cdef uint32_t free = 0
    cdef int kind
    for kind in range(KINDS):
        free += pool.kinds[kind].free
    return free


cdef inline void pool_take(port_pool *pool, uint32_t place) noexcept nogil:
    """Give out the port at a place that is free."""
    cdef uint32_t word = place >> 6
    pool.free[word] &= ~(<uint64_t>1 << (place & 63))
    if pool.free[word] == 0:
        pool.summary[word >> 6] &= ~(<uint64_t>1 << (word & 63))
    pool.kinds[kind_at(place)].free -= 1


cdef inline void pool_return(port_pool *pool, uint32_t place) noexcept nogil:
    """Make free what is not; a port outside the ranges never is."""
    cdef uint32_t word = place >> 6
    if not bit_at(pool.usable, place):
        return
    pool.free[word] |= <uint64_t>1 << (place & 63)
    pool.summary[word >> 6] |= <uint64_t>1 << (word & 63)
    pool.kinds[kind_at(place)].free += 1
