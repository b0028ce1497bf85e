"""Builds what reach.pxd reads: the host's addresses and published ports in one block of memory."""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.relay.reach cimport REACH_TCP, REACH_UDP, reach_policy, reach_port

import ipaddress


cdef class Policy:
    """A block of memory with a reach_policy and its tables, until a worker takes it over."""

    def __dealloc__(self):
        free(self.raw)


cdef bytes packed_address(address):
    """*address* as the relay holds it; a zone is left out."""
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    return bytes(10) + b"\xff\xff" + packed if len(packed) == 4 else packed


cdef list port_list(ports):
    """(packed address, port) of each, checked."""
    for address, l4_port in ports:
        if not 1 <= l4_port <= 65535:
            raise ValueError(f"port {l4_port} of {address}: expected 1 to 65535")
    return [(packed_address(address), l4_port) for address, l4_port in ports]


cdef Policy make_policy(list addresses, tuple ports):
    """The host's packed *addresses*, and lists of its published ports by REACH_TCP and REACH_UDP."""
    cdef Policy policy = Policy()
    cdef reach_port *entry
    cdef bytes packed
    cdef char *at
    cdef Py_ssize_t k
    cdef int protocol
    addresses = sorted(set(addresses))
    policy.raw = <reach_policy *>calloc(
        1,
        sizeof(reach_policy)
        + <size_t>(len(ports[REACH_TCP]) + len(ports[REACH_UDP])) * sizeof(reach_port)
        + <size_t>len(addresses) * ADDRESS_BYTES,
    )
    if policy.raw == NULL:
        raise MemoryError
    at = <char *>policy.raw + sizeof(reach_policy)
    for protocol in (REACH_TCP, REACH_UDP):
        policy.raw.ports[protocol] = <reach_port *>at
        policy.raw.port_counts[protocol] = <uint32_t>len(ports[protocol])
        for k, (packed, l4_port) in enumerate(ports[protocol]):
            entry = &policy.raw.ports[protocol][k]
            memcpy(entry.address, <const char *>packed, ADDRESS_BYTES)
            entry.l4_port = <uint16_t>l4_port
        at += len(ports[protocol]) * sizeof(reach_port)
    policy.raw.addresses = <unsigned char *>at
    policy.raw.address_count = <uint32_t>len(addresses)
    for k, packed in enumerate(addresses):
        memcpy(at + k * ADDRESS_BYTES, <const char *>packed, ADDRESS_BYTES)
    return policy
