"""Relay egress as Python sees it: doors in, counters and flows out. The work is done by nogil threads.

    relay = EgressRelay([Door(tun_fd, listener4_fd, gateway4="192.168.64.1")])
    relay.set_host_addresses(["198.51.100.7"])
    relay.start()

One thread serves one door. Calls may come from any thread. Directions are the guest's: `bytes_out` left it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_load_relaxed_u64
from arcbox_net.abi.files cimport F_SETFL, O_NONBLOCK, close, fcntl
from arcbox_net.abi.socket cimport AF_INET, ntohs, sockaddr_in, sockaddr_in6
from arcbox_net.relay.datagrams cimport (
    DATAGRAM_COUNTER_COUNT, ECHO_COUNTER_COUNT, relay_datagrams, relay_echoes,
)
from arcbox_net.relay.door cimport (
    DOOR_COUNTER_COUNT, IPV4_DOOR, IPV6_DOOR, door_prepare, door_release, relay_door,
)
from arcbox_net.relay.flow cimport (
    ABANDONED, ADDRESS_BYTES, CLOSED, CONNECT_FAILED, CONNECT_TIMEOUT, COUNTER_COUNT, IDLE_TIMEOUT,
    ITEM_ECHO_ENDPOINT, ITEM_GATE_FLOW, ITEM_UDP_ENDPOINT, REFUSED_FDS, REQUEST_ADD,
    REQUEST_REACH, REQUEST_REMOVE, REQUEST_STOP, RESET, TCP_CONNECTING, TCP_OFFERED, flow_row,
    relay_request, relay_rule, relay_worker,
)
from arcbox_net.relay.pipes cimport pipe_reserve
from arcbox_net.relay.policy cimport Policy, make_policy, packed_address, port_list
from arcbox_net.relay.reach cimport reach_policy
from arcbox_net.relay.tcp cimport tcp_tune, tcp_unpace
from arcbox_net.relay.worker cimport (
    worker_flows, worker_free, worker_init, worker_post, worker_serve, worker_wait,
)

import contextlib
import ipaddress
import os
import resource
import threading

from arcbox_net.relay.doors import Door

# A flow's counters are named for the side that dialled us, which is the guest: what came in from it went out.
FLOW_COUNTERS = (
    "accepted", "active", "closed", "reset", "refused_limit", "refused_fds", "connect_failed",
    "connect_timeout", "idle_timeout", "abandoned", "bytes_out", "bytes_in", "datagrams_out", "datagrams_in",
    "dropped",
)
DOOR_COUNTERS = (
    "packets_in", "packets_out", "drop_short", "drop_virtio", "drop_ip_header", "drop_fragment",
    "drop_protocol", "drop_l4_header", "drop_checksum", "drop_address", "drop_write", "drop_destination",
    "drop_tcp_port", "drop_tcp_flags", "drop_tcp_segment", "drop_guests", "drop_dials", "drop_answer",
    "syn_repeated", "syn_replaced", "syn_returned", "segment_returned", "refused_host", "refused_guest",
    "resets_sent", "errors_sent", "accepted_stray",
)
DATAGRAM_COUNTERS = (
    "udp_endpoints", "udp_opened", "udp_expired", "udp_out", "udp_in", "udp_bytes_out", "udp_bytes_in",
    "udp_errors_told", "udp_drop_destination", "udp_drop_limit", "udp_drop_guest_limit",
    "udp_drop_descriptors", "udp_drop_busy", "udp_drop_too_big", "udp_drop_send", "udp_drop_stranger",
    "udp_drop_tun",
)
ECHO_COUNTERS = (
    "echo_endpoints", "echo_opened", "echo_expired", "echo_out", "echo_in", "echo_errors_told",
    "echo_drop_forbidden", "echo_drop_destination", "echo_drop_limit", "echo_drop_guest_limit",
    "echo_drop_descriptors", "echo_drop_send", "echo_drop_stranger", "echo_drop_tun",
)
assert len(DATAGRAM_COUNTERS) == DATAGRAM_COUNTER_COUNT
assert len(ECHO_COUNTERS) == ECHO_COUNTER_COUNT
assert len(FLOW_COUNTERS) <= COUNTER_COUNT
assert len(DOOR_COUNTERS) == DOOR_COUNTER_COUNT

REASONS = {
    CLOSED: "closed", RESET: "reset", REFUSED_FDS: "out of descriptors", CONNECT_TIMEOUT: "connect timeout",
    IDLE_TIMEOUT: "idle", ABANDONED: "abandoned",
}

PROTOCOLS = {ITEM_GATE_FLOW: "tcp", ITEM_UDP_ENDPOINT: "udp", ITEM_ECHO_ENDPOINT: "icmp"}

cdef enum:
    DOORS_MAX = 16
    FDS_PER_FLOW = 2
    FDS_PERCENT = 90  # of nofile may be held by flows
    ENDPOINT_FDS_PERCENT = 30  # and by UDP endpoints, which have one each: the rest stays for connections


cdef class EgressRelay:
    """Carries what guests send out: connections through sockets of this process."""

    cdef relay_worker *workers[DOORS_MAX]
    cdef relay_door *doors[DOORS_MAX]
    cdef int count
    cdef uint32_t flows_max, rows_max
    cdef list addresses
    cdef tuple ports
    cdef object lock, threads, state
    cdef dict last_stats

    def __cinit__(
        self, doors, *, flows_max=16384, flows_per_guest_max=4096, dials_max=1024, dials_per_guest_max=256,
        udp_flows_max=16384, udp_flows_per_guest_max=4096, udp_idle_s=300, dns_idle_s=30,
        echo_flows_max=1024, echo_flows_per_guest_max=256, echo_idle_s=60, closed_flows_max=256,
        connect_timeout_ms=20000, offer_timeout_ms=60000, idle_timeout_s=7440,
    ):
        cdef int i, failure
        doors = [Door(*door) for door in doors]
        shares = len(doors)
        if not 1 <= shares <= DOORS_MAX:
            raise ValueError(f"{shares} doors: expected 1 to {DOORS_MAX}")
        for name, value, least in (
            ("flows_max", flows_max, shares), ("flows_per_guest_max", flows_per_guest_max, 1),
            ("dials_max", dials_max, shares), ("dials_per_guest_max", dials_per_guest_max, 1),
            ("udp_flows_max", udp_flows_max, shares), ("udp_flows_per_guest_max", udp_flows_per_guest_max, 1),
            ("udp_idle_s", udp_idle_s, 1), ("dns_idle_s", dns_idle_s, 1), ("echo_idle_s", echo_idle_s, 1),
            ("echo_flows_max", echo_flows_max, shares),
            ("echo_flows_per_guest_max", echo_flows_per_guest_max, 1),
            ("closed_flows_max", closed_flows_max, 0), ("connect_timeout_ms", connect_timeout_ms, 1),
            ("offer_timeout_ms", offer_timeout_ms, 1), ("idle_timeout_s", idle_timeout_s, 0),
        ):
            if not least <= value < 2**31:
                raise ValueError(f"{name} {value}: expected {least} or more")
        self.lock = threading.Lock()
        self.threads = []
        self.state = "new"
        self.addresses = []
        self.ports = ([], [])
        self.flows_max = flows_max
        self.last_stats = {}
        self.rows_max = 0
        for i, door in enumerate(doors):
            self.workers[i] = <relay_worker *>calloc(1, sizeof(relay_worker))
            self.doors[i] = <relay_door *>calloc(1, sizeof(relay_door))
            if self.workers[i] == NULL or self.doors[i] == NULL:
                free(self.workers[i])
                free(self.doors[i])
                raise MemoryError
            failure = worker_init(
                self.workers[i], _share(flows_max, shares), False
            )
            if failure:
                free(self.workers[i])
                free(self.doors[i])
                raise OSError(failure, f"relay thread: {os.strerror(failure)}")
            self.count = i + 1
            pipe_reserve(self.workers[i])  # later the user's quota may be another program's
            self.workers[i].connecting.timeout_ms = connect_timeout_ms
            self.workers[i].offered.timeout_ms = offer_timeout_ms
            self.workers[i].idle.timeout_ms = <uint64_t>idle_timeout_s * 1000
            self.workers[i].udp_idle.timeout_ms = <uint64_t>udp_idle_s * 1000
            self.workers[i].dns_idle.timeout_ms = <uint64_t>dns_idle_s * 1000
            self.workers[i].echo_idle.timeout_ms = <uint64_t>echo_idle_s * 1000
            self.doors[i].flows_max = _share(flows_max, shares)
            self.doors[i].flows_per_guest_max = _share(flows_per_guest_max, shares)
            self.doors[i].dials_max = _share(dials_max, shares)
            self.doors[i].dials_per_guest_max = _share(dials_per_guest_max, shares)
            self.doors[i].closed_max = _share(closed_flows_max, shares)
            self.doors[i].udp_flows_max = _share(udp_flows_max, shares)
            self.doors[i].udp_flows_per_guest_max = _share(udp_flows_per_guest_max, shares)
            self.doors[i].echo_flows_max = _share(echo_flows_max, shares)
            self.doors[i].echo_flows_per_guest_max = _share(echo_flows_per_guest_max, shares)
            self.doors[i].guest_mtu = door.mtu
            self.rows_max += (
                self.workers[i].flows_max + self.doors[i].udp_flows_max + self.doors[i].echo_flows_max
                + self.doors[i].closed_max
            )
            self.doors[i].rule.fd = self.doors[i].listeners[0].fd = self.doors[i].listeners[1].fd = -1
            _set_gateway(self.doors[i], IPV4_DOOR, door.gateway4)
            _set_gateway(self.doors[i], IPV6_DOOR, door.gateway6)
            if not door_prepare(self.workers[i], self.doors[i]):
                raise MemoryError
            _set_up_sockets(door)
        for i, door in enumerate(doors):  # nothing can fail any more: the descriptors are ours
            self.doors[i].rule.id = <uint64_t>i
            self.doors[i].rule.fd = door.tun_fd
            self.doors[i].listeners[IPV4_DOOR].fd = door.listener4_fd
            self.doors[i].listeners[IPV6_DOOR].fd = door.listener6_fd

    def __dealloc__(self):
        self._free_all()  # a running thread holds a reference to this object, so none runs here

    cdef void _free_all(self):
        cdef int version
        cdef relay_door *door
        while self.count:
            self.count -= 1
            worker_free(self.workers[self.count])
            door = self.doors[self.count]
            door_release(door)
            free(door.reach)
            if door.rule.fd >= 0:
                close(door.rule.fd)
            for version in range(2):
                if door.listeners[version].fd >= 0:
                    close(door.listeners[version].fd)
            free(door)
            free(self.workers[self.count])

    def start(self):
        """Start the threads, in the network namespace of the caller: there they dial. A second call does nothing."""
        cdef int i
        cdef relay_datagrams *d
        with self.lock:
            if self.state == "running":
                return
            if self.state == "stopped":
                raise RuntimeError("the relay was stopped")
            fds_max = _raise_descriptor_limit()
            flows_max = min(self.flows_max, fds_max * FDS_PERCENT // 100 // FDS_PER_FLOW)
            endpoints_max = _share(fds_max * ENDPOINT_FDS_PERCENT // 100, self.count)
            for i in range(self.count):
                self.doors[i].flows_max = _share(flows_max, self.count)
                d = <relay_datagrams *>self.doors[i].datagrams
                d.table.live_max = min(d.table.live_max, <uint32_t>endpoints_max)
            self._post_all(REQUEST_ADD)
            for i in range(self.count):
                self.workers[i].running = 1
                thread = threading.Thread(target=self._run, args=(i,), name=f"egress-{i}", daemon=True)
                self.threads.append(thread)
                thread.start()
            self.state = "running"

    def stop(self):
        """Reset every flow, close every door and join the threads."""
        with self.lock:
            if self.state == "stopped":
                return
            self._post_all(REQUEST_STOP)
            for thread in self.threads:
                thread.join()
            self._post_all(REQUEST_REMOVE)
            self.last_stats = self._count()
            self.threads.clear()
            self._free_all()
            self.state = "stopped"

    def set_host_addresses(self, addresses):
        """The addresses of the host: guests cannot connect to them, but for what `set_hairpin` lists."""
        with self.lock:
            self.addresses = [packed_address(address) for address in addresses]
            self._post_reach()

    def set_hairpin(self, ports, udp=()):
        """(address, port) pairs of the host that guests may reach because something is published there; an
        unspecified address stands for all of its version. *ports* are of TCP.
        """
        with self.lock:
            self.ports = (port_list(ports), port_list(udp))
            self._post_reach()

    def stats(self):
        """Counters since the relay was made: of flows, of packets, and one for each reason to drop or refuse."""
        with self.lock:
            return dict(self.last_stats) if self.state == "stopped" else self._count()

    def flows(self):
        """Every live flow and the last ones that ended, the latest of a thread first, as a dict each."""
        cdef flow_row *rows
        cdef relay_worker *w
        cdef size_t n
        cdef int i
        found = []
        with self.lock:
            if self.state == "stopped":
                return found
            rows = <flow_row *>calloc(self.rows_max, sizeof(flow_row))
            if rows == NULL:
                raise MemoryError
            try:
                for i in range(self.count):
                    w = self.workers[i]
                    with nogil:
                        n = worker_flows(w, rows, self.rows_max)
                    found += [_row_dict(&rows[k]) for k in range(<Py_ssize_t>n)]
            finally:
                free(rows)
        return found

    def _run(self, int index):
        worker_serve(self.workers[index])

    cdef dict _count(self):
        cdef int i, k
        cdef relay_datagrams *d
        cdef relay_echoes *echoes
        totals = dict.fromkeys(
            (*FLOW_COUNTERS, *DOOR_COUNTERS, *DATAGRAM_COUNTERS, *ECHO_COUNTERS, "wakeups"), 0
        )
        for i in range(self.count):
            for k, name in enumerate(FLOW_COUNTERS):
                totals[name] += abx_load_relaxed_u64(&self.doors[i].rule.counters[k])
            for k, name in enumerate(DOOR_COUNTERS):
                totals[name] += abx_load_relaxed_u64(&self.doors[i].counters[k])
            d = <relay_datagrams *>self.doors[i].datagrams
            echoes = <relay_echoes *>self.doors[i].echoes
            for k, name in enumerate(DATAGRAM_COUNTERS):
                totals[name] += abx_load_relaxed_u64(&d.counters[k])
            for k, name in enumerate(ECHO_COUNTERS):
                totals[name] += abx_load_relaxed_u64(&echoes.counters[k])
            totals["wakeups"] += abx_load_relaxed_u64(&self.workers[i].wakeups)
        return {name: value % 2**64 for name, value in totals.items()}

    cdef _post_reach(self):
        """Give each worker its copy of what is to hold from now on."""
        cdef Policy policy
        cdef int i
        for i in range(self.count):
            policy = make_policy(self.addresses, self.ports)
            self._post(i, REQUEST_REACH, policy)

    cdef _post_all(self, int kind):
        cdef int i
        for i in range(self.count):
            self._post(i, kind, None)

    cdef _post(self, int index, int kind, Policy policy):
        """Post a request to one worker and wait for it; OSError when it failed."""
        cdef relay_request request
        cdef relay_rule *rule = &self.doors[index].rule
        cdef relay_worker *w = self.workers[index]
        memset(&request, 0, sizeof(request))
        request.kind = kind
        request.rules = &rule
        request.count = 1
        if policy is not None:
            request.policy = policy.raw
        with nogil:
            worker_post(w, &request)
            worker_wait(w, &request)
        if policy is not None:
            policy.raw = <reach_policy *>request.policy
        if request.failure:
            raise OSError(request.failure, f"relay: {os.strerror(request.failure)}")


cdef uint32_t _share(total, shares):
    """What one thread may have of *total*: endpoints spread over the threads, so none needs more."""
    return (total + shares - 1) // shares


cdef void _set_gateway(relay_door *door, int version, address) noexcept:
    cdef bytes packed
    if address is None:
        return
    packed = packed_address(address)
    memcpy(door.gateways[version], <const char *>packed, ADDRESS_BYTES)
    door.has_gateway[version] = 1


cdef _set_up_sockets(door):
    for fd in (door.tun_fd, door.listener4_fd, door.listener6_fd):
        if fd >= 0 and fcntl(fd, F_SETFL, O_NONBLOCK) < 0:
            raise OSError(f"descriptor {fd}: its options cannot be set")
    for fd in (door.listener4_fd, door.listener6_fd):
        if fd >= 0:
            if tcp_tune(fd) < 0:
                raise OSError(f"descriptor {fd}: its options cannot be set")
            tcp_unpace(fd)  # guests are on this machine


cdef dict _row_dict(flow_row *row):
    guest, guest_port = _address_of(&row.client)
    peer, peer_port = _address_of(&row.peer)
    return {
        "protocol": PROTOCOLS[row.protocol],
        "guest": guest,
        "guest_port": guest_port,
        "peer": peer,
        "peer_port": peer_port,
        "state": _state_of(row),
        "age_s": row.age_ms / 1000.0,
        "idle_s": row.idle_ms / 1000.0,
        "bytes_out": row.bytes_in,
        "bytes_in": row.bytes_out,
        "reason": _reason_of(row) if row.ended_ms else "",
    }


cdef str _state_of(flow_row *row):
    if row.ended_ms:
        return "closed"
    if row.protocol == ITEM_GATE_FLOW and row.state in (TCP_CONNECTING, TCP_OFFERED):
        return "connecting"
    return "half-closed" if row.half_closed else "open"


cdef str _reason_of(flow_row *row):
    if row.outcome == CONNECT_FAILED:
        return os.strerror(row.failure).lower()
    return REASONS[row.outcome]


cdef tuple _address_of(const sockaddr_in6 *name):
    """(address, L4 port); ("", 0) where there is none."""
    cdef const sockaddr_in *v4 = <const sockaddr_in *>name
    if name.sin6_family == AF_INET:
        return str(ipaddress.IPv4Address((<const char *>&v4.sin_addr)[:4])), ntohs(v4.sin_port)
    if name.sin6_family:
        return str(ipaddress.IPv6Address((<const char *>&name.sin6_addr)[:16])), ntohs(name.sin6_port)
    return "", 0


def _raise_descriptor_limit():
    """The default soft limit is 1024; how many there may be now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft
