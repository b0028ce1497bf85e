"""How Linux schedules a thread, and how late its timers may be. Declarations only."""


cdef extern from "sched.h" nogil:
    struct sched_param:
        int sched_priority

    int SCHED_BATCH
    int SCHED_OTHER
    int sched_getscheduler(int thread)
    int sched_setscheduler(int thread, int policy, const sched_param *param)  # thread 0: the caller
    int sched_yield()


cdef extern from "sys/prctl.h" nogil:
    int PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)
