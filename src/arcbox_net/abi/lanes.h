/* Four 32-bit words at a time. */
#ifndef ARCBOX_NET_LANES_H
#define ARCBOX_NET_LANES_H

#include <stdint.h>
#include <string.h>

/* Which of the four words have the bits of `mask` as `wanted` has them, a bit for each. */
static inline uint32_t abx_lanes_match(const uint32_t *words, uint32_t wanted, uint32_t mask) {
#ifdef __SSE2__
    typedef uint32_t lanes __attribute__((vector_size(16)));
    typedef float signs __attribute__((vector_size(16)));
    lanes all;
    memcpy(&all, words, sizeof(all));
    return (uint32_t)__builtin_ia32_movmskps((signs)(((all ^ wanted) & mask) == 0));
#else
    uint32_t matches = 0;
    for (int i = 0; i < 4; i++)
        matches |= (uint32_t)(((words[i] ^ wanted) & mask) == 0) << i;
    return matches;
#endif
}

#endif
