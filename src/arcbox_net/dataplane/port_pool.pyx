"""Which free port a new mapping gets: a random one of the ranges, or the next free one after it."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.dataplane.random_ports cimport random_below, random_source

cdef enum:
    LOW_WORDS = 8  # the 512 places of the low ports of one parity
    HALF_WORDS = 512
    # A port that is found by going on from a taken one is likelier the more taken ones lie before it. As long as some
    # of the ports are free, one of a few tries finds a free one directly, and all are as likely.
    DRAWS_MAX = 8


cdef void pool_init(port_pool *pool, const port_range *ranges, uint32_t count) noexcept nogil:
    """All ports of the *count* ranges are free; ranges may overlap. Port 0 is in none."""
    cdef uint32_t i, port, place
    cdef int kind
    memset(pool, 0, sizeof(port_pool))
    for i in range(count):
        for port in range(max(ranges[i].first, 1), <uint32_t>ranges[i].last + 1):
            place = place_of(<uint16_t>port)
            pool.usable[place >> 6] |= <uint64_t>1 << (place & 63)
    for kind in range(KINDS):
        pool.kinds[kind].first_word = (HALF_WORDS if kind >> 1 else 0) + (LOW_WORDS if kind & 1 else 0)
        pool.kinds[kind].end_word = (HALF_WORDS if kind >> 1 else 0) + (HALF_WORDS if kind & 1 else LOW_WORDS)
        _kind_init(pool, &pool.kinds[kind])


cdef void _kind_init(port_pool *pool, port_kind *kind) noexcept nogil:
    cdef port_span *span = NULL
    cdef uint32_t place
    for place in range(kind.first_word * 64, kind.end_word * 64):
        if not bit_at(pool.usable, place):
            span = NULL
            continue
        if span == NULL:
            span = &kind.spans[kind.span_count]
            span.first = place
            kind.span_count += 1
        span.count += 1
        kind.ports += 1
        pool_return(pool, place)


cdef uint32_t pool_draw(port_pool *pool, uint32_t kinds, random_source *random) noexcept nogil:
    """The place of a free port of one of *kinds*, or PLACE_NONE; it is not taken yet."""
    cdef uint32_t ports = pool_count(pool, kinds)
    cdef uint32_t place = PLACE_NONE
    cdef uint32_t kind
    cdef int _turn, _draw
    if ports == 0:
        return PLACE_NONE
    for _draw in range(DRAWS_MAX):
        place = _place_of_rank(pool, kinds, random_below(random, ports))
        if bit_at(pool.free, place):
            return place
    kind = kind_at(place)
    for _turn in range(KINDS):
        if kinds >> kind & 1 and pool.kinds[kind].free:
            place = _place_of_rank(pool, 1 << kind, random_below(random, pool.kinds[kind].ports))
            return _next_free(pool, &pool.kinds[kind], place)
        kind = (kind + 1) % KINDS
    return PLACE_NONE


cdef uint32_t _place_of_rank(const port_pool *pool, uint32_t kinds, uint32_t rank) noexcept nogil:
    """The place that *rank* others of these kinds come before; there are more than *rank* of them."""
    cdef const port_kind *kind
    cdef uint32_t i
    cdef int k
    for k in range(KINDS):
        if not kinds >> k & 1:
            continue
        kind = &pool.kinds[k]
        if rank >= kind.ports:
            rank -= kind.ports
            continue
        for i in range(kind.span_count):
            if rank < kind.spans[i].count:
                return kind.spans[i].first + rank
            rank -= kind.spans[i].count
    return PLACE_NONE


cdef uint32_t _next_free(const port_pool *pool, const port_kind *kind, uint32_t place) noexcept nogil:
    """The first free place of *kind*, which has one, from *place* on and around."""
    cdef uint32_t word = place >> 6
    cdef uint64_t ahead = pool.free[word] >> (place & 63)
    if ahead:
        return place + abx_trailing_zeros_u64(ahead)
    word = _word_with_free(pool, word + 1, kind.end_word)
    if word == kind.end_word:
        word = _word_with_free(pool, kind.first_word, kind.end_word)
    return word * 64 + abx_trailing_zeros_u64(pool.free[word])


cdef uint32_t _word_with_free(const port_pool *pool, uint32_t word, uint32_t end) noexcept nogil:
    """The first of the words *word* … *end* - 1 that has a free place, or *end*."""
    cdef uint64_t ahead
    while word < end:
        ahead = pool.summary[word >> 6] >> (word & 63)
        if ahead:
            return min(word + abx_trailing_zeros_u64(ahead), end)
        word = (word | 63) + 1
    return end
