/* What processors do with the bits of a word in one instruction. */
#ifndef ARCBOX_NET_BITS_H
#define ARCBOX_NET_BITS_H

#include <stdint.h>

/* word must not be 0 */
static inline uint32_t abx_trailing_zeros_u64(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }

/* Both halves of the 128-bit product in one word: every bit of it depends on both factors. */
static inline uint64_t abx_multiply_fold_u64(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Without a branch: for conditions that nobody can foretell. *condition* is 0 or 1. */
static inline uint32_t abx_choose_u32(uint32_t condition, uint32_t yes, uint32_t no) {
    return no ^ ((no ^ yes) & (0 - condition));
}

#endif
