"""Mutex, condition variable and thread ids, usable without the GIL. Declarations only."""


cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

    ctypedef struct pthread_cond_t:
        pass

    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_cond_broadcast(pthread_cond_t *condition)


cdef extern from "unistd.h" nogil:
    int gettid()


cdef extern from "sched.h" nogil:
    struct sched_param:
        int sched_priority

    int SCHED_BATCH
    int SCHED_OTHER
    int sched_yield()
    int sched_getscheduler(int thread)
    int sched_setscheduler(int thread, int policy, const sched_param *param)  # thread 0: the caller


cdef extern from "signal.h" nogil:
    int kill(int thread, int number)  # number 0: whether there is such a process or thread
