"""A guest whose memory and virtqueues we have. The struct is in vhost_port.pxd."""

from arcbox_net.dataplane.port cimport Port


cdef class VhostUserPort(Port):
    pass
