/* What processors do with the bits of a word in one instruction. */
#ifndef ARCBOX_NET_BITS_H
#define ARCBOX_NET_BITS_H

#include <stdint.h>

/* word must not be 0 */
static inline uint32_t abx_trailing_zeros_u64(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }

#endif
