"""Mutex, condition variable and thread ids, usable without the GIL. Declarations only."""

from libc.stdint cimport uint32_t


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


cdef extern from "sched.h" nogil:
    int sched_yield()


cdef extern from "thread_ids.h" nogil:
    uint32_t abx_thread_id()  # 0: this system cannot say whether a thread has ended
    bint abx_thread_has_ended(uint32_t thread)
