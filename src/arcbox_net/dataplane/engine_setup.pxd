"""From a `NatEngineConfig` to an engine's state, and back to free memory."""

from libc.stdint cimport uint64_t

from arcbox_net.dataplane.engine_state cimport nat_engine, nat_settings
from arcbox_net.dataplane.conntrack cimport flow_timeouts
from arcbox_net.dataplane.mapping cimport mapping_config

cdef int engine_make(nat_engine *engine, config) except -1
cdef void engine_free(nat_engine *engine) noexcept nogil
cdef int setup_settings(nat_settings *settings, config, const uint64_t *machine_seed) except -1
cdef void setup_answers(nat_engine *engine) noexcept nogil
cdef int setup_timeouts(flow_timeouts *timeouts, config) except -1
cdef int setup_mappings(nat_engine *engine, mapping_config *mappings, config) except -1
