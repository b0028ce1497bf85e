/* Atomic operations on plain integers, of our own memory or of memory that another process shares with us. */
#ifndef ARCBOX_NET_ATOMICS_H
#define ARCBOX_NET_ATOMICS_H

#include <stdbool.h>
#include <stdint.h>

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

/* In a loop that waits for another thread: leave the core's units to its sibling. */
static inline void abx_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
