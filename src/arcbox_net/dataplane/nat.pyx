"""A burst of frames through the NAT: check, find the flow, rewrite. What is unusual goes to `nat_slow.pyx`."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.verdict cimport DROP_NO_FLOW, Direction
from arcbox_net.memory.frame cimport frame


cdef void nat_burst(
    nat_engine *engine, frame *frames, uint32_t count, Direction direction, uint64_t now_ns, uint8_t *verdicts
) noexcept nogil:
    """Translate up to BURST_MAX frames in place; a verdict for each."""
    cdef uint32_t i
    if now_ns > engine.now_ns:
        engine.now_ns = now_ns
        engine.now_s = <uint32_t>(now_ns // 1_000_000_000)
    for i in range(count):
        verdicts[i] = nat_one(engine, &frames[i], direction)
        engine.verdicts[verdicts[i]] += 1


cdef uint8_t nat_one(nat_engine *engine, frame *packet, Direction direction) noexcept nogil:
    """Translate one frame in the time of the burst that is under way."""
    return DROP_NO_FLOW
