"""The NAT engine for Python programs: batches in, verdicts out, and everything that is known of its flows."""

import time
from ipaddress import ip_address

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from arcbox_net.dataplane.address_table cimport ADDRESS_NONE
from arcbox_net.dataplane.conntrack cimport (
    conntrack_bytes, conntrack_close, conntrack_next, conntrack_rearm, flow_timeouts,
)
from arcbox_net.dataplane.engine_forwards cimport forward_add, forward_gone, forward_remove, forwards_check
from arcbox_net.dataplane.engine_listing cimport address_of, flow_view, guest_address, mapping_view, protocol_of
from arcbox_net.dataplane.engine_setup cimport (
    engine_free, engine_make, setup_answers, setup_mappings, setup_settings, setup_timeouts,
)
from arcbox_net.dataplane.engine_state cimport nat_engine, nat_settings
from arcbox_net.dataplane.flow cimport FLOW_NONE
from arcbox_net.dataplane.flow_filter cimport flow_filter, flow_is_allowed, flow_matches
from arcbox_net.dataplane.mapping cimport MAPPING_NONE, mapping_config, mapping_next
from arcbox_net.dataplane.mapping_setup cimport mapping_reconfigure
from arcbox_net.dataplane.nat cimport nat_burst, nat_expire
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND, VERDICTS, Direction
from arcbox_net.memory.batch cimport FrameBatch

from arcbox_net.dataplane.nat_views import Emission, NatForward
from arcbox_net.dataplane.verdict import Direction as _Direction
from arcbox_net.dataplane.verdict import Verdict as _Verdict
from arcbox_net.errors import ConfigError, ForwardNotFound, LimitReached, NotRunning

cdef enum:
    STEP = 1024  # places of a table that are looked at before other threads get their turn
    NOW_S_END = 0x7FFFFFFF  # tables have seconds in 32 bits

# What the tables were made for.
_FOR_LIFE = ("conntrack_size", "fast_cache_size", "l3_offset", "seed")


cdef class NatEngine:
    """RFC 4787/5382/5508 NAT of IPv4 and IPv6 packets in the caller's memory. No I/O, no thread, no clock but `now`.

    Calls hold the GIL, each for a bounded time (a burst of 64 frames, or a step of a listing), so threads that share
    an engine take turns. Compiled workers call `nat_burst` on `state` instead, one thread at a time.
    Close it when no other thread is in a call.
    `now` is in seconds of any clock that does not go back, `time.monotonic()` when None.
    """

    def __cinit__(self, config):
        self.state = <nat_engine *>calloc(1, sizeof(nat_engine))
        if self.state is NULL:
            raise MemoryError
        self.config = config
        self._forwards = []
        engine_make(self.state, config)

    def __dealloc__(self):
        self.close()

    cdef nat_engine *_open(self) except NULL:
        if self.state is NULL:
            raise NotRunning("the engine is closed", network=None)
        return self.state

    def close(self):
        """Forget every flow and free the tables; more calls raise NotRunning. Closing twice is fine."""
        if self.state is not NULL:
            engine_free(self.state)
        free(self.state)
        self.state = NULL

    def translate(self, batch, direction, now=None):
        """Translate up to 64 frames of one `Direction` in place; one `Verdict` byte for each.

        *batch* is a `FrameBatch` or a sequence of writable buffers, each one frame whose IP header is
        `config.l3_offset` bytes into it. A verdict below `DROP_FIRST` is no drop: FORWARD goes on the way it went,
        HAIRPIN goes back to a guest, HELD waits for the rest of a fragmented datagram, which comes out of `emitted`.
        """
        cdef Direction towards = _direction(direction)
        cdef uint64_t now_ns = _now_ns(now)
        cdef FrameBatch frames
        cdef nat_engine *state
        cdef bytes verdicts
        if isinstance(batch, FrameBatch):
            frames = <FrameBatch>batch
        else:
            frames = FrameBatch.over(batch, l3=self.config.l3_offset)
        verdicts = PyBytes_FromStringAndSize(NULL, frames.count)
        state = self._open()  # what came before may have run code of the caller's
        nat_burst(
            state,
            frames.frames,
            frames.count,
            towards,
            now_ns,
            <uint8_t *>PyBytes_AS_STRING(verdicts),
        )
        return verdicts

    def emitted(self):
        """The frames that the last `translate` or `expire` made, oldest first: fragments, ICMP errors, RSTs."""
        cdef nat_engine *state = self._open()
        made = []
        for i in range(state.emitted.count):
            made.append(
                Emission(
                    _Direction(state.emitted.towards[i]),
                    (<char *>state.emitted.frames[i].data)[: state.emitted.frames[i].size],
                )
            )
        return made

    def expire(self, now=None, budget=1024):
        """Close flows whose time is over, looking at *budget* at most; how many were closed. Once a second is enough:
        a call without work returns at once, and nothing ends early.
        """
        cdef uint64_t now_ns = _now_ns(now)
        cdef uint32_t most = budget
        return nat_expire(self._open(), now_ns, most)

    def flows(self):
        """Iterate the live flows as `NatFlow`. One that opens or closes meanwhile may be missed or seen."""
        cdef uint32_t cursor = 0, flow
        while True:
            flow = conntrack_next(&self._open().flows, &cursor, STEP)
            if flow != FLOW_NONE:
                yield flow_view(self.state, flow)
            elif cursor >= self.state.flows.begun:
                return

    def mappings(self):
        """Iterate the mappings as `NatMapping`. One that comes or goes meanwhile may be missed or seen."""
        cdef uint32_t id = 0
        while True:
            id = mapping_next(&self._open().mappings, id)
            if id == MAPPING_NONE:
                return
            yield mapping_view(self.state, id)
            id += 1

    def stats(self):
        """Counters since the start, and what is in the tables now.

        Each verdict and drop reason by its lower-case name without prefix ("forward", "bad_tcp_flags", …),
        "flows", "mappings", "guests", "ipv6_addresses", "bytes_per_flow"; "cache_lookups", "cache_hits" and
        "cache_bypassed" of the fast-path cache; "answers_limited" (ICMP errors not made) and "emit_overflows";
        "datagrams_joined", "datagrams_refused" and "datagrams_evicted" of reassembly.
        """
        cdef nat_engine *state = self._open()
        counted = {}
        for verdict in _Verdict:
            if verdict != VERDICTS:
                name = verdict.name.removeprefix("VERDICT_").removeprefix("DROP_").lower()
                counted[name] = state.verdicts[<int>verdict]
        return counted | {
            "flows": state.flows.flows,
            "mappings": state.mappings.mappings,
            "guests": state.mappings.guests.count,
            "ipv6_addresses": state.addresses.count,
            "cache_lookups": state.flows.cache.lookups,
            "cache_hits": state.flows.cache.hits,
            "cache_bypassed": state.flows.cache.bypassed,
            "bytes_per_flow": conntrack_bytes(&state.flows) // state.flows.flows_max,
            "answers_limited": state.answers.limited,
            "emit_overflows": state.emitted.overflows,
            "datagrams_joined": state.fragments.joined,
            "datagrams_refused": state.fragments.refused,
            "datagrams_evicted": state.fragments.store.evicted,
        }

    def flush(self, *, guest=None, protocol=None, forward=None):
        """Close the flows of a guest's address, a protocol ("tcp", "udp", "icmp"), a `NatForward`, or what all that is
        given matches; every flow when nothing is. How many were closed.
        """
        cdef nat_engine *state = self._open()
        cdef flow_filter wanted
        memset(&wanted, 0, sizeof(wanted))
        if guest is not None:
            wanted.guest_be = address_of(state, guest)
            if wanted.guest_be == ADDRESS_NONE:
                return 0
        if protocol is not None:
            wanted.protocol = protocol_of(protocol)
        if forward is not None:
            wanted.protocol = protocol_of(forward.protocol)
            wanted.external_be = address_of(state, forward.external_ip)
            if wanted.external_be == ADDRESS_NONE:
                return 0
            wanted.first_port = forward.external_port
            wanted.last_port = forward.external_port + forward.port_count - 1
        return self._sweep(&wanted)

    def add_forward(self, protocol, external_port, inside_ip, inside_port=None, *, port_count=1, external_ip=None):
        """Lead *port_count* external ports to a guest's, number by number; the `NatForward` for `remove_forward`.

        *protocol* is "tcp" or "udp", *inside_port* is *external_port* and *external_ip* the first address of the
        guest's family when None.
        Raises ForwardExists, with nothing added, when one of the ports is in use.
        """
        cdef nat_engine *state = self._open()
        if protocol not in ("tcp", "udp"):
            raise ConfigError(f"{protocol!r} has no ports", fix="use tcp or udp", field="protocol", value=protocol)
        guest = guest_address(state, inside_ip)
        if external_ip is None:
            external_ip = self.config.external_of(guest)
        if ip_address(external_ip).version != guest.version:
            raise ConfigError(
                f"{external_ip} and {inside_ip} are of different families", field="external_ip", value=external_ip
            )
        forward = NatForward(
            protocol,
            external_ip,
            external_port,
            inside_ip,
            external_port if inside_port is None else inside_port,
            port_count,
        )
        forward_add(state, forward)
        self._forwards.append(forward)
        return forward

    def remove_forward(self, forward):
        """Take a forward away and close exactly its flows. Raises ForwardNotFound."""
        cdef nat_engine *state = self._open()
        if forward not in self._forwards:
            raise ForwardNotFound(f"no such forward: {forward}", rule=forward)
        self._forwards.remove(forward)
        forward_remove(state, forward)
        self.flush(forward=forward)
        forward_gone(self._open(), forward)

    def forwards(self):
        """The forwards, in the order they were added."""
        self._open()
        return list(self._forwards)

    def reconfigure(self, config):
        """Swap the configuration. Flows that it still allows stay, the others are closed.

        A live mapping keeps its external port until it ends, also when that is in no range any more. Table sizes,
        `l3_offset` and `seed` are an engine's for life: ConfigError if they differ, if a forward's guest is not inside
        any more, and if filtering becomes address-dependent for the first time while there are flows.
        """
        cdef nat_engine *state = self._open()
        cdef mapping_config mappings
        cdef nat_settings settings
        cdef flow_timeouts timeouts
        for name in _FOR_LIFE:
            if getattr(config, name) != getattr(self.config, name):
                raise ConfigError(
                    f"{name} cannot change while the engine runs",
                    fix="make another engine",
                    field=name,
                    value=getattr(config, name),
                )
        forwards_check(self._forwards, config)
        setup_settings(&settings, config, state.settings.machines.seed)
        setup_timeouts(&timeouts, config)
        setup_mappings(state, &mappings, config)
        if state.mappings.contacts.contacts_max == 0 and mappings.contacts_max and state.flows.flows:
            raise ConfigError(
                f"whom {state.flows.flows} flows speak to was not noted, which address-dependent filtering goes by",
                fix="flush() first, or make another engine",
                field="filtering",
                value=config.filtering,
            )
        # From here on nothing runs code of Python's, so no other thread's burst sees half of a configuration.
        if not mapping_reconfigure(&state.mappings, &mappings):
            raise LimitReached(
                "no memory, or too many external addresses with those that still have mappings or guests",
                limit="external addresses",
                value=mappings.external_count,
            )
        state.settings = settings
        state.flows.timeouts = timeouts
        setup_answers(state)
        self.config = config
        self._sweep(NULL)

    cdef _sweep(self, const flow_filter *wanted):
        """Close the flows that *wanted* matches; for NULL, those that the settings do not allow any more."""
        cdef nat_engine *state
        cdef uint32_t cursor = 0, flow, closed = 0, looked
        cdef bint more = True
        while more:
            state = self._open()
            looked = cursor + STEP
            while cursor < looked:
                flow = conntrack_next(&state.flows, &cursor, looked - cursor)
                if flow == FLOW_NONE:
                    more = cursor < state.flows.begun
                    break
                if flow_matches(state, flow, wanted) if wanted else not flow_is_allowed(state, flow):
                    conntrack_close(&state.flows, flow)
                    closed += 1
                elif wanted is NULL:
                    conntrack_rearm(&state.flows, flow)
            with nogil:  # other threads' turn
                pass
        return closed


cdef Direction _direction(direction) except *:
    if direction != OUTBOUND and direction != INBOUND:
        raise ConfigError(f"{direction!r} is no Direction", field="direction", value=direction)
    return direction


cdef uint64_t _now_ns(now) except? 0:
    cdef double seconds
    if now is None:
        return time.monotonic_ns()
    seconds = now
    if not 0 <= seconds < NOW_S_END:
        raise ConfigError(f"a time of {now!r} s", fix="count from a start, in seconds", field="now", value=now)
    return <uint64_t>(seconds * 1e9)
