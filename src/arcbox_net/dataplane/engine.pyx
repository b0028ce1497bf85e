"""The NAT engine for Python programs: batches in, verdicts out, and everything that is known of its flows."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.nat cimport nat_burst
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND, VERDICTS, Direction
from arcbox_net.memory.batch cimport FrameBatch

import time

from arcbox_net.dataplane.verdict import Verdict as _Verdict
from arcbox_net.errors import ConfigError, NotRunning


cdef class NatEngine:
    """RFC 4787/5382/5508 NAT of IPv4 packets in the caller's memory. No I/O, no thread, no clock but `now`.

    Calls hold the GIL, each for a bounded time (a burst of 64 frames, or a step of a listing), so threads that share
    an engine take turns. Compiled workers call `nat_burst` on `state` instead, one thread at a time.
    `now` is in seconds of any clock that does not go back, `time.monotonic()` when None.
    """

    def __cinit__(self, config):
        self.state = <nat_engine *>calloc(1, sizeof(nat_engine))
        if self.state is NULL:
            raise MemoryError
        self.config = config

    def __dealloc__(self):
        self.close()

    cdef nat_engine *_open(self) except NULL:
        if self.state is NULL:
            raise NotRunning("the engine is closed", network=None)
        return self.state

    def close(self):
        """Forget every flow and free the tables; more calls raise NotRunning. Closing twice is fine."""
        free(self.state)
        self.state = NULL

    def translate(self, batch, direction, now=None):
        """Translate up to 64 frames of one `Direction` in place; one `Verdict` byte for each.

        *batch* is a `FrameBatch` or a sequence of writable buffers, each one frame whose IPv4 header is
        `config.l3_offset` bytes into it. A verdict below `DROP_FIRST` is no drop: FORWARD goes on the way it went,
        HAIRPIN goes back to a guest, HELD waits for the rest of a fragmented datagram, which comes out of `emitted`.
        """
        cdef FrameBatch frames
        cdef nat_engine *state = self._open()
        cdef bytes verdicts
        if isinstance(batch, FrameBatch):
            frames = <FrameBatch>batch
        else:
            frames = FrameBatch.over(batch, l3=self.config.l3_offset)
        verdicts = PyBytes_FromStringAndSize(NULL, frames.count)
        nat_burst(
            state,
            frames.frames,
            frames.count,
            _direction(direction),
            _now_ns(now),
            <uint8_t *>PyBytes_AS_STRING(verdicts),
        )
        return verdicts

    def emitted(self):
        """The frames that the last `translate` or `expire` made, oldest first: fragments, ICMP errors, RSTs."""
        self._open()
        return []

    def expire(self, now=None, budget=4096):
        """Close flows whose time is over, at most *budget* looked at; how many were closed.

        Call it about once a second. Without `budget` work left it returns at once.
        """
        self._open()
        return 0

    def flows(self):
        """Iterate the live flows as `NatFlow`. One that opens or closes meanwhile may be missed or seen."""
        self._open()
        yield from ()

    def mappings(self):
        """Iterate the mappings as `NatMapping`."""
        self._open()
        yield from ()

    def stats(self):
        """Counters since the start, and what is in the tables now.

        Each verdict and drop reason by its lower-case name without prefix ("forward", "bad_tcp_flags", …),
        "flows", "mappings", "guests", "cache_hits", "cache_lookups", "bytes_per_flow".
        """
        cdef nat_engine *state = self._open()
        counted = {}
        for verdict in _Verdict:
            if verdict != VERDICTS:
                name = verdict.name.removeprefix("VERDICT_").removeprefix("DROP_").lower()
                counted[name] = state.verdicts[<int>verdict]
        return counted

    def flush(self, *, guest=None, protocol=None, forward=None):
        """Close the flows of a guest's address, a protocol ("tcp", "udp", "icmp"), a `NatForward`, or what all that is
        given matches; every flow when nothing is. How many were closed.
        """
        self._open()
        return 0

    def add_forward(self, protocol, external_port, inside_ip, inside_port=None, *, count=1, external_ip=None):
        """Lead *count* external ports to a guest's, number by number; the `NatForward` that `remove_forward` takes.

        *protocol* is "tcp" or "udp", *inside_port* is *external_port* and *external_ip* the first address when None.
        Raises ForwardExists, with nothing added, when one of the ports is in use.
        """
        self._open()
        raise NotImplementedError

    def remove_forward(self, forward):
        """Take a forward away and close exactly its flows. Raises ForwardNotFound."""
        self._open()
        raise NotImplementedError

    def forwards(self):
        """The forwards, in the order they were added."""
        self._open()
        return []

    def reconfigure(self, config):
        """Swap the configuration. Flows that it still allows stay, the others are closed.

        Table sizes, `l3_offset` and `seed` are an engine's for life: ConfigError if they differ.
        """
        self._open()
        self.config = config


cdef Direction _direction(direction) except *:
    if direction != OUTBOUND and direction != INBOUND:
        raise ConfigError(f"{direction!r} is no Direction", field="direction", value=direction)
    return direction


cdef uint64_t _now_ns(now) except? 0:
    if now is None:
        return time.monotonic_ns()
    return <uint64_t>(<double>now * 1e9)
