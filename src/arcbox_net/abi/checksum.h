/* Sums of 16-bit words for the Internet checksum (RFC 1071), with vectors as wide as the CPU has.

   A sum is of words in the order that they have in memory; it grows by at most 2^62 for 2^32 bytes. The kernels are
   one loop, written with the compiler's vectors: 16 bytes are SSE2, NEON, or whatever else the target has. */
#ifndef ARCBOX_NET_CHECKSUM_H
#define ARCBOX_NET_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ABX_SUM_LONG 64      /* from here on the vectors pay for the call */
#define ABX_SUM_ALIGNED 1024 /* from here on it pays to load no vector from two cache lines */

typedef uint64_t (*abx_sum_kernel)(uint64_t total, const uint8_t *p, size_t size);

static inline uint64_t abx_sum_scalar(uint64_t total, const uint8_t *p, size_t size) {
    uint32_t word;
    uint16_t half = 0;
    for (; size >= 4; p += 4, size -= 4) {
        memcpy(&word, p, 4);
        total += word;
    }
    if (size & 2) {
        memcpy(&half, p, 2);
        total += half;
        p += 2;
        half = 0;
    }
    memcpy(&half, p, size & 1); /* the last byte of an odd number is the first of its word */
    return total + half;
}

/* A lane of `all` is the sum of its 64-bit words modulo 2^64 and one of `high` that of their upper halves, from which
   the sum of the lower halves follows: three operations for a vector, and no carry is lost. */
#define ABX_SUM_KERNEL(NAME, BYTES, TARGET)                                                                        \
    TARGET static uint64_t NAME(uint64_t total, const uint8_t *p, size_t size) {                                   \
        typedef uint64_t lanes __attribute__((vector_size(BYTES)));                                                \
        typedef uint64_t loose __attribute__((vector_size(BYTES), aligned(1), may_alias));                         \
        lanes all[4] = {{0}, {0}, {0}, {0}}, high[4] = {{0}, {0}, {0}, {0}}, word;                                 \
        size_t i, head = -(uintptr_t)p % BYTES;                                                                    \
        if (size >= ABX_SUM_ALIGNED && head % 2 == 0) {                                                            \
            total = abx_sum_scalar(total, p, head);                                                                \
            p += head, size -= head;                                                                               \
        }                                                                                                          \
        for (; size >= 4 * BYTES; p += 4 * BYTES, size -= 4 * BYTES) {                                             \
            word = *(const loose *)p, all[0] += word, high[0] += word >> 32;                                       \
            word = *(const loose *)(p + BYTES), all[1] += word, high[1] += word >> 32;                             \
            word = *(const loose *)(p + 2 * BYTES), all[2] += word, high[2] += word >> 32;                         \
            word = *(const loose *)(p + 3 * BYTES), all[3] += word, high[3] += word >> 32;                         \
        }                                                                                                          \
        for (; size >= BYTES; p += BYTES, size -= BYTES)                                                           \
            word = *(const loose *)p, all[0] += word, high[0] += word >> 32;                                       \
        all[0] += all[1] + all[2] + all[3];                                                                        \
        high[0] += high[1] + high[2] + high[3];                                                                    \
        all[0] += high[0] - (high[0] << 32);                                                                       \
        for (i = 0; i < BYTES / 8; i++)                                                                            \
            total += all[0][i];                                                                                    \
        return abx_sum_scalar(total, p, size);                                                                     \
    }

ABX_SUM_KERNEL(abx_sum_16, 16, )
#ifdef __x86_64__
ABX_SUM_KERNEL(abx_sum_32, 32, __attribute__((target("avx2"))))
ABX_SUM_KERNEL(abx_sum_64, 64, __attribute__((target("avx512f"))))
#endif

/* The kernel whose vectors have *bytes* bytes, NULL when this CPU has none. */
static inline abx_sum_kernel abx_sum_find(int bytes) {
    if (bytes == 4)
        return abx_sum_scalar;
    if (bytes == 16)
        return abx_sum_16;
#ifdef __x86_64__
    __builtin_cpu_init();
    if (bytes == 32 && __builtin_cpu_supports("avx2"))
        return abx_sum_32;
    if (bytes == 64 && __builtin_cpu_supports("avx512f"))
        return abx_sum_64;
#endif
    return NULL;
}

static abx_sum_kernel abx_sum_long = abx_sum_16;

/* When the module is loaded. Before Ice Lake, which has VBMI2, 64-byte vectors lowered the clock of the core. */
__attribute__((constructor)) static void abx_sum_choose(void) {
#ifdef __x86_64__
    if (abx_sum_find(32))
        abx_sum_long = abx_sum_32;
    if (abx_sum_find(64) && __builtin_cpu_supports("avx512vbmi2"))
        abx_sum_long = abx_sum_64;
#endif
}

#endif
