"""A receiver without decisions, for tests and benchmarks: all frames of one port go to another, as by a wire."""

from libc.errno cimport EINVAL
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc

from arcbox_net.dataplane.port cimport (
    PORT_DROP_NOWHERE, PORT_NONE, PORTS_MAX, Receiver, port, port_drop, port_frame, port_message, receiver,
)
from arcbox_net.dataplane.port_send cimport port_send
from arcbox_net.memory.frame cimport BURST_MAX

cdef enum:
    MESSAGE_LEAD = 100  # payload: the number of the destination, 16 bits


cdef void _burst(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil:
    cdef port_frame *each[BURST_MAX]
    cdef uint16_t to = (<patch *>self).to[source.number]
    cdef port *destination = NULL if to == PORT_NONE else source.owner.ports[to]
    cdef uint32_t i
    if destination == NULL:
        port_drop(source, PORT_DROP_NOWHERE, count)
        return
    for i in range(count):
        each[i] = &frames[i]
    port_send(destination, each, count)


cdef int _message(receiver *self, port *source, const port_message *message) noexcept nogil:
    cdef uint16_t to = (<const uint16_t *>message.payload)[0]
    if message.kind != MESSAGE_LEAD or message.size != sizeof(to) or (to >= PORTS_MAX and to != PORT_NONE):
        return -EINVAL
    (<patch *>self).to[source.number] = to
    return 0


cdef class Patch(Receiver):
    """A wire from each port to another. One worker's ports share it."""

    def __cinit__(self):
        cdef patch *made = <patch *>calloc(1, sizeof(patch))
        cdef int number
        if made == NULL:
            raise MemoryError
        self.base = &made.base
        made.base.burst = _burst
        made.base.message = _message
        for number in range(PORTS_MAX):
            made.to[number] = PORT_NONE

    def lead(self, worker, source, uint16_t destination):
        """From now on the port at *destination* sends what the port at *source* receives."""
        worker.send(source, MESSAGE_LEAD, (<char *>&destination)[: sizeof(destination)])
