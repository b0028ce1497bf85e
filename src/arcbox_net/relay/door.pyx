"""Reads a guest's packets from the TUN, checks each once, and hands it to the part that knows its protocol.

Every packet that goes no further is counted by the reason. A turn reads at most DOOR_TURN_MAX packets: the
TUN is watched level-triggered, so what is left brings another event. Packets of a burst stay in their frames
until the burst has ended; only then may a part send what it has gathered of them.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from arcbox_net.abi.epoll cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLIN, epoll_ctl, epoll_event
from arcbox_net.abi.files cimport read, writev
from arcbox_net.abi.socket cimport iovec
from arcbox_net.relay.datagram cimport datagrams_prepare, datagrams_release
from arcbox_net.relay.datagram_out cimport datagram_flush, datagram_out
from arcbox_net.relay.echo cimport echo_out, echoes_prepare, echoes_release
from arcbox_net.relay.flow cimport (
    ADDRESS_BYTES, ITEM_DOOR, ITEM_GATE_LISTENER, flow_row, item_init, link_append, link_remove, list_reset,
    relay_worker,
)
from arcbox_net.relay.fragments cimport (
    FRAGMENT_JOINED, FRAGMENT_KEPT, fragment_verdict, fragments_join, fragments_prepare, fragments_release,
)
from arcbox_net.relay.gate cimport gate_on_packet, gate_prepare, gate_release
from arcbox_net.relay.guests cimport guest_key_ipv6, guests_prepare, guests_release
from arcbox_net.relay.offer cimport offer_on_burst_end
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, pseudo_sum
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_CODE, ICMP_ECHO_REQUEST, ICMP_HEADER_BYTES, ICMP_TYPE, ICMPV6_ECHO_REQUEST,
    PROTOCOL_ICMP, PROTOCOL_ICMPV6, icmp_check,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_PROTOCOL, IPV4_SOURCE, ipv4_check, ipv4_header_size, ipv4_is_fragment,
    ipv4_total_length,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_DESTINATION, IPV6_SOURCE, IPV6_WALK_FRAGMENT, IPV6_WALK_OK, ipv6_check, ipv6_total_length,
    ipv6_upper, ipv6_walk,
)
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_CHECKSUM, tcp_check, tcp_header_size
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES, udp_check, udp_length
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_DATA_VALID, VIRTIO_GSO_NONE, VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM, VIRTIO_NET_HEADER_BYTES,
    VIRTIO_UDP_SEGMENTS_MAX, virtio_check, virtio_net_header,
)

cdef enum:
    DOOR_TURN_MAX = 4  # bursts


cdef void door_on_event(relay_worker *w, relay_door *door) noexcept nogil:
    """Read and hand on what waits, within the turn's budget."""
    cdef door_packet packet
    cdef uint8_t *frame
    cdef ssize_t size
    cdef int _burst, i, reason, failure = 0
    for _burst in range(DOOR_TURN_MAX):
        for i in range(DOOR_BURST_MAX):
            frame = door.frames + i * DOOR_FRAME_BYTES
            size = read(door.rule.fd, frame, DOOR_FRAME_BYTES)
            if size < 0:
                failure = errno
                break
            door_count(door, PACKETS_IN)
            reason = door_parse(frame, <size_t>size, &packet)
            if reason == 0:
                _hand_on(w, door, &packet)
            elif reason == DROP_FRAGMENT:
                _join(w, door, frame, <size_t>size)
            else:
                door_count(door, reason)
        offer_on_burst_end(w, door)
        datagram_flush(w, door)
        if failure == EAGAIN or failure == EINTR:
            return
        if failure:
            # The TUN is gone, and would be ready with that for ever; the network's owner sees it too.
            epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, door.rule.fd, NULL)
            return


cdef void _hand_on(relay_worker *w, relay_door *door, door_packet *packet) noexcept nogil:
    if packet.protocol == PROTOCOL_TCP:
        gate_on_packet(w, door, packet)
    elif packet.protocol == PROTOCOL_UDP:
        datagram_out(w, door, packet)
    else:
        echo_out(w, door, packet)


cdef void _join(relay_worker *w, relay_door *door, uint8_t *fragment, size_t size) noexcept nogil:
    """A packet of several fragments is handed on with the last of them, and leaves at once."""
    cdef door_packet packet
    cdef size_t whole_size = 0
    cdef uint8_t *whole = NULL
    cdef int reason = DROP_FRAGMENT
    cdef fragment_verdict verdict = fragments_join(&door.fragments, fragment, size, &whole, &whole_size)
    if verdict == FRAGMENT_KEPT:
        return
    if verdict == FRAGMENT_JOINED:
        reason = door_parse(whole, whole_size, &packet)
    if reason:
        door_count(door, reason)
        return
    packet.joined = 1
    _hand_on(w, door, &packet)
    offer_on_burst_end(w, door)
    datagram_flush(w, door)


cdef int door_parse(uint8_t *frame, size_t size, door_packet *packet) noexcept nogil:
    """Check the *size* bytes at *frame* and say where everything is; 0, or the reason to drop them."""
    cdef int reason
    if size <= VIRTIO_NET_HEADER_BYTES:
        return DROP_SHORT
    packet.virtio = <const virtio_net_header *>frame
    packet.ip = frame + VIRTIO_NET_HEADER_BYTES
    size -= VIRTIO_NET_HEADER_BYTES
    if packet.ip[0] >> 4 == 4:
        reason = _parse_ipv4(packet, size)
    elif packet.ip[0] >> 4 == 6:
        reason = _parse_ipv6(packet, size)
    else:
        return DROP_IP_HEADER
    if reason:
        return reason
    if memcmp(packet.src, packet.dst, ADDRESS_BYTES) == 0:
        return DROP_ADDRESS
    packet.src_port = packet.dst_port = 0
    packet.joined = 0
    if packet.protocol == PROTOCOL_TCP:
        return _parse_tcp(packet)
    if packet.protocol == PROTOCOL_UDP:
        return _parse_udp(packet)
    if packet.protocol == (PROTOCOL_ICMP if packet.version == IPV4_DOOR else PROTOCOL_ICMPV6):
        return _parse_echo(packet)
    return DROP_PROTOCOL


cdef int door_write(relay_door *door, const virtio_net_header *header, iovec *vectors, int n) noexcept nogil:
    """Send a packet to the guest: vectors[1…n-1] hold it, vectors[0] is filled in here. 0, or -1 and counted."""
    cdef int _attempt
    vectors[0].iov_base = <void *>header
    vectors[0].iov_len = VIRTIO_NET_HEADER_BYTES
    for _attempt in range(2):
        if writev(door.rule.fd, vectors, n) >= 0:
            door_count(door, PACKETS_OUT)
            return 0
        if errno != EINTR:
            break
    door_count(door, DROP_WRITE)
    return -1


cdef bint door_prepare(relay_worker *w, relay_door *door) noexcept nogil:
    """Set aside what the door needs; False when memory is short. `door_release` undoes any of it."""
    cdef int version
    item_init(&door.rule.item, ITEM_DOOR)
    door.rule.rule_link.item = &door.rule.item
    list_reset(&door.rule.flows)
    for version in range(2):
        item_init(&door.listeners[version].item, ITEM_GATE_LISTENER)
        door.listeners[version].door = door
    door.frames = <uint8_t *>calloc(DOOR_BURST_MAX, DOOR_FRAME_BYTES)
    if door.closed_max:
        door.closed = <flow_row *>calloc(door.closed_max, sizeof(flow_row))
    return (
        door.frames != NULL
        and (door.closed != NULL or not door.closed_max)
        and guests_prepare(&door.guests, w.hash_seed)
        and gate_prepare(door)
        and fragments_prepare(&door.fragments)
        and datagrams_prepare(door, w.hash_seed)
        and echoes_prepare(door, w.hash_seed)
    )


cdef void door_release(relay_door *door) noexcept nogil:
    gate_release(door)
    echoes_release(door)
    fragments_release(&door.fragments)
    datagrams_release(door)
    guests_release(&door.guests)
    free(door.closed)
    free(door.frames)
    door.closed = NULL
    door.frames = NULL


cdef int door_open(relay_worker *w, relay_door *door) noexcept nogil:
    """Watch the TUN and the listeners; 0 or an errno with none of them watched."""
    cdef epoll_event event
    cdef int version, failure
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>door
    failure = epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, door.rule.fd, &event)
    for version in range(2):
        if failure == 0 and door.listeners[version].fd >= 0:
            event.events = EPOLLIN | EPOLLET
            event.data.u64 = <uint64_t>&door.listeners[version]
            failure = epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, door.listeners[version].fd, &event)
    if failure < 0:
        failure = errno
        door_close(w, door)
        return failure
    link_append(&w.rules, &door.rule.rule_link)
    return 0


cdef void door_close(relay_worker *w, relay_door *door) noexcept nogil:
    """Watch them no more. Flows are the caller's to end."""
    cdef int version
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, door.rule.fd, NULL)
    for version in range(2):
        epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, door.listeners[version].fd, NULL)
        link_remove(&door.listeners[version].item.ready)
        link_remove(&door.listeners[version].item.timer)


cdef int _parse_ipv4(door_packet *packet, size_t size) noexcept nogil:
    if not ipv4_check(packet.ip, size):
        return DROP_IP_HEADER
    if ipv4_is_fragment(packet.ip):
        return DROP_FRAGMENT
    packet.version = IPV4_DOOR
    packet.protocol = packet.ip[IPV4_PROTOCOL]
    packet.ip_size = ipv4_total_length(packet.ip)
    packet.l4 = packet.ip + ipv4_header_size(packet.ip)
    packet.l4_size = packet.ip_size - ipv4_header_size(packet.ip)
    address_map(packet.src, packet.ip + IPV4_SOURCE)
    address_map(packet.dst, packet.ip + IPV4_DESTINATION)
    memcpy(packet.guest, packet.src, ADDRESS_BYTES)
    return 0


cdef int _parse_ipv6(door_packet *packet, size_t size) noexcept nogil:
    cdef uint32_t offset = 0
    cdef ipv6_walk walked
    if not ipv6_check(packet.ip, size):
        return DROP_IP_HEADER
    walked = ipv6_upper(packet.ip, &packet.protocol, &offset)
    if walked != IPV6_WALK_OK:
        return DROP_FRAGMENT if walked == IPV6_WALK_FRAGMENT else DROP_IP_HEADER
    packet.version = IPV6_DOOR
    packet.ip_size = ipv6_total_length(packet.ip)
    packet.l4 = packet.ip + offset
    packet.l4_size = packet.ip_size - offset
    memcpy(packet.src, packet.ip + IPV6_SOURCE, ADDRESS_BYTES)
    memcpy(packet.dst, packet.ip + IPV6_DESTINATION, ADDRESS_BYTES)
    if _is_mapped(packet.src) or _is_mapped(packet.dst):
        return DROP_ADDRESS  # it would be taken for the IPv4 address in it
    guest_key_ipv6(packet.guest, packet.ip, packet.src)
    return 0


cdef int _parse_tcp(door_packet *packet) noexcept nogil:
    if not tcp_check(packet.l4, packet.l4_size):
        return DROP_L4_HEADER
    _set_ports(packet)
    _set_payload(packet, tcp_header_size(packet.l4))
    return _check_sums(packet, TCP_CHECKSUM)


cdef int _parse_udp(door_packet *packet) noexcept nogil:
    if not udp_check(packet.l4, packet.l4_size):
        return DROP_L4_HEADER
    packet.l4_size = udp_length(packet.l4)
    _set_ports(packet)
    _set_payload(packet, UDP_HEADER_BYTES)
    if packet.virtio.gso_type != VIRTIO_GSO_NONE and packet.virtio.gso_type != VIRTIO_GSO_UDP_L4:
        return DROP_VIRTIO
    if packet.virtio.gso_type != VIRTIO_GSO_NONE:
        if packet.payload_size > <uint32_t>packet.virtio.gso_size * VIRTIO_UDP_SEGMENTS_MAX:
            return DROP_VIRTIO  # by a raw socket or a VM's driver: one packet that costs as much as thousands
    # RFC 768: 0 means "no checksum"; RFC 8200 8.1 does not know that.
    if packet.version == IPV4_DOOR and load_u16(packet.l4 + UDP_CHECKSUM) == 0:
        if packet.virtio.flags & VIRTIO_NEEDS_CSUM == 0:
            return 0 if packet.virtio.gso_type == VIRTIO_GSO_NONE else DROP_VIRTIO
    return _check_sums(packet, UDP_CHECKSUM)


cdef int _parse_echo(door_packet *packet) noexcept nogil:
    if not icmp_check(packet.l4, packet.l4_size):
        return DROP_L4_HEADER
    if packet.l4[ICMP_TYPE] != (ICMP_ECHO_REQUEST if packet.version == IPV4_DOOR else ICMPV6_ECHO_REQUEST):
        return DROP_PROTOCOL
    if packet.l4[ICMP_CODE] != 0:
        return DROP_L4_HEADER
    _set_payload(packet, ICMP_HEADER_BYTES)
    if packet.virtio.gso_type != VIRTIO_GSO_NONE:
        return DROP_VIRTIO
    return _check_sums(packet, ICMP_CHECKSUM)


cdef void _set_ports(door_packet *packet) noexcept nogil:
    packet.src_port = load_u16(packet.l4)
    packet.dst_port = load_u16(packet.l4 + 2)


cdef void _set_payload(door_packet *packet, uint32_t header_size) noexcept nogil:
    packet.payload = packet.l4 + header_size
    packet.payload_size = packet.l4_size - header_size


cdef int _check_sums(door_packet *packet, uint32_t field) noexcept nogil:
    """The virtio_net_hdr, and the checksum unless the kernel has verified it or nobody has computed it yet."""
    cdef size_t offset = <size_t>(packet.l4 - packet.ip)
    cdef size_t address_size = 4 if packet.version == IPV4_DOOR else ADDRESS_BYTES
    cdef uint64_t total = 0
    if not virtio_check(packet.virtio, offset, field, packet.ip_size):
        return DROP_VIRTIO
    if packet.virtio.flags & (VIRTIO_NEEDS_CSUM | VIRTIO_DATA_VALID):
        return 0
    if packet.protocol != PROTOCOL_ICMP:
        total = pseudo_sum(
            packet.src + ADDRESS_BYTES - address_size, packet.dst + ADDRESS_BYTES - address_size,
            address_size, packet.protocol, packet.l4_size,
        )
    total = checksum_add(total, packet.l4, packet.l4_size)
    return 0 if checksum_fold(total) == 0xFFFF else DROP_CHECKSUM


cdef bint _is_mapped(const uint8_t *address) noexcept nogil:
    """::ffff:0:0/96"""
    cdef int i
    for i in range(10):
        if address[i]:
            return False
    return address[10] == 0xFF and address[11] == 0xFF
