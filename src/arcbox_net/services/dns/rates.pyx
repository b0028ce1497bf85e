"""How many queries each client address may ask, so that one guest's flood is not every guest's outage."""

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.services.dns.siphash cimport siphash13

cdef enum:
    RATE_SETS = 256
    RATE_WAYS = 8
    RATE_BURST_MIN = 50


@final
cdef class RateLimiter:
    """A token bucket for each client address; 0 queries a second means no limit.

    2048 addresses are known at a time, in sets of eight; the one that was quiet longest makes room.
    """

    def __cinit__(self, double queries_per_s, bytes seed):
        if len(seed) != 16:
            raise ValueError("the seed is 16 bytes")
        memcpy(&self._seed0, PyBytes_AS_STRING(seed), 8)
        memcpy(&self._seed1, PyBytes_AS_STRING(seed) + 8, 8)
        self._per_ms = queries_per_s / 1000
        self._burst = max(queries_per_s / 10, RATE_BURST_MIN)
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
        cdef allowance *slot
        cdef allowance *quiet
        cdef allowance *ways
        cdef int i
        if self._per_ms <= 0:
            return True
        ways = self._sets + (siphash13(self._seed0, self._seed1, address, 16) & (RATE_SETS - 1)) * RATE_WAYS
        quiet = ways
        slot = NULL
        for i in range(RATE_WAYS):
            if ways[i].last_ms and memcmp(ways[i].address, address, 16) == 0:
                slot = &ways[i]
                break
            if ways[i].last_ms < quiet.last_ms:
                quiet = &ways[i]
        if slot == NULL:
            slot = quiet
            memcpy(slot.address, address, 16)
            slot.tokens = self._burst
        elif now_ms > slot.last_ms:
            slot.tokens = min(self._burst, slot.tokens + (now_ms - slot.last_ms) * self._per_ms)
        slot.last_ms = now_ms
        if slot.tokens < 1:
            return False
        slot.tokens -= 1
        return True
