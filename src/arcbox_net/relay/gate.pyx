"""Connections of guests: nobody hears a SYN-ACK before the destination has answered us.

Theory of operation
-------------------
    state       entered when                     left when
    CONNECTING  a guest's SYN was read from the  the destination answered → OFFERED; the dial failed → the guest is
                TUN and its destination dialled  told by RST or ICMP, as the errno says; nothing for
                                                 connect_timeout → silence; a RST of the guest → given up
    OFFERED     the SYN was written back into    the listener accepted it → OPEN; nothing for offer_timeout (the
                the TUN, whose SYNs the ruleset  guest is gone) → the destination is reset
                gives to our listener
    OPEN        accepted                         as tcp.pyx says

A flow is found by both addresses and ports for as long as it lives. So a SYN that is sent again while the dial
waits dials nothing; one with another ISN takes the place of the one that is kept, for the same dial; and one
of a connection that the kernel has already goes back to the kernel, which knows what to say.
So does any other segment of it that came here because the kernel had missed its connection (rules_relay.py).

A dial that is complete when connect() returns, as it is to a peer on this machine, costs one turn: dial, offer
and accept happen in the burst that brought the SYN, and the destination's socket is watched only then.

SYNs are kept in a block of dials_max; everything else about a flow is in its entry. Nothing is allocated
for a packet.
"""

from libc.errno cimport EALREADY, EINPROGRESS, ETIMEDOUT, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, SO_ERROR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, connect, getsockopt,
    sockaddr, sockaddr_in6, socket, socklen_t,
)
from arcbox_net.relay.accepting cimport is_shortage
from arcbox_net.relay.answer cimport answer_dial, answer_reset
from arcbox_net.relay.door cimport (
    DROP_DESTINATION, DROP_DIALS, DROP_GUESTS, DROP_TCP_FLAGS, DROP_TCP_PORT, DROP_TCP_SEGMENT, DROP_VIRTIO,
    FLOW_BUCKETS, IPV4_DOOR, REFUSED_GUEST, REFUSED_HOST, SEGMENT_RETURNED, SYN_REPEATED, SYN_REPLACED, SYN_RETURNED,
    address_to_name, door_closed_row, door_count, door_parse,
)
from arcbox_net.relay.flow cimport (
    ABANDONED, ADDRESS_BYTES, CLIENT, CONNECT_FAILED, CONNECT_TIMEOUT, IDLE_TIMEOUT, ITEM_GATE_FLOW,
    REFUSED_FDS, REFUSED_LIMIT, RESET, TARGET, TCP_CONNECTING, TCP_OFFERED, TCP_OPEN, count, counter,
    flow_acquire, flow_entry, gate_syn, item_time, link_append, relay_guest, tcp_flow,
)
from arcbox_net.relay.guests cimport guest_drop, guest_hold, guest_of
from arcbox_net.relay.lookup cimport flow_find, flow_hash, flow_insert, flow_remove
from arcbox_net.relay.offer cimport offer_forget, offer_on_burst_end, offer_return, offer_syn, offer_watch
from arcbox_net.relay.reach cimport REACH_HOST, REACH_NEVER, REACH_TCP, reach_check, reach_verdict
from arcbox_net.relay.route cimport route_stays_here
from arcbox_net.relay.syn cimport syn_fits, syn_keep
from arcbox_net.relay.tcp cimport tcp_close_reset, tcp_end, tcp_note, tcp_on_event, tcp_tune, tcp_unpace
from arcbox_net.wire.octets cimport load_u32
from arcbox_net.wire.tcp cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SEQUENCE, TCP_SYN, TCP_URG, tcp_flags
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_NET_HEADER_BYTES,
)

cdef enum:
    UNPACE_BYTES = 65536  # sent to a near peer: shorter exchanges are over before anything paces them


cdef void gate_on_packet(relay_worker *w, relay_door *door, door_packet *packet) noexcept nogil:
    """One TCP segment that the ruleset sent here: a SYN, or one for which the kernel had found no connection."""
    cdef uint8_t flags = tcp_flags(packet.l4)
    cdef uint32_t hashed
    cdef gate_flow *flow
    if packet.src_port == 0 or packet.dst_port == 0:
        door_count(door, DROP_TCP_PORT)
        return
    hashed = flow_hash(door, packet.src, packet.dst, packet.src_port, packet.dst_port)
    flow = flow_find(door, hashed, packet.src, packet.dst, packet.src_port, packet.dst_port)
    flags &= TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK | TCP_URG
    if flags == TCP_SYN:
        if packet.virtio.gso_type != VIRTIO_GSO_NONE:
            door_count(door, DROP_VIRTIO)  # only data is segmented
        elif flow != NULL:
            _again(w, door, flow, packet)
        else:
            _dial(w, door, packet, hashed)
    elif flow != NULL:
        _segment(w, door, flow, packet, flags)
    elif flags & TCP_ACK and not flags & (TCP_SYN | TCP_RST | TCP_URG):
        answer_reset(door, packet)
    else:
        door_count(door, DROP_TCP_FLAGS)


cdef void gate_on_event(relay_worker *w, gate_flow *flow, int side, uint32_t events) noexcept nogil:
    cdef tcp_flow *tcp = &flow.tcp
    cdef int failure = 0
    cdef socklen_t size = sizeof(failure)
    if tcp.state == TCP_OPEN:
        tcp_on_event(w, tcp, side, events)
        if flow.near and tcp.ways[CLIENT].moved > UNPACE_BYTES:
            flow.near = 0
            tcp_unpace(tcp.sides[TARGET].fd)  # of a flow that has just ended it is -1
        return
    tcp_note(&tcp.sides[side], events)
    if tcp.state == TCP_OFFERED:
        if tcp.sides[TARGET].failed:
            tcp_end(w, tcp, RESET)
        return
    if not tcp.sides[TARGET].writable:
        return
    getsockopt(tcp.sides[TARGET].fd, SOL_SOCKET, SO_ERROR, &failure, &size)
    if failure:
        _failed(w, flow, failure)
        return
    offer_syn(w, flow)
    offer_on_burst_end(w, <relay_door *>tcp.rule)


cdef void gate_on_timeout(relay_worker *w, gate_flow *flow) noexcept nogil:
    cdef counter outcome = IDLE_TIMEOUT
    if flow.tcp.state == TCP_CONNECTING:
        outcome = CONNECT_TIMEOUT
    elif flow.tcp.state == TCP_OFFERED:
        outcome = ABANDONED
    tcp_end(w, &flow.tcp, outcome)


cdef void gate_describe(relay_worker *w, gate_flow *flow, flow_row *row) noexcept nogil:
    cdef tcp_flow *tcp = &flow.tcp
    row.protocol = ITEM_GATE_FLOW
    row.rule_id = tcp.rule.id
    row.state = tcp.state
    row.half_closed = tcp.ways[CLIENT].fin_sent or tcp.ways[TARGET].fin_sent
    row.age_ms = w.now_ms - tcp.opened_ms
    row.idle_ms = w.now_ms - tcp.item.since_ms
    row.bytes_in = tcp.ways[CLIENT].moved
    row.bytes_out = tcp.ways[TARGET].moved
    row.held = tcp.ways[CLIENT].held + tcp.ways[TARGET].held
    row.failure = flow.failure
    address_to_name(&row.client, flow.version, flow.src, flow.src_port)
    address_to_name(&row.peer, flow.version, flow.dst, flow.dst_port)


cdef bint gate_prepare(relay_door *door) noexcept nogil:
    """Set aside the table and the SYNs; False when memory is short."""
    cdef uint32_t i
    door.flows = <gate_flow **>calloc(FLOW_BUCKETS, sizeof(gate_flow *))
    door.syn_block = <gate_syn *>calloc(door.dials_max, sizeof(gate_syn))
    if door.flows == NULL or door.syn_block == NULL:
        return False
    for i in range(door.dials_max):
        door.syn_block[i].next = door.syns
        door.syns = &door.syn_block[i]
    door.rule.on_end = _on_end
    return True


cdef void gate_release(relay_door *door) noexcept nogil:
    free(door.flows)
    free(door.syn_block)
    door.flows = NULL
    door.syn_block = door.syns = NULL


cdef void _again(relay_worker *w, relay_door *door, gate_flow *flow, door_packet *packet) noexcept nogil:
    """A SYN of a flow that is known."""
    cdef uint32_t isn = load_u32(packet.l4 + TCP_SEQUENCE)
    if flow.tcp.state == TCP_CONNECTING:
        if flow.syn.isn == isn:
            door_count(door, SYN_REPEATED)
        elif syn_keep(flow.syn, packet):
            door_count(door, SYN_REPLACED)
        return
    if flow.tcp.state == TCP_OFFERED and flow.syn.isn != isn:
        syn_keep(flow.syn, packet)
    door_count(door, SYN_RETURNED)
    offer_return(door, <uint8_t *>packet.virtio, VIRTIO_NET_HEADER_BYTES + packet.ip_size)


cdef void _segment(
    relay_worker *w, relay_door *door, gate_flow *flow, door_packet *packet, uint8_t flags
) noexcept nogil:
    """Anything but a SYN, of a flow that is known: the kernel has the connection, whether it found it or not."""
    cdef uint8_t gso_type = packet.virtio.gso_type & ~VIRTIO_GSO_ECN
    if flow.tcp.state == TCP_CONNECTING and flags & TCP_RST:
        tcp_end(w, &flow.tcp, RESET)
    elif flow.tcp.state == TCP_CONNECTING or not flags & (TCP_ACK | TCP_RST):
        door_count(door, DROP_TCP_SEGMENT)
    elif gso_type not in (VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4 if packet.version == IPV4_DOOR else VIRTIO_GSO_TCPV6):
        door_count(door, DROP_VIRTIO)
    else:
        door_count(door, SEGMENT_RETURNED)
        offer_return(door, <uint8_t *>packet.virtio, VIRTIO_NET_HEADER_BYTES + packet.ip_size)


cdef void _dial(relay_worker *w, relay_door *door, door_packet *packet, uint32_t hashed) noexcept nogil:
    """The first SYN of a connection: dial, unless a limit or the destination forbids it."""
    cdef bint v4 = packet.version == IPV4_DOOR
    cdef relay_guest *guest
    cdef sockaddr_in6 name
    cdef uint32_t size, dials_max
    cdef int fd, done, failure
    cdef reach_verdict verdict = reach_check(door.reach, REACH_TCP, v4, packet.dst, packet.dst_port)
    if verdict == REACH_NEVER:
        door_count(door, DROP_DESTINATION)
        return
    if verdict == REACH_HOST:
        door_count(door, REFUSED_HOST)
        answer_reset(door, packet)
        return
    guest = guest_of(&door.guests, packet.guest)
    if guest == NULL:
        door_count(door, DROP_GUESTS)
        return
    if guest.flows >= door.flows_per_guest_max:
        door_count(door, REFUSED_GUEST)
        answer_reset(door, packet)
        return
    if door.flow_count >= door.flows_max:
        count(&door.rule, REFUSED_LIMIT, 1)
        answer_reset(door, packet)
        return
    # No guest holds more dials than it leaves: one that has many IPv6 addresses cannot take the last of them.
    dials_max = min(door.dials_per_guest_max, door.dials_max - door.dial_count)
    if door.syns == NULL or guest.dials >= dials_max or not syn_fits(packet):
        door_count(door, DROP_DIALS)
        return
    fd = socket(AF_INET if v4 else AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        failure = errno
        _refuse(
            w, door, guest, packet,
            REFUSED_FDS if is_shortage(failure) else CONNECT_FAILED, failure,
        )
        return
    tcp_tune(fd)
    size = address_to_name(&name, packet.version, packet.dst, packet.dst_port)
    done = connect(fd, <const sockaddr *>&name, size)
    if done < 0 and errno == EINPROGRESS:
        # Asked again, connect() says what became of the handshake meanwhile: to this machine, all of it.
        done = connect(fd, <const sockaddr *>&name, size)
    failure = errno if done < 0 else 0
    if done < 0 and failure != EALREADY:
        close(fd)
        _refuse(w, door, guest, packet, CONNECT_FAILED, failure)
        return
    if route_stays_here(door.reach, REACH_TCP, packet, fd):  # by an address that nobody told us of
        door_count(door, REFUSED_HOST)
        tcp_close_reset(fd)
        answer_reset(door, packet)
        return
    _open(w, door, guest, packet, hashed, fd, done == 0)


cdef void _refuse(
    relay_worker *w, relay_door *door, relay_guest *guest, door_packet *packet, counter outcome, int failure
) noexcept nogil:
    """A dial that failed before there was a flow: told, counted and listed as one."""
    cdef flow_row *row = door_closed_row(door)
    count(&door.rule, outcome, 1)
    answer_dial(w, door, guest, packet, failure)
    if row == NULL:
        return
    memset(row, 0, sizeof(flow_row))
    row.protocol = ITEM_GATE_FLOW
    row.ended_ms = w.now_ms
    row.outcome = <uint8_t>outcome
    row.failure = failure
    address_to_name(&row.client, packet.version, packet.src, packet.src_port)
    address_to_name(&row.peer, packet.version, packet.dst, packet.dst_port)


cdef void _open(
    relay_worker *w, relay_door *door, relay_guest *guest, door_packet *packet, uint32_t hashed, int fd,
    bint dialled
) noexcept nogil:
    """A flow for a dial that has begun or is *dialled* already."""
    cdef flow_entry *entry = flow_acquire(w, &door.rule, ITEM_GATE_FLOW)
    cdef gate_flow *flow
    if entry == NULL:
        count(&door.rule, REFUSED_LIMIT, 1)
        tcp_close_reset(fd)
        answer_reset(door, packet)
        return
    flow = &entry.gate
    flow.tcp.rule = &door.rule
    flow.tcp.opened_ms = w.now_ms
    flow.tcp.state = TCP_CONNECTING
    flow.tcp.rule_link.item = &flow.tcp.item
    flow.tcp.sides[CLIENT].fd = -1
    flow.tcp.sides[TARGET].fd = fd
    link_append(&door.rule.flows, &flow.tcp.rule_link)
    flow.version = packet.version
    flow.src_port = packet.src_port
    flow.dst_port = packet.dst_port
    memcpy(flow.src, packet.src, ADDRESS_BYTES)
    memcpy(flow.dst, packet.dst, ADDRESS_BYTES)
    flow.hash = hashed
    flow_insert(door, flow)
    flow.guest = guest
    flow.near = dialled  # only a peer on this machine answers within connect()
    guest_hold(&door.guests, guest)
    guest.flows += 1
    guest.dials += 1
    door.dial_count += 1
    door.flow_count += 1
    flow.syn = door.syns
    door.syns = flow.syn.next
    syn_keep(flow.syn, packet)
    item_time(w, &flow.tcp.item, &w.connecting)
    if dialled:
        flow.tcp.sides[TARGET].writable = 1
        offer_syn(w, flow)
    elif offer_watch(w, flow) < 0:
        answer_reset(door, packet)


cdef void _failed(relay_worker *w, gate_flow *flow, int failure) noexcept nogil:
    """The dial has failed: tell the guest, by the SYN that was kept."""
    cdef door_packet packet
    cdef relay_door *door = <relay_door *>flow.tcp.rule
    flow.failure = failure
    if door_parse(flow.syn.frame, flow.syn.size, &packet) == 0:
        answer_dial(w, door, flow.guest, &packet, failure)
    tcp_end(w, &flow.tcp, CONNECT_TIMEOUT if failure == ETIMEDOUT else CONNECT_FAILED)


cdef void _on_end(relay_worker *w, tcp_flow *tcp, int outcome) noexcept nogil:
    """A flow has ended: out of the table, and into the list of the last that did."""
    cdef gate_flow *flow = <gate_flow *>tcp
    cdef relay_door *door = <relay_door *>tcp.rule
    cdef flow_row *row = door_closed_row(door)
    flow_remove(door, flow)
    offer_forget(door, flow)
    flow.guest.flows -= 1
    guest_drop(&door.guests, flow.guest)
    door.flow_count -= 1
    if row != NULL:
        memset(row, 0, sizeof(flow_row))
        gate_describe(w, flow, row)
        row.ended_ms = w.now_ms
        row.outcome = <uint8_t>outcome
