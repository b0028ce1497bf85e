"""The table of flows that tests and benchmarks drive."""

from arcbox_net.dataplane.conntrack cimport conntrack


cdef class Table:
    cdef conntrack table
    cdef readonly list gone
