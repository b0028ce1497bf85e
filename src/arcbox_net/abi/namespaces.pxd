"""Entering a namespace. Declarations only."""


cdef extern from "sched.h" nogil:
    int CLONE_NEWNET

    int setns(int fd, int kind)
