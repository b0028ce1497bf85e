"""The router as its worker sees it: a port of the switch, and a receiver for the uplink."""

from arcbox_net.dataplane.engine cimport NatEngine
from arcbox_net.dataplane.port cimport Port, Receiver
from arcbox_net.dataplane.router_state cimport router, router_receiver


cdef class Router(Port):
    cdef router *state
    cdef readonly NatEngine engine


cdef class Side(Receiver):
    cdef object of  # the router, which it keeps
    cdef router_receiver *state
