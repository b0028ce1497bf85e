"""The way out of a network: guests' packets through a NAT engine to an uplink, and what comes back to the guests.

Theory of operation
    A router is a port of the switch: what the switch sends there is OUTBOUND. Its `outside` is the receiver of the
    uplink's port: what comes from there is INBOUND, and goes to the guests through the switch, as if the router's port
    had received it. So it may run within a burst of the switch, which does not mind.

        switch → tx_burst → nat_burst → next hop's MAC → uplink          (and HAIRPIN → guest's MAC → switch)
        uplink → outside  → nat_burst → guest's MAC → switch

    Guests with devices of the kernel are not the switch's. What they send beyond the subnet the bridge leads to the
    `leg`, a TAP of ours on it, with the leg's own MAC as its destination; what is for them goes by the leg too. Their
    MAC addresses are told by control, or learned likewise: on the leg nobody is asked.

    Translation is in place. A frame part of which lies in a guest's memory is copied to a buffer first. Guests' MAC
    addresses are those that they send from, which the switch has checked; others, and next hops, are asked for
    (router_ask.pyx), or control tells them, while a few packets wait (router_send.pyx). A guest whose packet's next hop
    does not answer is told so.

    The engine is the worker's as long as the router is in one: other threads call it while the worker is paused.
"""

import os
from ipaddress import ip_address

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy


from arcbox_net.dataplane.nat cimport nat_burst, nat_expire
from arcbox_net.dataplane.neighbours cimport (
    NEIGHBOUR_SOUGHT, NEIGHBOUR_UNREACHABLE, neighbour_enter, neighbour_is_due, neighbour_is_over, neighbour_key4,
    neighbours_forget, neighbours_free, neighbours_init,
)
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MAX, PORT_DROP_EGRESS, PORT_DROP_NOWHERE, PORT_DROP_POOL, PORT_DROP_SHORT, PORT_NONE, PORT_UP,
    PORTS_MAX, port, port_drop, port_frame, port_message, port_ops, port_sent, receiver,
)
from arcbox_net.dataplane.router_ask cimport router_ask, router_hears, router_learns
from arcbox_net.dataplane.router_groups cimport router_report
from arcbox_net.dataplane.router_send cimport (
    batch_add, batches_flush, count_drop, drop_waiting, router_batch, router_is_refused, router_refuse, sharer_of,
)
from arcbox_net.dataplane.router_setup cimport router_message
from arcbox_net.dataplane.router_state cimport (
    INSIDE_MAX, TOLD_MAX, OUTSIDE_MAX, WAITING_MAX, WAYS, router, router_receiver, router_side,
)
from arcbox_net.dataplane.shares cimport share_give_back, sharer, shares_free, shares_init
from arcbox_net.dataplane.verdict cimport (
    DROP_FIRST, INBOUND, OUTBOUND, VERDICT_FORWARD, VERDICT_HAIRPIN, Direction,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.memory.pool cimport (
    POOL_LARGE, POOL_SMALL, SMALL_FRAME_BYTES, pool_acquire, pool_release,
)
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_is_group, ethernet_mac,
    ethernet_type,
)
from arcbox_net.wire.ipv4 cimport IPV4_HEADER_BYTES, ipv4_source_be
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES, IPV6_HEADER_BYTES, IPV6_SOURCE

from arcbox_net.dataplane.router_config import Way, neighbour_payload, setup_payload
from arcbox_net.dataplane.router_setup import RouterMessage

cdef enum:
    TAKES_ALL = 31
    EXPIRED_PER_TICK = 4096  # entries of each of the engine's tables: more open in a tenth of a second on no machine
    SWEPT_PER_TICK = 2048  # neighbours of each side

cdef struct router_burst:  # frames that are translated together
    uint32_t count
    uint32_t copies_count
    frame frames[BURST_MAX]
    uint16_t from_port[BURST_MAX]
    uint8_t *copies[BURST_MAX]


cdef void _tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    """Guests' packets, and their answers to what was asked inside."""
    cdef router *r = <router *>self
    cdef router_burst burst
    cdef uint32_t i
    cdef uint64_t taken = 0
    burst.count = burst.copies_count = 0
    for i in range(count):
        taken += frames[i].size
        if frames[i].head.size < ETHERNET_HEADER_BYTES:
            port_drop(self, PORT_DROP_SHORT, 1)
        elif not router_hears(r, INBOUND, frames[i].head.data, frames[i].head.size, _is_summed(frames[i])):
            _learn_sender(r, frames[i])
            _burst_add(r, &burst, frames[i])
    port_sent(self, count, taken)
    _translate(r, &burst, OUTBOUND)


cdef void _leg_burst(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil:
    """Packets of guests with kernel devices, which the bridge led here."""
    cdef router *r = (<router_receiver *>self).of
    cdef router_burst burst
    cdef uint32_t i
    if r.base.owner == NULL:
        return
    burst.count = burst.copies_count = 0
    for i in range(count):
        if frames[i].head.size < ETHERNET_HEADER_BYTES:
            port_drop(source, PORT_DROP_SHORT, 1)
        elif ethernet_mac(frames[i].head.data) != ethernet_mac(r.leg_mac):
            port_drop(source, PORT_DROP_NOWHERE, 1)
        else:
            frames[i].from_port = source.number
            _learn_sender(r, &frames[i])
            _burst_add(r, &burst, &frames[i])
    _translate(r, &burst, OUTBOUND)


cdef void _outside_burst(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil:
    """What arrives at the uplink."""
    cdef router *r = (<router_receiver *>self).of
    cdef uint64_t own = ethernet_mac(r.sides[<int>OUTBOUND].mac)
    cdef router_burst burst
    cdef const uint8_t *p
    cdef uint32_t i
    if r.base.owner == NULL:
        return
    burst.count = burst.copies_count = 0
    for i in range(count):
        p = frames[i].head.data
        if frames[i].head.size < ETHERNET_HEADER_BYTES:
            port_drop(source, PORT_DROP_SHORT, 1)
        elif router_hears(r, OUTBOUND, p, frames[i].head.size, _is_summed(&frames[i])):
            pass
        elif ethernet_is_group(p) or ethernet_mac(p) != own:
            port_drop(source, PORT_DROP_NOWHERE, 1)
        else:
            frames[i].from_port = source.number
            _burst_add(r, &burst, &frames[i])
    _translate(r, &burst, INBOUND)


cdef inline bint _is_summed(const port_frame *f) noexcept nogil:
    """Whether the virtio-net header says that its checksum is right, or not yet there."""
    return f.head.data[-FRAME_VNET_BYTES] != 0


cdef inline void _learn_sender(router *r, const port_frame *f) noexcept nogil:
    """A guest is at the MAC address that it sends from."""
    cdef const uint8_t *p = f.head.data
    cdef const uint8_t *ip = p + ETHERNET_HEADER_BYTES
    cdef uint64_t mac = ethernet_mac(p + ETHERNET_SOURCE)
    cdef uint8_t key[IPV6_ADDRESS_BYTES]
    cdef sharer by
    if ethernet_type(p) == ETHERTYPE_IPV4 and f.head.size >= ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES:
        if mac == r.last_mac and ipv4_source_be(ip) == r.last_ip_be and r.now_s == r.last_s:
            return
        r.last_mac = mac
        r.last_ip_be = ipv4_source_be(ip)
        r.last_s = r.now_s
        neighbour_key4(key, r.last_ip_be)
    elif ethernet_type(p) == ETHERTYPE_IPV6 and f.head.size >= ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES:
        memcpy(key, ip + IPV6_SOURCE, IPV6_ADDRESS_BYTES)
    else:
        return
    by = sharer_of(r, &f.head, f.from_port)
    router_learns(r, INBOUND, key, p + ETHERNET_SOURCE, &by, f.from_port == r.leg)


cdef inline void _burst_add(router *r, router_burst *burst, const port_frame *f) noexcept nogil:
    """Take a frame for translation, in one piece."""
    cdef frame *whole = &burst.frames[burst.count]
    whole[0] = f.head
    whole.l3 = ETHERNET_HEADER_BYTES
    if f.rest_count and not _copy(r, burst, whole, f):
        count_drop(r, f.from_port, PORT_DROP_POOL)
        return
    burst.from_port[burst.count] = f.from_port
    burst.count += 1


cdef bint _copy(router *r, router_burst *burst, frame *whole, const port_frame *f) noexcept nogil:
    """*whole* is in a buffer of its own; False: there is none."""
    cdef uint8_t *data = pool_acquire(
        r.base.owner.buffers, POOL_SMALL if f.size <= SMALL_FRAME_BYTES else POOL_LARGE
    )
    cdef uint32_t part
    if data == NULL:
        return False
    burst.copies[burst.copies_count] = data
    burst.copies_count += 1
    whole.data = data
    whole.size = f.head.size
    whole.flags = FRAME_VNET
    memcpy(data - FRAME_VNET_BYTES, f.head.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES + f.head.size)
    for part in range(f.rest_count):
        memcpy(data + whole.size, f.rest[part].iov_base, f.rest[part].iov_len)
        whole.size += <uint32_t>f.rest[part].iov_len
    return True


cdef void _translate(router *r, router_burst *burst, Direction direction) noexcept nogil:
    """Have the engine translate the burst, and send what it makes of it."""
    cdef uint8_t verdicts[BURST_MAX]
    cdef router_batch batches[WAYS]
    cdef router_burst refused
    cdef uint32_t i
    if burst.count == 0:
        return
    refused.count = 0
    if direction == OUTBOUND and r.sides[<int>OUTBOUND].neighbours.unreachable:
        _set_apart(r, burst, &refused)
    _empty(batches)
    nat_burst(r.engine, burst.frames, burst.count, direction, r.base.owner.now_ns, verdicts)
    for i in range(burst.count):
        if verdicts[i] == VERDICT_FORWARD:
            batch_add(r, direction, batches, &burst.frames[i], burst.from_port[i])
        elif verdicts[i] == VERDICT_HAIRPIN:
            batch_add(r, INBOUND, batches, &burst.frames[i], burst.from_port[i])
        elif verdicts[i] >= DROP_FIRST:
            count_drop(r, burst.from_port[i], PORT_DROP_EGRESS)
    for i in range(refused.count):
        router_refuse(r, &refused.frames[i], refused.from_port[i])
    _send_emitted(r, batches)
    for i in range(burst.copies_count):
        pool_release(r.base.owner.buffers, burst.copies[i])


cdef void _set_apart(const router *r, router_burst *burst, router_burst *refused) noexcept nogil:
    """Take packets out of the burst whose next hop is known not to answer: no flow is opened for them."""
    cdef uint32_t i, kept = 0
    for i in range(burst.count):
        if router_is_refused(r, &burst.frames[i]):
            refused.frames[refused.count] = burst.frames[i]
            refused.from_port[refused.count] = burst.from_port[i]
            refused.count += 1
        else:
            burst.frames[kept] = burst.frames[i]
            burst.from_port[kept] = burst.from_port[i]
            kept += 1
    burst.count = kept


cdef inline void _empty(router_batch *batches) noexcept nogil:
    cdef uint32_t way
    for way in range(<uint32_t>WAYS):
        batches[way].count = 0


cdef void _send_emitted(router *r, router_batch *batches) noexcept nogil:
    """Send what the engine made itself, behind what is in the batches, which are sent."""
    cdef uint32_t i
    for i in range(r.engine.emitted.count):
        batch_add(
            r, <Direction>r.engine.emitted.towards[i], batches, &r.engine.emitted.frames[i], r.base.number
        )
    batches_flush(r, batches)


cdef int _open(port *self) noexcept nogil:
    (<router *>self).now_s = <uint32_t>(self.owner.now_ns // 1_000_000_000) + 1
    return 0


cdef uint32_t _rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    return 0


cdef void _rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void _tx_flush(port *self) noexcept nogil:
    pass


cdef int _message(port *self, const port_message *message) noexcept nogil:
    return router_message(<router *>self, message)


cdef void _tick(port *self) noexcept nogil:
    cdef router *r = <router *>self
    cdef router_batch batches[WAYS]
    r.now_s = <uint32_t>(self.owner.now_ns // 1_000_000_000) + 1
    nat_expire(r.engine, self.owner.now_ns, EXPIRED_PER_TICK)
    _empty(batches)
    _send_emitted(r, batches)
    _sweep(r, OUTBOUND)
    _sweep(r, INBOUND)
    router_report(r)


cdef void _sweep(router *r, Direction towards) noexcept nogil:
    """Ask again for neighbours that did not answer, and give up those that never do."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint32_t _step, id
    for _step in range(min(<uint32_t>SWEPT_PER_TICK, side.neighbours.addresses.used)):
        side.neighbours.cursor += 1
        if side.neighbours.cursor >= side.neighbours.addresses.used:
            side.neighbours.cursor = 0
        id = side.neighbours.cursor
        if not side.neighbours.addresses.entries[id].holders:
            continue
        if neighbour_is_over(&side.neighbours.entries[id], r.now_s):
            drop_waiting(r, towards, id)
            if towards == OUTBOUND and side.neighbours.entries[id].state == NEIGHBOUR_SOUGHT:
                neighbour_enter(&side.neighbours, &side.neighbours.entries[id], NEIGHBOUR_UNREACHABLE)
            else:
                neighbours_forget(&side.neighbours, id)
        elif neighbour_is_due(&side.neighbours.entries[id], r.now_s):
            router_ask(r, towards, <const uint8_t *>side.neighbours.addresses.entries[id].words)


cdef void _close(port *self) noexcept nogil:
    """What waits is not sent any more."""
    cdef router *r = <router *>self
    cdef uint32_t towards, i
    for towards in range(2):
        for i in range(<uint32_t>WAITING_MAX):
            if r.sides[towards].waiting[i].data != NULL:
                pool_release(self.owner.buffers, r.sides[towards].waiting[i].data)
                r.sides[towards].waiting[i].data = NULL
                share_give_back(&r.sides[towards].waiting_shares, r.sides[towards].waiting[i].share)


cdef port_ops _ops
_ops.open = _open
_ops.rx_burst = _rx_burst
_ops.rx_release = _rx_release
_ops.tx_burst = _tx_burst
_ops.tx_flush = _tx_flush
_ops.arm = NULL
_ops.event = NULL
_ops.message = _message
_ops.tick = _tick
_ops.close = _close


cdef class Router(Port):
    """Guests' way out, through *engine*: a port of the switch ("router" is its role there), and for its uplink the
    receiver `outside`. While it is in a worker, call the engine within `worker.paused()` only.
    """

    def __cinit__(self, NatEngine engine):
        cdef uint64_t seed[2]
        cdef const uint8_t[:] chance = os.urandom(sizeof(seed))
        memcpy(seed, &chance[0], sizeof(seed))
        self.engine = engine
        self.state = <router *>calloc(1, sizeof(router))
        if self.state is NULL:
            raise MemoryError
        self.base = &self.state.base
        self.base.ops = &_ops
        self.base.flags = PORT_UP
        self.base.takes = TAKES_ALL
        self.base.frame_max = FRAME_BYTES_MAX
        self.state.engine = engine._open()
        self.state.uplink = PORTS_MAX - 1
        self.state.leg = PORT_NONE
        if not (
            shares_init(&self.state.sides[<int>OUTBOUND].waiting_shares, WAITING_MAX, seed)
            and shares_init(&self.state.sides[<int>INBOUND].waiting_shares, WAITING_MAX, seed)
            and neighbours_init(&self.state.sides[<int>OUTBOUND].neighbours, OUTSIDE_MAX, TOLD_MAX, seed)
            and neighbours_init(&self.state.sides[<int>INBOUND].neighbours, INSIDE_MAX, 0, seed)
        ):
            raise MemoryError

    def __dealloc__(self):
        if self.state is not NULL:
            shares_free(&self.state.sides[<int>OUTBOUND].waiting_shares)
            shares_free(&self.state.sides[<int>INBOUND].waiting_shares)
            neighbours_free(&self.state.sides[<int>OUTBOUND].neighbours)
            neighbours_free(&self.state.sides[<int>INBOUND].neighbours)
        self.state = NULL  # the base class frees it

    def set_up(self, worker, number, config):
        """Tell the router in place *number* of *worker* of its sides, a `RouterConfig`; also to change them.

        Neighbours on the uplink are asked for their MAC addresses again.
        """
        worker.send(number, RouterMessage.ROUTER_SETUP, setup_payload(config))

    def set_neighbour(self, worker, number, ip, said, *, way=Way.UPLINK):
        """*ip* is reached by that `Way`, and what is *said* of it, its MAC address or `Told`, holds from now on.

        OSError when there are too many, or when there is none to take away.
        """
        worker.send(number, RouterMessage.ROUTER_NEIGHBOUR, neighbour_payload(way, ip_address(ip), said))

    @property
    def outside(self):
        """The receiver for the port of the uplink."""
        return _receiver(self, _outside_burst)

    @property
    def inside(self):
        """The receiver for the port of the leg."""
        return _receiver(self, _leg_burst)

    @property
    def unresolved(self):
        """Packets that were dropped because nobody answered for their next hop, or for the guest: (out, in)."""
        return self.state.sides[<int>OUTBOUND].unresolved, self.state.sides[<int>INBOUND].unresolved


cdef Side _receiver(
    Router of, void (*burst)(receiver *, port *, port_frame *, uint32_t) noexcept nogil
):
    cdef Side side = Side()
    side.of = of
    side.state.base.burst = burst
    side.state.of = of.state
    return side


cdef class Side(Receiver):
    """What a router's uplink, or its leg, sends to. Made by the router."""

    def __cinit__(self):
        self.state = <router_receiver *>calloc(1, sizeof(router_receiver))
        if self.state is NULL:
            raise MemoryError
        self.base = &self.state.base
