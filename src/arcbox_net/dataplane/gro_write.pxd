"""Super-frames out of what gro.pyx found to belong together."""

from arcbox_net.dataplane.gro cimport gro_burst
from arcbox_net.dataplane.gro_search cimport gro_search


cdef void gro_write(gro_burst *burst, gro_search *search) noexcept nogil
