/* Atomic loads and stores on plain integers: counters one thread writes and others read. */
#ifndef ARCBOX_NET_ATOMICS_H
#define ARCBOX_NET_ATOMICS_H

#include <stdint.h>

static inline uint64_t abx_load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void abx_store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

#endif
