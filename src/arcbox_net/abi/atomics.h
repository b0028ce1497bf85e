/* Atomic operations on plain integers, of our own memory or of memory that another process shares with us. */
#ifndef ARCBOX_NET_ATOMICS_H
#define ARCBOX_NET_ATOMICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A counter that one thread writes and others read. */
static inline uint64_t abx_load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void abx_store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint32_t abx_load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void abx_store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* What was written before the store is seen by who loads the stored value. */
static inline uint64_t abx_load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void abx_store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* Several writers. */
static inline void abx_add_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline uint32_t abx_exchange_u32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline bool abx_compare_exchange_u64(uint64_t *p, uint64_t *expected, uint64_t v) {
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Indexes of a virtqueue: two writers that do not trust each other. */
static inline uint16_t abx_load_relaxed_u16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void abx_store_relaxed_u16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint16_t abx_load_acquire_u16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void abx_store_release_u16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* What was stored before is seen by the other side before what is loaded afterwards is read here. */
static inline void abx_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* A copy of what somebody else may write at any time, read once: the compiler cannot go back for a second look. */
static inline void abx_snapshot(void *copy, const void *source, size_t size) {
    memcpy(copy, source, size);
    __asm__ volatile("" ::: "memory");
}

/* In a loop that waits for another thread: leave the core's units to its sibling. */
static inline void abx_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
