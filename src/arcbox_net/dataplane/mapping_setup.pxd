"""A table of mappings from its configuration, at first and whenever that changes."""

from arcbox_net.dataplane.mapping cimport mapping_config, mapping_table


cdef bint mapping_init(mapping_table *table, const mapping_config *config) noexcept nogil
cdef void mapping_free(mapping_table *table) noexcept nogil
cdef bint mapping_reconfigure(mapping_table *table, const mapping_config *config) noexcept nogil
