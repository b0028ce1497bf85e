"""What tests need of the UDP part that has no Python face."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.relay.datagrams cimport relay_datagrams
from arcbox_net.relay.door cimport DOOR_FRAME_BYTES, IPV4_DOOR, IPV6_DOOR, address_to_name, relay_door
from arcbox_net.abi.socket cimport sockaddr_in6
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.relay.fragments cimport (
    FRAGMENT_DROPPED, FRAGMENT_JOINED, fragment_table, fragment_verdict, fragments_join, fragments_prepare,
    fragments_release,
)
from arcbox_net.relay.super_frame cimport super_frame, super_frame_write


def join(list frames):
    """What `fragments_join` makes of each frame, one after the other: False, None while it waits, or a packet."""
    cdef fragment_table table
    cdef uint8_t copy[DOOR_FRAME_BYTES]
    cdef uint8_t *whole = NULL
    cdef size_t size = 0
    cdef fragment_verdict verdict
    if not fragments_prepare(&table):
        raise MemoryError
    found = []
    for frame in frames:
        if len(frame) > DOOR_FRAME_BYTES:
            raise ValueError(f"{len(frame)} bytes: a frame has at most {DOOR_FRAME_BYTES}")
        memcpy(copy, <const uint8_t *><bytes>frame, len(frame))
        verdict = fragments_join(&table, copy, len(frame), &whole, &size)
        if verdict == FRAGMENT_JOINED:
            found.append((<const char *>whole)[:size])
        else:
            found.append(False if verdict == FRAGMENT_DROPPED else None)
    fragments_release(&table)
    return found


def write(int fd, bytes guest, bytes peer, tuple ports, list pieces, int segment, int mtu, bint super_refused=False):
    """Write *pieces* of one peer to the guest through *fd*: addresses of 16 bytes, the guest's port and the peer's."""
    cdef relay_door *door = <relay_door *>calloc(1, sizeof(relay_door))
    cdef relay_datagrams *d = <relay_datagrams *>calloc(1, sizeof(relay_datagrams))
    cdef relay_endpoint *e = <relay_endpoint *>calloc(1, sizeof(relay_endpoint))
    cdef sockaddr_in6 name
    cdef super_frame f
    cdef uint32_t i
    if door == NULL or d == NULL or e == NULL:
        raise MemoryError
    door.rule.fd = fd
    d.door = door
    d.guest_mtu = <uint32_t>mtu
    d.super_refused = super_refused
    e.version = IPV4_DOOR if guest.startswith(bytes(10) + b"\xff\xff") else IPV6_DOOR
    e.key.l4_port = ports[0]
    memcpy(e.key.guest, <const uint8_t *>guest, ADDRESS_BYTES)
    address_to_name(&name, e.version, <const uint8_t *>peer, ports[1])
    memset(&f, 0, sizeof(f))
    f.peer = &name
    f.ttl = 64
    f.segment = <uint32_t>segment
    f.vector_count = 2
    for piece in pieces:
        f.vectors[f.vector_count].iov_base = <void *><const char *><bytes>piece
        f.vectors[f.vector_count].iov_len = len(piece)
        f.vector_count += 1
        f.total += <uint32_t>len(piece)
    f.segments = (f.total + f.segment - 1) // f.segment if f.total else 1
    super_frame_write(d, e, &f)
    refused = bool(d.super_refused)
    counts = [d.counters[i] for i in range(<uint32_t>(sizeof(d.counters) // sizeof(d.counters[0])))]
    free(e)
    free(d)
    free(door)
    return counts, refused
