"""How many queries each client address may ask, so that one guest's flood is not every guest's outage."""

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.wire.siphash cimport siphash13

cdef enum:
    RATE_SETS = 256
    RATE_WAYS = 8
    RATE_BURST_MIN = 50
    PREFIX_SHARES = 16


@final
cdef class RateLimiter:
    """A token bucket for each client address; 0 queries a second means no limit.

    2048 addresses are known at a time, in sets of eight; the one that was quiet longest makes room. A guest can have
    many IPv6 addresses at once, so those of one /64 together get no more than PREFIX_SHARES of them would.
    """

    def __cinit__(self, double queries_per_s, bytes seed):
        if len(seed) != 16:
            raise ValueError("the seed is 16 bytes")
        memcpy(&self._seed0, PyBytes_AS_STRING(seed), 8)
        memcpy(&self._seed1, PyBytes_AS_STRING(seed) + 8, 8)
        self._per_ms = queries_per_s / 1000
        self._burst = max(queries_per_s / 10, RATE_BURST_MIN)
        memset(self._prefixes, 0, sizeof(self._prefixes))
        self._sets = <allowance *>calloc(RATE_SETS * RATE_WAYS, sizeof(allowance))
        if self._sets == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._sets)

    def allow(self, bytes guest, double now):
        """Whether the client with the (4 or 16 byte) address *guest* may ask one more."""
        cdef uint8_t address[16]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(guest)
        memset(address, 0, 16)
        memcpy(address, PyBytes_AS_STRING(guest), min(size, 16))
        return self.take(address, <int64_t>(now * 1000))

    cdef bint take(self, const uint8_t *address, int64_t now_ms) noexcept nogil:
        cdef uint8_t prefix[16]
        cdef allowance *ways
        if self._per_ms <= 0:
            return True
        ways = self._sets + (siphash13(self._seed0, self._seed1, address, 16) & (RATE_SETS - 1)) * RATE_WAYS
        if not spend(slot_of(ways, RATE_WAYS, address, self._burst), now_ms, self._per_ms, self._burst):
            return False
        if not is_ipv6(address):
            return True
        memset(prefix, 0, 16)
        memcpy(prefix, address, 8)
        return spend(
            slot_of(self._prefixes, PREFIXES_MAX, prefix, self._burst * PREFIX_SHARES),
            now_ms, self._per_ms * PREFIX_SHARES, self._burst * PREFIX_SHARES,
        )


cdef inline bint is_ipv6(const uint8_t *address) noexcept nogil:
    """An IPv4 address is the first four of the sixteen bytes, and zeros."""
    cdef int i
    for i in range(4, 16):
        if address[i]:
            return True
    return False


cdef inline allowance *slot_of(
    allowance *ways, int count, const uint8_t *address, double burst
) noexcept nogil:
    """The slot of *address* among *ways*, or the quietest one, made its own with a full bucket."""
    cdef allowance *quiet = ways
    cdef int i
    for i in range(count):
        if ways[i].last_ms and memcmp(ways[i].address, address, 16) == 0:
            return &ways[i]
        if ways[i].last_ms < quiet.last_ms:
            quiet = &ways[i]
    memcpy(quiet.address, address, 16)
    quiet.tokens = burst
    quiet.last_ms = 0
    return quiet


cdef inline bint spend(allowance *slot, int64_t now_ms, double per_ms, double burst) noexcept nogil:
    """Take one token of *slot*, which has refilled since it was last asked."""
    if slot.last_ms and now_ms > slot.last_ms:
        slot.tokens = min(burst, slot.tokens + (now_ms - slot.last_ms) * per_ms)
    slot.last_ms = now_ms
    if slot.tokens < 1:
        return False
    slot.tokens -= 1
    return True
