"""What runs for every datagram: rate limit, cache and replies, a burst at a time, without Python objects.

Whatever is not a plain question with a cached answer is returned to the caller for `forwarder.py`, which
decides. All of it belongs to one thread.
"""

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.socket cimport (
    AF_INET,
    AF_INET6,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    iovec,
    mmsghdr,
    recvmmsg,
    sendmmsg,
    sendto,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
)
from arcbox_net.services.dns.cache cimport (
    KEY_BYTES_MAX,
    AnswerCache,
    entry,
    entry_body,
    entry_ttls,
    table,
    table_find,
    table_touch,
    ttl_place,
)
from arcbox_net.services.dns.rates cimport RateLimiter

cdef enum:
    BURST_MAX = 64
    QUERY_BYTES_MAX = 2048
    REPLY_BYTES_MAX = 1232
    PLAIN_BYTES_MAX = 512
    NAME_BYTES_MAX = 255
    LABEL_BYTES_MAX = 63
    OPT_BYTES = 11

cdef enum verdict:
    MISS = 0
    HIT = 1
    DROP = 2

cdef enum:
    RECEIVED
    HITS
    TRUNCATED
    RATE_LIMITED
    SHORT
    RESPONSE
    OVERSIZED
    SEND_FAILED
    COUNTERS

_COUNTER_NAMES = (
    "udp_received", "cache_hits", "cache_hits_truncated", "rate_limited", "query_short", "query_is_response",
    "query_oversized", "send_failed",
)

cdef struct question:
    uint8_t key[KEY_BYTES_MAX]
    uint16_t key_len
    uint16_t question_len
    uint16_t flags
    uint16_t udp_bytes
    uint8_t edns
    uint8_t do_bit

cdef struct burst:
    mmsghdr received[BURST_MAX]
    mmsghdr replies[BURST_MAX]
    iovec received_iov[BURST_MAX]
    iovec reply_iov[BURST_MAX]
    sockaddr_storage names[BURST_MAX]
    uint8_t verdicts[BURST_MAX]
    uint8_t queries[BURST_MAX][QUERY_BYTES_MAX]
    uint8_t bodies[BURST_MAX][REPLY_BYTES_MAX]


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((<uint16_t>p[0] << 8) | p[1])


cdef inline void put16(uint8_t *p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>(value & 0xFF)


cdef inline void put32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>((value >> 16) & 0xFF)
    p[2] = <uint8_t>((value >> 8) & 0xFF)
    p[3] = <uint8_t>(value & 0xFF)


cdef verdict question_read(const uint8_t *p, size_t size, question *q) noexcept nogil:
    """Read a plain question into *q*: HIT when it is one, MISS when Python shall look at it, else DROP."""
    cdef size_t at = 12
    cdef size_t end
    cdef uint8_t length, c
    cdef size_t i
    cdef uint16_t arcount
    if size < 12 or p[2] & 0x80:
        return DROP
    # Opcode 0, TC clear; one question, nothing in answer and authority, at most the OPT record.
    if p[2] & 0x7A or get16(p + 4) != 1 or get16(p + 6) or get16(p + 8):
        return MISS
    arcount = get16(p + 10)
    if arcount > 1:
        return MISS
    while True:
        if at >= size:
            return MISS
        length = p[at]
        if length > LABEL_BYTES_MAX or at - 12 + length + 1 > NAME_BYTES_MAX or at + length + 1 > size:
            return MISS
        q.key[at - 12] = length
        at += 1
        if length == 0:
            break
        for i in range(length):
            c = p[at + i]
            if 65 <= c <= 90:
                c |= 0x20
            q.key[at - 12 + i] = c
        at += length
    if at + 4 > size:
        return MISS
    memcpy(&q.key[at - 12], p + at, 4)
    at += 4
    q.question_len = <uint16_t>(at - 12)
    q.flags = get16(p + 2)
    q.edns = 0
    q.do_bit = 0
    q.udp_bytes = PLAIN_BYTES_MAX
    if arcount == 1:
        if at + OPT_BYTES > size or p[at] != 0 or get16(p + at + 1) != 41 or p[at + 6] != 0:
            return MISS
        end = at + OPT_BYTES + get16(p + at + 9)
        if end != size:
            return MISS
        q.edns = 1
        q.udp_bytes = get16(p + at + 3)
        q.do_bit = p[at + 7] >> 7
    elif at != size:
        return MISS
    # The flag byte of `wire.cache_key`: DO, CD, RD.
    q.key[q.question_len] = q.do_bit | (2 if p[3] & 0x10 else 0) | (4 if p[2] & 0x01 else 0)
    q.key_len = q.question_len + 1
    return HIT


cdef size_t reply_write(
    entry *e, const question *q, const uint8_t *query, int64_t now_ms, uint8_t *out, size_t limit
) noexcept nogil:
    """Write the reply from *e* to *out* and return its size. *limit* fits header, question and OPT."""
    cdef size_t size = 12 + q.question_len
    cdef size_t tail = OPT_BYTES if q.edns else 0
    cdef uint16_t flags = <uint16_t>(0x8080 | (q.flags & 0x0110) | (e.rcode & 15))
    cdef uint32_t elapsed
    cdef uint16_t i
    cdef ttl_place *places
    cdef uint8_t *body
    cdef bint fits = size + e.body_len + tail <= limit
    # RFC 6840 5.7: AD only for those who asked by DO or AD.
    if e.flags & 0x20 and (q.do_bit or q.flags & 0x20):
        flags |= 0x20
    if not fits:
        flags |= 0x200
    memcpy(out, query, 2)
    put16(out + 2, flags)
    put16(out + 4, 1)
    put16(out + 6, e.ancount if fits else 0)
    put16(out + 8, e.nscount if fits else 0)
    put16(out + 10, 1 if q.edns else 0)
    memcpy(out + 12, query + 12, q.question_len)
    if fits:
        body = out + size
        memcpy(body, entry_body(e), e.body_len)
        elapsed = <uint32_t>((now_ms - e.stored_ms) // 1000)
        places = entry_ttls(e)
        for i in range(e.ttl_count):
            put32(body + places[i].at, places[i].ttl - elapsed if places[i].ttl > elapsed else 0)
        size += e.body_len
    if q.edns:
        out[size] = 0
        put16(out + size + 1, 41)
        put16(out + size + 3, REPLY_BYTES_MAX)
        out[size + 5] = 0
        out[size + 6] = 0
        put16(out + size + 7, 0x8000 if q.do_bit else 0)
        put16(out + size + 9, 0)
        size += OPT_BYTES
    return size


cdef inline size_t reply_limit(const question *q) noexcept nogil:
    if q.udp_bytes < PLAIN_BYTES_MAX:
        return PLAIN_BYTES_MAX
    return q.udp_bytes if q.udp_bytes < REPLY_BYTES_MAX else REPLY_BYTES_MAX


@final
cdef class HotPath:
    """Serves bursts of datagrams from a cache; see the module."""

    cdef AnswerCache _cache
    cdef RateLimiter _limiter
    cdef burst *_burst
    cdef uint64_t _counts[COUNTERS]
    cdef readonly int received

    def __cinit__(self, AnswerCache cache not None, RateLimiter limiter not None):
        cdef int i
        self._cache = cache
        self._limiter = limiter
        memset(self._counts, 0, sizeof(self._counts))
        self._burst = <burst *>calloc(1, sizeof(burst))
        if self._burst == NULL:
            raise MemoryError
        for i in range(BURST_MAX):
            self._burst.received_iov[i].iov_base = self._burst.queries[i]
            self._burst.received_iov[i].iov_len = QUERY_BYTES_MAX
            self._burst.received[i].msg_hdr.msg_iov = &self._burst.received_iov[i]
            self._burst.received[i].msg_hdr.msg_iovlen = 1
            self._burst.received[i].msg_hdr.msg_name = &self._burst.names[i]
            self._burst.replies[i].msg_hdr.msg_iov = &self._burst.reply_iov[i]
            self._burst.replies[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self._burst)

    def serve(self, int fd, double now):
        """Take a burst off *fd*, answer what is cached and return the rest as `(packet, sockaddr, guest)`.

        `received` then tells how many datagrams there were; a full burst means that there may be more.
        """
        cdef int64_t now_ms = <int64_t>(now * 1000)
        cdef int i, size
        cdef sockaddr_storage *name
        with nogil:
            self.received = self.run(fd, now_ms)
        misses = []
        for i in range(self.received):
            if self._burst.verdicts[i] != MISS:
                continue
            name = &self._burst.names[i]
            if name.ss_family == AF_INET:
                guest = PyBytes_FromStringAndSize(<char *>&(<sockaddr_in *>name).sin_addr, 4)
            else:
                guest = PyBytes_FromStringAndSize(<char *>&(<sockaddr_in6 *>name).sin6_addr, 16)
            size = self._burst.received[i].msg_len
            misses.append((
                PyBytes_FromStringAndSize(<char *>self._burst.queries[i], size),
                PyBytes_FromStringAndSize(<char *>name, self._burst.received[i].msg_hdr.msg_namelen),
                guest,
            ))
        return misses

    def send(self, int fd, bytes address, bytes packet):
        """Send *packet* to *address*, as `serve` gave it. What the kernel refuses is dropped and counted."""
        cdef Py_ssize_t sent = sendto(
            fd, PyBytes_AS_STRING(packet), PyBytes_GET_SIZE(packet), MSG_DONTWAIT | MSG_NOSIGNAL,
            <const sockaddr *>PyBytes_AS_STRING(address), <uint32_t>PyBytes_GET_SIZE(address),
        )
        if sent < 0:
            self._counts[SEND_FAILED] += 1

    def answer(self, bytes packet, size_t limit, double now):
        """The reply to *packet* from the cache in at most *limit* bytes, or None."""
        cdef question q
        cdef entry *e
        cdef bytes out
        cdef int64_t now_ms = <int64_t>(now * 1000)
        if question_read(<const uint8_t *>PyBytes_AS_STRING(packet), PyBytes_GET_SIZE(packet), &q) != HIT:
            return None
        e = table_find(&self._cache._table, q.key, q.key_len)
        if e == NULL or e.expires_ms <= now_ms:
            return None
        out = PyBytes_FromStringAndSize(NULL, 12 + q.question_len + e.body_len + OPT_BYTES)
        size = reply_write(
            e, &q, <const uint8_t *>PyBytes_AS_STRING(packet), now_ms,
            <uint8_t *>PyBytes_AS_STRING(out), limit,
        )
        self._counts[HITS] += 1
        return out[:size]

    def counts(self):
        """What happened how often, by reason."""
        return {name: self._counts[i] for i, name in enumerate(_COUNTER_NAMES)}

    cdef int run(self, int fd, int64_t now_ms) noexcept nogil:
        cdef burst *b = self._burst
        cdef int i, count
        cdef unsigned int replies = 0
        for i in range(BURST_MAX):
            b.received[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
            b.received[i].msg_hdr.msg_flags = 0
        count = recvmmsg(fd, b.received, BURST_MAX, MSG_DONTWAIT, NULL)
        if count <= 0:
            return 0
        self._counts[RECEIVED] += count
        for i in range(count):
            b.verdicts[i] = self.one(i, now_ms, &replies)
        self.flush(fd, replies)
        return count

    cdef verdict one(self, int i, int64_t now_ms, unsigned int *replies) noexcept nogil:
        """Decide on datagram *i*; a reply from the cache becomes the next one of `replies`."""
        cdef burst *b = self._burst
        cdef table *t = &self._cache._table
        cdef uint8_t *query = b.queries[i]
        cdef uint8_t address[16]
        cdef question q
        cdef entry *e
        cdef verdict what
        cdef size_t size
        cdef unsigned int k = replies[0]
        memset(address, 0, 16)
        if b.names[i].ss_family == AF_INET:
            memcpy(address, &(<sockaddr_in *>&b.names[i]).sin_addr, 4)
        elif b.names[i].ss_family == AF_INET6:
            memcpy(address, &(<sockaddr_in6 *>&b.names[i]).sin6_addr, 16)
        if not self._limiter.take(address, now_ms):
            self._counts[RATE_LIMITED] += 1
            return DROP
        if b.received[i].msg_hdr.msg_flags & MSG_TRUNC:
            self._counts[OVERSIZED] += 1
            return DROP
        what = question_read(query, b.received[i].msg_len, &q)
        if what == DROP:
            self._counts[SHORT if b.received[i].msg_len < 12 else RESPONSE] += 1
        if what != HIT:
            return what
        e = table_find(t, q.key, q.key_len)
        if e == NULL or e.expires_ms <= now_ms:
            return MISS
        table_touch(t, e)
        size = reply_write(e, &q, query, now_ms, b.bodies[k], reply_limit(&q))
        self._counts[HITS] += 1
        if b.bodies[k][2] & 0x02:
            self._counts[TRUNCATED] += 1
        b.reply_iov[k].iov_base = b.bodies[k]
        b.reply_iov[k].iov_len = size
        b.replies[k].msg_hdr.msg_name = &b.names[i]
        b.replies[k].msg_hdr.msg_namelen = b.received[i].msg_hdr.msg_namelen
        replies[0] = k + 1
        return HIT

    cdef void flush(self, int fd, unsigned int count) noexcept nogil:
        """Send *count* replies. One that fails is skipped; when the socket is full the rest is dropped."""
        cdef unsigned int done = 0
        cdef int sent
        while done < count:
            sent = sendmmsg(fd, b_at(self._burst, done), count - done, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent > 0:
                done += sent
                continue
            if sent < 0 and errno == EINTR:
                continue
            if sent < 0 and errno == EAGAIN:
                self._counts[SEND_FAILED] += count - done
                return
            self._counts[SEND_FAILED] += 1
            done += 1


cdef inline mmsghdr *b_at(burst *b, unsigned int i) noexcept nogil:
    return &b.replies[i]
