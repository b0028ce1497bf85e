"""Owns the buffers that frames live in: their memory, the depot between caches, and the balance.

Theory of operation. A free buffer is in a cache or in the depot; a held one is in neither. A cache is a stack: what
was released last is acquired first, and is still in the processor's cache. An empty cache takes a chain of up to a
magazine of buffers from the depot, a full one puts its older half there as a chain. Chains are linked by index in
`pool_slot`s, so the depot needs no memory of its own, and can hold any number of them. The depot's top is changed by
compare-and-swap; a thread that was overtaken may read a stale `below`, but then the tag has changed and it tries again.
Buffers can be mapped by another process (`fd`), which reads and writes frames; the bookkeeping is not in that memory.
Debug builds fill released buffers with POISON and look at it when they are acquired again.
"""

from cython cimport no_gc_clear
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset
from posix.stdlib cimport posix_memalign

from arcbox_net.abi.atomics cimport (
    abx_add_relaxed_u64, abx_compare_exchange_u64, abx_exchange_u32, abx_load_acquire_u64, abx_load_relaxed_u32,
    abx_load_relaxed_u64, abx_store_relaxed_u32, abx_store_relaxed_u64,
)

from arcbox_net.errors import ConfigError, LimitReached, PoolUnbalanced
from arcbox_net.memory.shared import SharedMemory

cdef enum:
    POISON = 0xA5
    CACHE_LINES_BYTES = 128  # two lines: the prefetcher fetches them in pairs

cdef enum:  # pool_slot.state
    BUFFER_UNUSED = 0  # never acquired: without poison, so that it needs no page yet
    BUFFER_FREE = 1
    BUFFER_HELD = 2

CLASSES = ("small", "large")


cdef bint pool_refill(pool_cache *cache, uint32_t size_class) noexcept nogil:
    cdef pool_depot *depot = &cache.pool.depots[size_class]
    cdef pool_slot *slots = cache.pool.classes[size_class].slots
    cdef pool_stack *stack = &cache.stacks[size_class]
    cdef uint64_t top = abx_load_acquire_u64(&depot.top)
    cdef uint64_t below
    cdef uint32_t buffer, count, i
    while True:
        if <uint32_t>top == 0:
            abx_store_relaxed_u64(&stack.exhausted, stack.exhausted + 1)
            return False
        below = abx_load_relaxed_u32(&slots[<uint32_t>top - 1].below)
        if abx_compare_exchange_u64(&depot.top, &top, ((top >> 32) + 1) << 32 | below):
            break
    buffer = <uint32_t>top - 1
    count = slots[buffer].count
    abx_add_relaxed_u64(&depot.count, -<uint64_t>count)
    # The chain's first is acquired first: it was released last.
    for i in range(count):
        stack.buffers[count - 1 - i] = buffer
        buffer = slots[buffer].next
    abx_store_relaxed_u32(&stack.count, count)
    return True


cdef void pool_spill(pool_cache *cache, uint32_t size_class) noexcept nogil:
    """Move the oldest buffers, a magazine at most, to the depot."""
    cdef pool_stack *stack = &cache.stacks[size_class]
    cdef uint32_t count = min(stack.count, stack.magazine)
    if count == 0:
        return
    _push_chain(cache.pool, size_class, stack.buffers, count)
    memmove(stack.buffers, &stack.buffers[count], (stack.count - count) * sizeof(uint32_t))
    abx_store_relaxed_u32(&stack.count, stack.count - count)


cdef void _push_chain(packet_pool *pool, uint32_t size_class, const uint32_t *buffers, uint32_t count) noexcept nogil:
    """Give the depot *buffers*, of which the last is to be acquired first."""
    cdef pool_depot *depot = &pool.depots[size_class]
    cdef pool_slot *slots = pool.classes[size_class].slots
    cdef uint32_t first = buffers[count - 1]
    cdef uint64_t top = abx_load_acquire_u64(&depot.top)
    cdef uint32_t i
    for i in range(1, count):
        slots[buffers[i]].next = buffers[i - 1]
    slots[first].count = count
    while True:
        abx_store_relaxed_u32(&slots[first].below, <uint32_t>top)
        if abx_compare_exchange_u64(&depot.top, &top, ((top >> 32) + 1) << 32 | (first + 1)):
            break
    abx_add_relaxed_u64(&depot.count, count)


cdef uint8_t *_buffer(packet_pool *pool, uint32_t size_class, uint32_t index) noexcept nogil:
    if size_class == POOL_SMALL:
        return pool.base + <size_t>index * SMALL_STRIDE
    return pool.base_large + <size_t>index * LARGE_STRIDE


cdef uint32_t _stride(uint32_t size_class) noexcept nogil:
    return SMALL_STRIDE if size_class == POOL_SMALL else LARGE_STRIDE


cdef void pool_check_acquired(packet_pool *pool, uint32_t size_class, uint32_t index) noexcept nogil:
    cdef const uint8_t *buffer = _buffer(pool, size_class, index)
    cdef uint32_t i
    if abx_exchange_u32(&pool.classes[size_class].slots[index].state, BUFFER_HELD) != BUFFER_FREE:
        return
    for i in range(_stride(size_class)):
        if buffer[i] != POISON:
            abx_add_relaxed_u64(&pool.overwritten, 1)
            return


cdef bint pool_check_released(packet_pool *pool, uint32_t size_class, uint32_t index) noexcept nogil:
    """Whether the buffer was held; then it is poisoned."""
    if abx_exchange_u32(&pool.classes[size_class].slots[index].state, BUFFER_FREE) != BUFFER_HELD:
        abx_add_relaxed_u64(&pool.double_releases, 1)
        return False
    memset(_buffer(pool, size_class, index), POISON, _stride(size_class))
    return True


cdef pool_cache *_cache_open(packet_pool *pool) except NULL:
    cdef void *memory
    cdef pool_cache *cache
    cdef int i, size_class
    for i in range(CACHES_MAX):
        if pool.caches[i] == NULL:
            break
    else:
        raise LimitReached(f"a pool has at most {CACHES_MAX} caches", limit="caches", value=CACHES_MAX)
    if posix_memalign(&memory, CACHE_LINES_BYTES, sizeof(pool_cache)):
        raise MemoryError
    memset(memory, 0, sizeof(pool_cache))
    cache = <pool_cache *>memory
    cache.pool = pool
    for size_class in range(POOL_CLASSES):
        cache.stacks[size_class].magazine = pool.classes[size_class].magazine
    pool.caches[i] = cache
    return cache


cdef void _cache_close(pool_cache *cache) noexcept:
    cdef packet_pool *pool = cache.pool
    cdef int i, size_class
    for size_class in range(POOL_CLASSES):
        pool_spill(cache, size_class)
        pool_spill(cache, size_class)  # it holds up to two magazines
        pool.exhausted[size_class] += cache.stacks[size_class].exhausted
    for i in range(CACHES_MAX):
        if pool.caches[i] == cache:
            pool.caches[i] = NULL
    free(cache)


cdef class PacketPool:
    """Preallocated buffers for frames, *small* of 2,048 and *large* of 69,632 bytes each, in memory that can be shared.

    Python code takes buffers by way of a `FrameBatch`. `fd` is a memfd that another process may map to read and write
    the frames at `FrameBatch.offset`; it is trusted as this one is, for what it writes into a frame that is being
    translated is not checked again. With *touch* every page is there at once; with *huge_pages* 2 MiB pages are asked
    for. Raises ConfigError for counts outside of 0 to 1,048,576 (or none at all), KernelError if memory is short.
    """

    def __cinit__(self, small=4096, large=64, *, touch=False, huge_pages=True):
        counts = (small, large)
        for name, value in zip(CLASSES, counts, strict=True):
            if not 0 <= value <= POOL_BUFFERS_MAX:
                raise ConfigError(f"{name}: {value} buffers, expected 0 to {POOL_BUFFERS_MAX}", field=name, value=value)
        if not any(counts):
            raise ConfigError("a pool without buffers", field="small", value=0)
        self.memory = SharedMemory.create("arcbox-net-pool", small * SMALL_STRIDE + large * LARGE_STRIDE)
        if huge_pages:
            self.memory.advise_huge_pages()
        if touch:
            self.memory.touch()
        self._lay_out(counts)
        self.own = _cache_open(self.pool)

    cdef int _lay_out(self, tuple counts) except -1:
        cdef void *memory
        cdef pool_class *each
        cdef int size_class
        if posix_memalign(&memory, CACHE_LINES_BYTES, sizeof(packet_pool)):
            raise MemoryError
        self.pool = <packet_pool *>memory
        memset(memory, 0, sizeof(packet_pool))
        self.pool.base = self.memory.base
        self.pool.base_large = self.memory.base + <size_t>counts[POOL_SMALL] * SMALL_STRIDE
        self.pool.end = self.memory.base + self.memory.size
        for size_class in range(POOL_CLASSES):
            each = &self.pool.classes[size_class]
            each.count = counts[size_class]
            # A cache may hold two magazines back from the other threads: of few buffers, small magazines.
            each.magazine = max(1, min(MAGAZINE_MAX, each.count // 8))
            each.slots = <pool_slot *>calloc(max(1, each.count), sizeof(pool_slot))
            if each.slots == NULL:
                raise MemoryError
            self._fill_depot(size_class)
        return 0

    cdef void _fill_depot(self, uint32_t size_class) noexcept:
        """Chain all buffers up so that the lowest are acquired first."""
        cdef pool_class *each = &self.pool.classes[size_class]
        cdef uint32_t chain[MAGAZINE_MAX]
        cdef uint32_t count, i
        cdef uint32_t above = each.count
        while above > 0:
            count = min(above, each.magazine)
            for i in range(count):
                chain[i] = above - 1 - i
            _push_chain(self.pool, size_class, chain, count)
            above -= count

    def __dealloc__(self):
        cdef int i
        if self.pool == NULL:
            return
        for i in range(CACHES_MAX):
            free(self.pool.caches[i])
        for i in range(POOL_CLASSES):
            free(self.pool.classes[i].slots)
        free(self.pool)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # An error that leaves the block is the one to see, not the buffers that it left behind.
        if error is None:
            self.close()
        return None

    def close(self):
        """Check the balance. Raises PoolUnbalanced while a buffer is held, or when one was misused (a release of what
        is no buffer; in debug builds a second release, or a write after it). The memory goes with the last reference.
        """
        facts = self._misuse()
        facts["held"] = sum(self._held(size_class) for size_class in range(POOL_CLASSES))
        wrong = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in facts.items() if value)
        if wrong:
            raise PoolUnbalanced(f"pool: {wrong}", fix="clear or release every batch before the pool", **facts)
        self.closed = True

    @property
    def fd(self):
        """The memfd that holds the buffers."""
        return self.memory.fd

    @property
    def size(self):
        """Bytes of shared memory."""
        return self.memory.size

    def stats(self):
        """For each size class: buffers, how many are held, how often none was left; and the kinds of misuse."""
        classes = {
            name: {
                "buffers": self.pool.classes[size_class].count,
                "held": self._held(size_class),
                "exhausted": self._exhausted(size_class),
            }
            for size_class, name in enumerate(CLASSES)
        }
        return classes | self._misuse()

    cdef dict _misuse(self):
        return {
            "foreign_releases": abx_load_relaxed_u64(&self.pool.foreign_releases),
            "double_releases": abx_load_relaxed_u64(&self.pool.double_releases),
            "overwritten": abx_load_relaxed_u64(&self.pool.overwritten),
        }

    cdef uint64_t _held(self, uint32_t size_class):
        cdef uint64_t at_rest = abx_load_relaxed_u64(&self.pool.depots[size_class].count)
        cdef int i
        for i in range(CACHES_MAX):
            if self.pool.caches[i] != NULL:
                at_rest += abx_load_relaxed_u32(&self.pool.caches[i].stacks[size_class].count)
        # Buffers that move between a cache and the depot just now may count twice.
        return self.pool.classes[size_class].count - min(at_rest, self.pool.classes[size_class].count)

    cdef uint64_t _exhausted(self, uint32_t size_class):
        cdef uint64_t count = self.pool.exhausted[size_class]
        cdef int i
        for i in range(CACHES_MAX):
            if self.pool.caches[i] != NULL:
                count += abx_load_relaxed_u64(&self.pool.caches[i].stacks[size_class].exhausted)
        return count


@no_gc_clear  # its buffers go back to a pool that must still be there
cdef class PoolCache:
    """The stock of one thread that takes and gives buffers of *pool* without the GIL."""

    def __cinit__(self, PacketPool pool not None):
        self.owner = pool
        self.cache = _cache_open(pool.pool)

    def __dealloc__(self):
        if self.cache != NULL:
            _cache_close(self.cache)
