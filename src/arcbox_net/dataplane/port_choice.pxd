"""Which external address and port a guest gets; and giving ports back to everybody."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.mapping cimport mapping_table


cdef uint8_t freest_external(const mapping_table *table, uint32_t inside_ip_be) noexcept nogil
cdef uint32_t place_for(
    mapping_table *table, uint32_t number, uint16_t id, uint16_t inside_port, uint32_t now_s, uint8_t *why
) noexcept nogil
cdef uint32_t holds_end(mapping_table *table, uint32_t number, uint32_t now_s, uint32_t budget) noexcept nogil
cdef void hold_release(mapping_table *table, uint32_t number, uint32_t place) noexcept nogil
cdef void port_uncount(mapping_table *table, uint16_t id, uint32_t space) noexcept nogil
