"""When to look at a flow again: one wheel of 8192 slots of a second each, flows linked through their `flow_cold`.

Theory of operation
    A flow is armed for a second, and may stay there while its packets come and go: nothing moves with a packet. When
    the wheel reaches the second, whoever turns it (conntrack.pyx) sees whether the flow is idle long enough, and arms
    it again if not (a lazy wheel). A time further ahead than the wheel reaches is such a look in between.
"""

from libc.stdint cimport int32_t, uint32_t

from arcbox_net.dataplane.flow cimport FLOW_NONE, flow_cold

cdef enum:
    WHEEL_SLOTS = 8192
    WHEEL_MASK = WHEEL_SLOTS - 1
    WHEEL_HEAD = 0x80000000  # `timer_previous` of a slot's first flow: this and the slot

cdef struct timer_wheel:
    uint32_t *slots  # WHEEL_SLOTS first flows
    flow_cold *cold
    uint32_t at_s  # every second until this one has been worked through


cdef inline uint32_t wheel_due(const timer_wheel *wheel) noexcept nogil:
    """A flow that is armed for the second after `at_s`, or FLOW_NONE."""
    return wheel.slots[(wheel.at_s + 1) & WHEEL_MASK]


cdef inline void wheel_arm(timer_wheel *wheel, uint32_t flow, uint32_t second) noexcept nogil:
    """Put *flow*, which is on no slot, where it is due at *second* or, if the wheel does not reach that far, before."""
    cdef int32_t ahead = <int32_t>(second - wheel.at_s)
    cdef uint32_t slot, follower
    if ahead < 1:
        ahead = 1
    elif ahead >= <int32_t>WHEEL_SLOTS:
        ahead = WHEEL_SLOTS - 1
    slot = (wheel.at_s + <uint32_t>ahead) & WHEEL_MASK
    follower = wheel.slots[slot]
    wheel.cold[flow].timer_next = follower
    wheel.cold[flow].timer_previous = WHEEL_HEAD | slot
    if follower != FLOW_NONE:
        wheel.cold[follower].timer_previous = flow
    wheel.slots[slot] = flow


cdef inline void wheel_disarm(timer_wheel *wheel, uint32_t flow) noexcept nogil:
    cdef uint32_t follower = wheel.cold[flow].timer_next
    cdef uint32_t previous = wheel.cold[flow].timer_previous
    if previous & WHEEL_HEAD:
        wheel.slots[previous & WHEEL_MASK] = follower
    else:
        wheel.cold[previous].timer_next = follower
    if follower != FLOW_NONE:
        wheel.cold[follower].timer_previous = previous
