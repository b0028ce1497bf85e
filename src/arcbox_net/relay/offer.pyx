"""Handing a guest's connection to the kernel: its SYN goes back into the TUN, and our listener accepts it.

What is accepted is matched with what was offered by addresses and ports. A stray connection is reset: the
destination has gone meanwhile, or nobody ever dialled for it.
"""

from libc.stdint cimport uint16_t

from arcbox_net.abi.socket cimport getsockname, iovec, sockaddr, sockaddr_in6, socklen_t
from arcbox_net.relay.accepting cimport (
    ACCEPT_NOTHING, ACCEPT_SHORTAGE, ACCEPT_TAKEN, ACCEPTS_MAX, accept_next, acceptance, reserve_restore,
    reserve_spend,
)
from arcbox_net.relay.door cimport ACCEPTED_STRAY, address_from_name, door_count, door_write
from arcbox_net.relay.flow cimport (
    ADDRESS_BYTES, CLIENT, REFUSED_FDS, RESET, TARGET, TCP_OFFERED, TCP_OPEN, item_queue, item_time,
)
from arcbox_net.relay.lookup cimport flow_find, flow_hash
from arcbox_net.relay.tcp cimport tcp_close_reset, tcp_end, tcp_on_turn, tcp_watch
from arcbox_net.wire.virtio_net cimport VIRTIO_NET_HEADER_BYTES, virtio_net_header


cdef int offer_watch(relay_worker *w, gate_flow *flow) noexcept nogil:
    """Have the events of the destination's socket; -1 with the flow ended when that cannot be."""
    if flow.watched:
        return 0
    if tcp_watch(w, &flow.tcp, TARGET) < 0:
        tcp_end(w, &flow.tcp, REFUSED_FDS)
        return -1
    flow.watched = 1
    return 0


cdef void offer_on_burst_end(relay_worker *w, relay_door *door) noexcept nogil:
    """A guest in a namespace of this machine has answered by the time write() returns: accept at once."""
    cdef int version
    for version in range(2):
        if door.listeners[version].offered:
            _accept(w, &door.listeners[version], False)


cdef void offer_on_listener(relay_worker *w, gate_listener *listener) noexcept nogil:
    """Accept all that waits: its event came once, and stray connections are among them."""
    _accept(w, listener, True)


cdef void _accept(relay_worker *w, gate_listener *listener, bint strays_too) noexcept nogil:
    """Accept what waits; a listener that is resting after a shortage of descriptors is left alone."""
    cdef sockaddr_in6 guest
    cdef acceptance outcome
    cdef int fd, _i
    if listener.item.timers != NULL:
        return
    for _i in range(ACCEPTS_MAX):
        outcome = accept_next(listener.fd, &fd, &guest)
        if outcome == ACCEPT_TAKEN:
            _accepted(w, listener, fd, &guest)
            if not listener.offered and not strays_too:
                return  # what else may wait brings an event
        elif outcome == ACCEPT_NOTHING:
            return
        elif outcome == ACCEPT_SHORTAGE:
            _shed(w, listener)
            return
    item_queue(w, &listener.item)


cdef void offer_syn(relay_worker *w, gate_flow *flow) noexcept nogil:
    """The destination has answered: give the guest's SYN to the kernel."""
    cdef relay_door *door = <relay_door *>flow.tcp.rule
    flow.tcp.state = TCP_OFFERED
    door.listeners[flow.version].offered += 1
    item_time(w, &flow.tcp.item, &w.offered)
    if offer_return(door, flow.syn.frame, flow.syn.size) < 0:
        tcp_end(w, &flow.tcp, RESET)


cdef void _accepted(relay_worker *w, gate_listener *listener, int fd, const sockaddr_in6 *guest) noexcept nogil:
    """A guest's connection: carry it, if it is one that was offered."""
    cdef gate_flow *flow = _find_offered(listener, fd, guest)
    if flow == NULL:
        door_count(listener.door, ACCEPTED_STRAY)
        tcp_close_reset(fd)
        return
    flow.tcp.sides[CLIENT].fd = fd
    flow.tcp.sides[CLIENT].writable = 1
    offer_forget(listener.door, flow)
    flow.tcp.state = TCP_OPEN
    item_time(w, &flow.tcp.item, &w.idle)
    if offer_watch(w, flow) < 0:
        return
    if tcp_watch(w, &flow.tcp, CLIENT) < 0:
        tcp_end(w, &flow.tcp, REFUSED_FDS)
        return
    if flow.tcp.sides[TARGET].readable:
        tcp_on_turn(w, &flow.tcp)  # its event came before there was anybody to tell


cdef gate_flow *_find_offered(gate_listener *listener, int fd, const sockaddr_in6 *guest) noexcept nogil:
    """The flow that this connection belongs to; NULL when nobody waits for it."""
    cdef relay_door *door = listener.door
    cdef uint8_t src[ADDRESS_BYTES]
    cdef uint8_t dst[ADDRESS_BYTES]
    cdef uint16_t src_port, dst_port
    cdef sockaddr_in6 local
    cdef socklen_t size = sizeof(local)
    cdef gate_flow *flow
    if getsockname(fd, <sockaddr *>&local, &size) < 0:
        return NULL
    src_port = address_from_name(guest, src)
    dst_port = address_from_name(&local, dst)
    flow = flow_find(door, flow_hash(door, src, dst, src_port, dst_port), src, dst, src_port, dst_port)
    return flow if flow != NULL and flow.tcp.state == TCP_OFFERED else NULL


cdef void _shed(relay_worker *w, gate_listener *listener) noexcept nogil:
    """Out of descriptors: reset those who wait, by the one kept in reserve, and let the listener rest."""
    cdef sockaddr_in6 guest
    cdef gate_flow *flow
    cdef int fd, _i
    reserve_spend(w)
    for _i in range(ACCEPTS_MAX):
        if accept_next(listener.fd, &fd, &guest) != ACCEPT_TAKEN:
            break
        flow = _find_offered(listener, fd, &guest)
        tcp_close_reset(fd)
        if flow != NULL:
            tcp_end(w, &flow.tcp, REFUSED_FDS)
    reserve_restore(w)
    item_time(w, &listener.item, &w.paused)


cdef int offer_return(relay_door *door, uint8_t *frame, uint32_t size) noexcept nogil:
    """Write a guest's TCP back into the TUN it came from: the ruleset gives it to its socket, a SYN to our listener."""
    cdef iovec vectors[2]
    vectors[1].iov_base = frame + VIRTIO_NET_HEADER_BYTES
    vectors[1].iov_len = size - VIRTIO_NET_HEADER_BYTES
    return door_write(door, <const virtio_net_header *>frame, vectors, 2)


cdef void offer_forget(relay_door *door, gate_flow *flow) noexcept nogil:
    if flow.syn == NULL:
        return
    flow.syn.next = door.syns
    door.syns = flow.syn
    flow.syn = NULL
    flow.guest.dials -= 1
    door.dial_count -= 1
    if flow.tcp.state == TCP_OFFERED:
        door.listeners[flow.version].offered -= 1
