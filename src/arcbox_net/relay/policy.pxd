"""What guests may reach, as Python gives it and workers take it over; policy.pyx builds it."""

from arcbox_net.relay.reach cimport reach_policy


cdef class Policy:
    cdef reach_policy *raw


cdef bytes packed_address(address)
cdef list port_list(ports)
cdef Policy make_policy(list addresses, tuple ports)
