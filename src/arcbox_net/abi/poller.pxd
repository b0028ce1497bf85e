"""Waiting for many descriptors, on every system: see poller.h. Declarations only."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "poller.h" nogil:
    ctypedef struct abx_poll_event:
        pass

    const uint32_t POLL_READ "ABX_POLL_READ"
    const uint32_t POLL_WRITE "ABX_POLL_WRITE"
    const uint32_t POLL_END "ABX_POLL_END"  # no more comes from the far end
    const uint32_t POLL_BROKEN "ABX_POLL_BROKEN"  # failed or hung up; comes without being asked for
    const uint32_t POLL_EDGE "ABX_POLL_EDGE"  # when something happens, not as long as it is so

    uint64_t abx_poll_token(const abx_poll_event *event)
    uint32_t abx_poll_events(const abx_poll_event *event)

    int abx_poller_open()
    int abx_poller_watch(int poller, int fd, uint32_t events, uint64_t token)
    int abx_poller_change(int poller, int fd, uint32_t events, uint64_t token)
    void abx_poller_forget(int poller, int fd)
    int abx_poller_wait(int poller, abx_poll_event *events, int count, int timeout_ms)
