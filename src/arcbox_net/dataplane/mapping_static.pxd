"""Mappings that the operator made: forwards of one external port or of a range of them to a guest's.

Adding and removing are bounded by *count*: a caller that wants many ports of a running engine does them in steps.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.mapping cimport mapping_table

cdef enum static_result:
    STATIC_DONE = 0
    STATIC_NO_EXTERNAL = 1  # the address is none of ours
    STATIC_BAD_RANGE = 2  # port 0, or beyond 65535
    STATIC_PORT_TAKEN = 3
    STATIC_GUESTS_FULL = 4
    STATIC_MAPPINGS_FULL = 5

# Ports are numbers here, not as they lie in a header. *taken* gets the mapping that is in the way of
# STATIC_PORT_TAKEN; whatever the result but STATIC_DONE, nothing was added.
cdef static_result mapping_add_static(
    mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port, uint32_t inside_ip_be,
    uint16_t inside_port, uint32_t count, uint32_t *taken
) noexcept nogil
# What other mappings the *count* endpoints have, a forward's first, is theirs again, if they have none now.
cdef void mapping_find_again(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port, uint32_t count
) noexcept nogil
# Static ones among the *count* ports from *external_port* on; the number removed. Their flows stay.
cdef uint32_t mapping_remove_static(
    mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port, uint32_t count,
    uint32_t now_s
) noexcept nogil
