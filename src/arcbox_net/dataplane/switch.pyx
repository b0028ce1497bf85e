"""The L2 switch: which frame goes to which ports of a network, and which goes nowhere.

Theory of operation
    Every frame of a burst gets a destination: a port's number, a flood, or none, when a check of its source refused
    it (guest_check.pxd) or nobody has its address. Then each port gets its frames of the burst in one call, in order.

    from            checked                         its MACs are
    guest           every frame                     its binding's, or up to 8 that nobody had before
    trusted port    control protocols               learned
    uplink          tags, control protocols         learned
    router          nothing: it sends as the gateway, whose MAC stays the uplink's
    service         nothing, as the router

    to              goes to
    known MAC       its port, unless both ports are isolated
    unknown MAC     the ports that have more MACs than the known ones: uplinks, trusted ports, guests without a MAC
    group           every port but router and service, without those that are isolated if the source is
    what is served  the service, if there is one: see serving.pxd
    gateway's MAC   the uplink; what leaves the subnet, to the router, if there is one (router.pyx): see leaving.pxd

Only heads of frames are parsed, as guests cannot write to these any more.
"""

import itertools
import os
import threading
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from arcbox_net.abi.prefetch cimport abx_prefetch
from arcbox_net.dataplane.binding cimport (
    BINDING_GUEST, BINDING_ROUTER, BINDING_SERVICE, BINDING_TRUSTED, BINDING_UPLINK, SENDS, binding, binding_is_of,
    within,
)
from arcbox_net.dataplane.emitter cimport emitter_free, emitter_init
from arcbox_net.dataplane.fdb cimport FDB_TAKEN, fdb_age, fdb_find, fdb_free, fdb_init
from arcbox_net.dataplane.guest_check cimport guest_check
from arcbox_net.dataplane.learning cimport learn_mac, learning_hear
from arcbox_net.dataplane.leaving cimport leaves_subnet, tells_mac
from arcbox_net.dataplane.notices cimport NOTICE_BYTES, NOTICES_CAPACITY, PEERS_MAX
from arcbox_net.dataplane.offload cimport offload_is_single
from arcbox_net.dataplane.owners cimport owners_age, owners_free, owners_init
from arcbox_net.dataplane.port cimport (
    PORT_DROP_DHCP, PORT_DROP_ISOLATED, PORT_DROP_NOWHERE, PORT_DROP_SHORT, PORT_DROP_SOURCE_MAC, PORT_DROP_STORM,
    PORT_DROP_TOO_BIG, PORT_DROP_VLAN, PORT_NONE, PORTS_MAX, PortDrop, port, port_drop, port_frame, port_message,
    receiver,
)
from arcbox_net.dataplane.port_send cimport port_send
from arcbox_net.dataplane.serving cimport SERVED_BURST, SERVED_INTERVAL_NS, is_dhcp_answer, is_served
from arcbox_net.dataplane.switch_messages cimport switch_forget_gone, switch_message
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.dataplane.too_big cimport segments_fit, send_told, tell_too_big
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.ring cimport LockFreeRing
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_ARP, MAC_BYTES, ethernet_is_group, ethernet_is_link_control,
    ethernet_is_vlan, ethernet_mac, ethernet_type,
)

from arcbox_net.dataplane.port_binding import bind_payload, network_payload
from arcbox_net.dataplane.switch_messages import SwitchMessage
from arcbox_net.dataplane.switch_views import FdbEntry
from arcbox_net.errors import LimitReached

cdef enum:
    AHEAD = 4  # frames whose headers are fetched while one is looked at
    AGED_PER_TICK = 512  # entries of each table
    # Destinations that are no port's number.
    TO_NOBODY = PORTS_MAX  # it was dropped, and counted
    TO_GROUP = PORTS_MAX + 1
    TO_UNKNOWN = PORTS_MAX + 2
    TO_GUESTS = PORTS_MAX + 3  # a group, without the uplink


cdef void switch_burst(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil:
    """Send each of up to BURST_MAX frames to where it goes."""
    cdef switch_state *s = <switch_state *>self
    cdef binding *b = &s.bindings[source.number]
    cdef uint16_t to[BURST_MAX]
    cdef uint32_t i
    if not binding_is_of(b, source):
        port_drop(source, PORT_DROP_SOURCE_MAC, count)
        return
    s.owner = source.owner
    learning_hear(s)
    for i in range(min(count, <uint32_t>AHEAD)):
        abx_prefetch(frames[i].head.data)
    for i in range(count):
        if i + AHEAD < count:
            abx_prefetch(frames[i + AHEAD].head.data)
        to[i] = _destination(s, b, source, &frames[i])
    for i in range(count):
        if to[i] != TO_NOBODY:
            _send_alike(s, b, source, frames, to, i, count)


cdef inline uint16_t _dropped(port *source, PortDrop reason) noexcept nogil:
    port_drop(source, reason, 1)
    return TO_NOBODY


cdef inline uint16_t _destination(switch_state *s, binding *b, port *source, port_frame *f) noexcept nogil:
    cdef const uint8_t *p = f.head.data
    cdef uint64_t mac
    cdef uint16_t number
    cdef int verdict
    if f.head.size < ETHERNET_HEADER_BYTES:
        return _dropped(source, PORT_DROP_SHORT)
    if b.role == BINDING_GUEST:
        verdict = guest_check(s, b, p, f.head.size, s.owner.now_ns)
    else:
        verdict = _check_source(s, b, p, f.head.size)
    if verdict != SENDS:
        return _dropped(source, <PortDrop>verdict)
    if s.network.has_service:
        if b.role == BINDING_SERVICE and ethernet_is_group(p) and ethernet_type(p) != ETHERTYPE_ARP:
            return TO_GUESTS
        if (b.role == BINDING_GUEST or b.role == BINDING_TRUSTED) and is_served(&s.network, p, f.head.size):
            if within(&b.served, SERVED_INTERVAL_NS, SERVED_BURST, s.owner.now_ns):
                return s.network.service
            return _dropped(source, PORT_DROP_STORM)
    if ethernet_is_group(p):
        if ethernet_is_link_control(p):
            return _dropped(source, PORT_DROP_VLAN)
        # The limit on broadcasts counts frames, and a super-frame is hundreds at each port that takes none.
        if b.role == BINDING_GUEST and not offload_is_single(&f.head):
            return _dropped(source, PORT_DROP_STORM)
        return TO_GROUP
    mac = ethernet_mac(p)
    if s.network.has_router and mac == s.network.gateway_mac and (
        b.role == BINDING_GUEST or b.role == BINDING_TRUSTED
    ):
        if leaves_subnet(&s.network, p, f.head.size):
            return s.network.router
        if tells_mac(p, f.head.size):
            _copy_to_router(s, f)
    number = fdb_find(&s.macs, mac)
    return number if number != PORT_NONE else <uint16_t>TO_UNKNOWN


cdef void _copy_to_router(switch_state *s, port_frame *f) noexcept nogil:
    """An answer to the gateway may be one to the router, which asks in its name."""
    cdef port *router = s.owner.ports[s.network.router]
    if binding_is_of(&s.bindings[s.network.router], router):
        port_send(router, &f, 1)


cdef int _check_source(switch_state *s, binding *b, const uint8_t *p, uint32_t size) noexcept nogil:
    """SENDS, or a PortDrop, for a port that is no guest's."""
    cdef uint64_t mac = ethernet_mac(p + ETHERNET_SOURCE)
    if b.role == BINDING_ROUTER or b.role == BINDING_SERVICE:
        return SENDS
    if mac == 0 or ethernet_is_group(p + ETHERNET_SOURCE):
        return PORT_DROP_SOURCE_MAC
    if b.role == BINDING_UPLINK and ethernet_is_vlan(p):
        return PORT_DROP_VLAN
    if b.role == BINDING_UPLINK and s.network.has_service and is_dhcp_answer(p, size):
        return PORT_DROP_DHCP
    if learn_mac(s, b, mac) == FDB_TAKEN:
        return PORT_DROP_SOURCE_MAC
    return SENDS


cdef inline void _send_alike(
    switch_state *s, const binding *b, port *source, port_frame *frames, uint16_t *to, uint32_t first, uint32_t count
) noexcept nogil:
    """Send the frames from *first* on that go to the same place, and strike them off the list."""
    cdef port_frame *alike[BURST_MAX]
    cdef uint16_t place = to[first]
    cdef uint32_t i, n = 0
    for i in range(first, count):
        if to[i] == place:
            alike[n] = &frames[i]
            to[i] = TO_NOBODY
            n += 1
    if place < PORTS_MAX:
        _send_to(s, b, source, place, alike, n)
    else:
        _flood(s, b, source, place, alike, n)


cdef inline void _send_to(
    switch_state *s, const binding *b, port *source, uint16_t number, port_frame **frames, uint32_t count
) noexcept nogil:
    cdef port *out = s.owner.ports[number]
    cdef uint32_t i, n = 0
    if number == source.number or not binding_is_of(&s.bindings[number], out):
        port_drop(source, PORT_DROP_NOWHERE, count)
        return
    if b.isolated and s.bindings[number].isolated:
        port_drop(source, PORT_DROP_ISOLATED, count)
        return
    for i in range(count):
        if frames[i].size <= out.frame_max or segments_fit(out, frames[i]):
            frames[n] = frames[i]
            n += 1
        else:
            tell_too_big(s, frames[i], out.frame_max)
    port_drop(source, PORT_DROP_TOO_BIG, count - n)
    if s.answers_out.count:
        send_told(s, source)  # before others are called: a router sends to this switch in its turn
    if n:
        port_send(out, frames, n)


cdef void _flood(
    switch_state *s, const binding *b, port *source, uint16_t place, port_frame **frames, uint32_t count
) noexcept nogil:
    """To all ports that may have the address, or, of a group, may want it. PORTS_MAX at most."""
    cdef binding *other
    cdef port *out
    cdef uint32_t i, ports = 0, kept_apart = 0
    for i in range(s.member_count):
        other = &s.bindings[s.members[i]]
        out = s.owner.ports[other.number]
        if out == source or not binding_is_of(other, out):
            continue
        if other.role == BINDING_ROUTER or other.role == BINDING_SERVICE:
            continue
        if other.role == BINDING_UPLINK and (b.role == BINDING_ROUTER or place == TO_GUESTS):
            continue  # the gateway is there itself
        if place == TO_UNKNOWN and other.role == BINDING_GUEST and other.mac:
            continue
        if b.isolated and other.isolated:
            kept_apart += 1
            continue
        port_send(out, frames, count)
        ports += 1
    s.floods += count
    if ports == 0:
        port_drop(source, PORT_DROP_ISOLATED if kept_apart else PORT_DROP_NOWHERE, count)


cdef int _message(receiver *self, port *source, const port_message *message) noexcept nogil:
    return switch_message(<switch_state *>self, source, message)


cdef void _tick(receiver *self, uint64_t now_ns) noexcept nogil:
    cdef switch_state *s = <switch_state *>self
    if s.owner == NULL:
        return
    s.now_s = <uint32_t>(now_ns // 1_000_000_000) + 1
    learning_hear(s)
    fdb_age(&s.macs, s.now_s, AGED_PER_TICK)
    owners_age(&s.owners, s.now_s, AGED_PER_TICK)
    switch_forget_gone(s)


cdef class Switch(Receiver):
    """The L2 switch of a worker's ports. A port may send when it is bound; what others send is dropped.

    A switch is for one worker. Workers of one network have a switch each, which are told the same and have been joined.
    """

    def __cinit__(self):
        cdef uint64_t seed[2]
        cdef const uint8_t[:] chance = os.urandom(sizeof(seed))
        memcpy(seed, &chance[0], sizeof(seed))
        self.state = <switch_state *>calloc(1, sizeof(switch_state))
        if self.state is NULL:
            raise MemoryError
        self.base = &self.state.base
        self.base.burst = switch_burst
        self.base.message = _message
        self.base.tick = _tick
        self.state.now_s = 1
        self.state.answers.out = &self.state.answers_out
        self.state.answers.machines.by_link = True
        memcpy(self.state.answers.machines.seed, seed, sizeof(seed))
        self.reading = threading.Lock()
        self.rings = []
        if not (
            fdb_init(&self.state.macs, seed)
            and owners_init(&self.state.owners, seed)
            and emitter_init(&self.state.answers_out)
        ):
            raise MemoryError

    def __dealloc__(self):
        if self.state is not NULL:
            fdb_free(&self.state.macs)
            owners_free(&self.state.owners)
            emitter_free(&self.state.answers_out)
        self.state = NULL  # the base class frees it

    @staticmethod
    def join(switches):
        """Have the switches of a network's workers tell each other what they learn; before any of them is used.

        Raises LimitReached for too many.
        """
        if len(switches) > PEERS_MAX + 1:
            raise LimitReached(f"{len(switches)} switches", limit="switches of a network", value=PEERS_MAX + 1)
        for one, other in itertools.combinations(switches, 2):
            there = LockFreeRing(NOTICES_CAPACITY, NOTICE_BYTES)
            back = LockFreeRing(NOTICES_CAPACITY, NOTICE_BYTES)
            (<Switch?>one)._join(there, back)
            (<Switch?>other)._join(back, there)

    cdef void _join(self, LockFreeRing telling, LockFreeRing hearing):
        self.rings += (telling, hearing)
        self.state.telling[self.state.peers] = telling.producer
        self.state.hearing[self.state.peers] = hearing.consumer
        self.state.peers += 1

    def bind(self, worker, number, wanted):
        """Let port *number* send what the `PortBinding` says; also to change it.

        Raises FileExistsError when the MAC or an IPv6 address of it is another port's.
        """
        worker.send(number, SwitchMessage.SWITCH_BIND, bind_payload(wanted))

    def unbind(self, worker, number):
        """The port may send no more, and its addresses are free. A port that leaves its worker needs no word."""
        worker.send(number, SwitchMessage.SWITCH_UNBIND)

    def set_network(self, worker, number, network):
        """What the switch has to know of its network, a `SwitchNetwork`; *number* is any port's of the switch."""
        worker.send(number, SwitchMessage.SWITCH_NETWORK, network_payload(network))

    def fdb(self, worker, number):
        """The MAC table as `FdbEntry`, in no order; *number* is any port's of the switch."""
        with self.reading:
            worker.send(number, SwitchMessage.SWITCH_LIST)
            entries = []
            for i in range(self.state.listed_count):
                entry = &self.state.listed[i]
                entries.append(
                    FdbEntry(
                        (<uint8_t *>&entry.mac)[:MAC_BYTES].hex(":"),
                        entry.port,
                        None if entry.is_static else entry.age_s,
                    )
                )
            return entries
