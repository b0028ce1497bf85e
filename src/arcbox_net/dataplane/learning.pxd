"""What a switch learns from its ports' frames, and hears from the other switches. Theory of operation: learning.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from arcbox_net.dataplane.binding cimport binding
from arcbox_net.dataplane.fdb cimport FDB_NEWS, FDB_OK, fdb_learn, fdb_result
from arcbox_net.dataplane.switch_state cimport switch_state


cdef void tell_mac(switch_state *s, uint64_t mac, uint16_t port) noexcept nogil
cdef void tell_owner(switch_state *s, const uint8_t *address, uint16_t port) noexcept nogil
cdef void learning_hear(switch_state *s) noexcept nogil


cdef inline fdb_result learn_mac(switch_state *s, const binding *b, uint64_t mac) noexcept nogil:
    """The port sent from *mac*: FDB_OK, or why that is not its own."""
    cdef fdb_result result = fdb_learn(&s.macs, mac, b.number, b.learned_max, s.now_s)
    if result == FDB_NEWS:
        tell_mac(s, mac, b.number)
        return FDB_OK
    return result
