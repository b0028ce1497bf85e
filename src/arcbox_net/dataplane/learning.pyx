"""What one switch learns, the switches of the network's other workers hear: an address is one port's in all of them.

Theory of operation
    Each worker has a switch with tables of its own, and only its own ports' frames teach it. What is new there, a MAC
    or an IPv6 address that a guest took, is told to each other switch by a ring, and again in each span of 2^TOLD_BITS
    seconds in which it is used. What was heard ages like what was learned, from the end of that span on: nowhere is an
    address free while the port's own worker holds it. Notices are taken before every burst, tick and
    message, so a switch knows whatever the others knew when the frame before it came in.

    Two ports of two workers may be the first with an address at the same moment. Then the lower number has it, in all
    tables, once both notices are there. What control says (static entries) is told by nobody, and is never overruled.

    A notice of a port that is not bound is ignored: messages reach a port's own worker last, so that what it told
    before it was unbound is gone before another is bound to the number. A notice for which a ring has no room is lost
    until the address is told anew.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.binding cimport binding, binding_is_of
from arcbox_net.dataplane.fdb cimport fdb_hear
from arcbox_net.dataplane.notices cimport (
    NOTICE_BYTES, NOTICE_MAC, NOTICE_OWNER, NOTICES_CAPACITY, notice, notice_kind,
    notice_lasts_s,
)
from arcbox_net.dataplane.owners cimport owners_hear
from arcbox_net.dataplane.port cimport PORTS_MAX
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.memory.ring cimport ring_enqueue_burst, ring_peek, ring_release
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES


cdef void tell_mac(switch_state *s, uint64_t mac, uint16_t port) noexcept nogil:
    _tell(s, NOTICE_MAC, <const uint8_t *>&mac, sizeof(mac), port)


cdef void tell_owner(switch_state *s, const uint8_t *address, uint16_t port) noexcept nogil:
    _tell(s, NOTICE_OWNER, address, IPV6_ADDRESS_BYTES, port)


cdef void _tell(
    switch_state *s, notice_kind kind, const uint8_t *address, size_t size, uint16_t port
) noexcept nogil:
    cdef notice said
    cdef uint32_t i
    memset(&said, 0, sizeof(said))
    memcpy(said.address, address, size)
    said.port = port
    said.kind = kind
    said.heard_s = s.now_s
    for i in range(s.peers):
        ring_enqueue_burst(s.telling[i], <const uint8_t *>&said, 1)


cdef void learning_hear(switch_state *s) noexcept nogil:
    """Take what the others have told."""
    cdef uint8_t *span
    cdef uint32_t peer, _piece, i, count
    for peer in range(s.peers):
        for _piece in range(<uint32_t>2):  # a ring's items lie in two pieces at most
            count = ring_peek(s.hearing[peer], NOTICES_CAPACITY, &span)
            if count == 0:
                break
            for i in range(count):
                _hear(s, <const notice *>(span + i * NOTICE_BYTES))
            ring_release(s.hearing[peer], count)


cdef void _hear(switch_state *s, const notice *said) noexcept nogil:
    cdef const binding *b
    cdef uint64_t mac
    if s.owner == NULL or said.port >= PORTS_MAX:
        return
    b = &s.bindings[said.port]
    if not binding_is_of(b, s.owner.ports[said.port]):
        return
    if said.kind == NOTICE_MAC:
        memcpy(&mac, said.address, sizeof(mac))
        fdb_hear(&s.macs, mac, said.port, b.learned_max, notice_lasts_s(said))
    elif said.kind == NOTICE_OWNER:
        owners_hear(&s.owners, said.address, said.port, notice_lasts_s(said), s.now_s)
