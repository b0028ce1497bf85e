"""Answers by question. Owns their memory and its caps; answers.py says what may be kept, and for how long.

An entry is one allocation: header, TTL places, key, body. The key is compared in full; the hash is keyed with
a secret seed, so nobody outside can make names collide. The least recently used entry goes when a cap is
reached. All of it belongs to one thread.
"""

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from arcbox_net.wire.siphash cimport siphash13

from arcbox_net.services.dns import settings
from arcbox_net.services.dns.wire import Answer

cdef enum:
    STALE_MS_MAX = 86400000


@final
cdef class AnswerCache:
    """Answers by key, with hard caps on entries and bytes. Not thread-safe."""

    def __cinit__(self, uint32_t entries_max, size_t bytes_max, bytes seed, bint keeps_stale=False):
        cdef uint64_t buckets = 16
        if len(seed) != 16:
            raise ValueError("the seed is 16 bytes")
        memset(&self._table, 0, sizeof(table))
        while buckets < entries_max:
            buckets <<= 1
        self._table.buckets = <entry **>calloc(buckets, sizeof(entry *))
        if self._table.buckets == NULL:
            raise MemoryError
        self._table.mask = buckets - 1
        self._table.entries_max = entries_max
        self._table.bytes_max = bytes_max
        memcpy(&self._table.seed0, PyBytes_AS_STRING(seed), 8)
        memcpy(&self._table.seed1, PyBytes_AS_STRING(seed) + 8, 8)
        self._keeps_stale = keeps_stale

    def __dealloc__(self):
        if self._table.buckets != NULL:
            while self._table.oldest != NULL:
                table_remove(&self._table, self._table.oldest)
            free(self._table.buckets)

    def __len__(self):
        return self._table.count

    @property
    def size(self):
        return self._table.bytes

    def clear(self):
        while self._table.oldest != NULL:
            table_remove(&self._table, self._table.oldest)

    def put(self, bytes key, answer, double now):
        """Keep *answer* under *key* for its `ttl_s`; not when that is 0, nor when it is too large."""
        cdef Py_ssize_t body_len = len(answer.body)
        cdef Py_ssize_t ttl_count = len(answer.ttls)
        cdef Py_ssize_t key_len = len(key)
        cdef bytes body = bytes(answer.body)
        cdef size_t size = sizeof(entry) + ttl_count * sizeof(ttl_place) + key_len + body_len
        cdef entry *e
        cdef Py_ssize_t i = 0
        if (
            answer.ttl_s <= 0 or body_len > settings.CACHE_BODY_BYTES_MAX or size > self._table.bytes_max
            or not self._table.entries_max or key_len > KEY_BYTES_MAX or ttl_count > 0xFFFF
        ):
            return
        for at, _ in answer.ttls:
            if not 0 <= at <= body_len - 4:
                raise ValueError("a TTL outside the body")
        e = <entry *>malloc(size)
        if e == NULL:
            return
        memset(e, 0, sizeof(entry))
        e.size = size
        e.body_len = <uint32_t>body_len
        e.key_len = <uint16_t>key_len
        e.ttl_count = <uint16_t>ttl_count
        e.flags = answer.flags
        e.rcode = answer.rcode
        e.ancount = answer.ancount
        e.nscount = answer.nscount
        e.cuts_subtree = answer.cuts_subtree
        e.stored_ms = <int64_t>(now * 1000)
        e.expires_ms = e.stored_ms + <int64_t>answer.ttl_s * 1000
        for at, ttl in answer.ttls:
            entry_ttls(e)[i].at = at
            entry_ttls(e)[i].ttl = ttl
            i += 1
        memcpy(entry_key(e), PyBytes_AS_STRING(key), key_len)
        memcpy(entry_body(e), PyBytes_AS_STRING(body), body_len)
        e.hash = siphash13(self._table.seed0, self._table.seed1, entry_key(e), e.key_len)
        table_insert(&self._table, e)

    def get(self, bytes key, double now, bint stale=False):
        """The answer under *key* with its TTLs counted down. *stale*: also one whose time is over."""
        cdef int64_t now_ms = <int64_t>(now * 1000)
        cdef entry *e
        cdef int64_t elapsed
        cdef uint16_t i
        if PyBytes_GET_SIZE(key) > KEY_BYTES_MAX:
            return None
        e = table_find(&self._table, <const uint8_t *>PyBytes_AS_STRING(key), <uint16_t>PyBytes_GET_SIZE(key))
        if e == NULL:
            return None
        if e.expires_ms <= now_ms:
            if not self._keeps_stale or now_ms - e.expires_ms > STALE_MS_MAX:
                table_remove(&self._table, e)
                return None
            if not stale:
                return None
        table_touch(&self._table, e)
        elapsed = (now_ms - e.stored_ms) // 1000
        ttls = [
            (entry_ttls(e)[i].at, entry_ttls(e)[i].ttl - elapsed if entry_ttls(e)[i].ttl > elapsed else 0)
            for i in range(e.ttl_count)
        ]
        body = PyBytes_FromStringAndSize(<char *>entry_body(e), e.body_len)
        left = max(0, (e.expires_ms - now_ms) // 1000)
        return Answer(e.rcode, e.flags, e.ancount, e.nscount, body, ttls, left, bool(e.cuts_subtree))


cdef void table_remove(table *t, entry *e) noexcept nogil:
    cdef entry **place = &t.buckets[e.hash & t.mask]
    while place[0] != e:
        place = &place[0].next_in_bucket
    place[0] = e.next_in_bucket
    list_unlink(t, e)
    t.count -= 1
    t.bytes -= e.size
    free(e)


cdef void table_insert(table *t, entry *e) noexcept nogil:
    """Put *e*, whose key, sizes and hash are set, in place of its predecessor, and evict down to the caps."""
    cdef entry *old = table_find(t, entry_key(e), e.key_len)
    if old != NULL:
        table_remove(t, old)
    while t.oldest != NULL and (t.count >= t.entries_max or t.bytes + e.size > t.bytes_max):
        table_remove(t, t.oldest)
    e.next_in_bucket = t.buckets[e.hash & t.mask]
    t.buckets[e.hash & t.mask] = e
    list_push(t, e)
    t.count += 1
    t.bytes += e.size
