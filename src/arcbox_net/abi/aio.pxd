"""Asynchronous I/O, for its way to signal an eventfd. Declarations only."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "linux/aio_abi.h" nogil:
    ctypedef unsigned long aio_context_t

    int IOCB_CMD_PREAD, IOCB_FLAG_RESFD

    struct iocb:
        uint16_t aio_lio_opcode
        uint32_t aio_fildes
        uint32_t aio_flags
        uint32_t aio_resfd

    struct io_event:
        int64_t res


cdef extern from "sys/syscall.h" nogil:
    long SYS_io_setup, SYS_io_submit, SYS_io_getevents


cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)
