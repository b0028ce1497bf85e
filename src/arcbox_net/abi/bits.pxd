"""What processors do with the bits of a word in one instruction. Declarations only."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "bits.h" nogil:
    uint32_t abx_trailing_zeros_u64(uint64_t word)  # of a word that is not 0
    uint64_t abx_multiply_fold_u64(uint64_t a, uint64_t b)  # the 128-bit product's halves, one xor the other
    uint32_t abx_choose_u32(uint32_t condition, uint32_t yes, uint32_t no)  # *condition*, without a branch, is 0 or 1
