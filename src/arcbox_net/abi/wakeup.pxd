"""One thread wakes another by a descriptor, on every system: see wakeup.h. Declarations only."""


cdef extern from "wakeup.h" nogil:
    struct abx_wakeup:
        int wait_fd  # readable after a signal, until it is cleared
        int signal_fd  # may be the same

    int abx_wakeup_open(abx_wakeup *wakeup)
    void abx_wakeup_signal(int signal_fd)
    void abx_wakeup_clear(int wait_fd)
    void abx_wakeup_heard(int wait_fd)  # after each edge of it that a poller told
