"""The splice relay as Python sees it: rules in, counters out. The work is done by nogil threads (worker.pyx).

    relay = SpliceRelay()
    relay.start()
    rule_id = relay.add_tcp(listener.detach(), ("192.168.64.5", 80))

Calls may come from any thread. Rules can be added before `start()` and are all gone after `stop()`.
With `netns_fd` the threads dial in that network namespace, wherever the listeners are.
"""

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_load_relaxed_u64
from arcbox_net.abi.files cimport F_SETFL, O_NONBLOCK, close, fcntl
from arcbox_net.abi.namespaces cimport CLONE_NEWNET, setns
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVPKTINFO, SO_ACCEPTCONN, SO_TYPE,
    SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, getsockname, getsockopt, htons, ntohs, setsockopt, sockaddr,
    sockaddr_in, sockaddr_in6, socklen_t,
)
from arcbox_net.relay.flow cimport (
    COUNTER_COUNT, GUEST_SUBNETS_MAX, ITEM_TCP_FLOW, ITEM_TCP_RULE, ITEM_UDP_RULE, REQUEST_ADD,
    REQUEST_REMOVE, REQUEST_STOP, TCP_CONNECTING, flow_row, item_init, list_reset, relay_request,
    relay_rule, relay_worker,
)
from arcbox_net.relay.tcp cimport tcp_tune, tcp_unpace
from arcbox_net.relay.udp cimport udp_tune
from arcbox_net.relay.worker cimport (
    worker_flows, worker_free, worker_init, worker_post, worker_serve, worker_wait,
)

import ipaddress
import os
import queue
import resource
import threading

COUNTERS = (
    "accepted", "active", "closed", "reset", "refused_limit", "refused_fds", "connect_failed",
    "connect_timeout", "idle_timeout", "abandoned", "bytes_in", "bytes_out", "datagrams_in", "datagrams_out",
    "dropped", "dials_as_client", "dials_as_gateway",
)
assert len(COUNTERS) == COUNTER_COUNT

cdef enum:
    WORKERS_MAX = 16


cdef class _Rule:
    """One forward: a part for each worker that serves it, and the listening socket, which it owns."""

    cdef relay_rule *parts[WORKERS_MAX]
    cdef int fd

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        # Nobody else holds the parts: they were never posted, or the workers have dropped them.
        for i in range(WORKERS_MAX):
            free(self.parts[i])
        if self.fd >= 0:
            close(self.fd)


cdef class SpliceRelay:
    """Forwards TCP connections and UDP datagrams from listening sockets to fixed targets."""

    cdef relay_worker *workers[WORKERS_MAX]
    cdef int worker_count
    cdef uint32_t flows_max
    cdef dict rules
    cdef uint64_t last_id
    cdef uint64_t removed[COUNTER_COUNT]  # what rules that are gone had counted
    cdef uint64_t wakeups  # of threads that have ended
    cdef object lock, threads, state, netns_fd

    def __cinit__(
        self, *, int threads=1, flows_max=16384, connect_timeout_ms=10000, idle_timeout_s=7440, udp_idle_s=300,
        netns_fd=None, guest_subnets=(),
    ):
        cdef int failure
        if not 1 <= threads <= WORKERS_MAX:
            raise ValueError(f"threads {threads}: expected 1 to {WORKERS_MAX}")
        for name, value, least in (
            ("flows_max", flows_max, threads), ("connect_timeout_ms", connect_timeout_ms, 1),
            ("idle_timeout_s", idle_timeout_s, 0), ("udp_idle_s", udp_idle_s, 0),
        ):
            if not least <= value < 2**31:
                raise ValueError(f"{name} {value}: expected {least} or more")
        self.rules = {}
        self.lock = threading.Lock()
        self.threads = []
        self.state = "new"
        self.flows_max = flows_max
        self.netns_fd = netns_fd
        subnets = [ipaddress.ip_network(subnet) for subnet in guest_subnets]
        if len(subnets) > GUEST_SUBNETS_MAX:
            raise ValueError(f"{len(subnets)} guest subnets: expected {GUEST_SUBNETS_MAX} or less")
        for i in range(threads):
            self.workers[i] = <relay_worker *>calloc(1, sizeof(relay_worker))
            if self.workers[i] == NULL:
                raise MemoryError
            failure = worker_init(self.workers[i], self.flows_max // <uint32_t>threads, threads > 1)
            if failure:
                free(self.workers[i])
                self.workers[i] = NULL
                raise OSError(failure, f"relay thread: {os.strerror(failure)}")
            self.worker_count = i + 1
            self.workers[i].connecting.timeout_ms = connect_timeout_ms
            self.workers[i].idle.timeout_ms = <uint64_t>idle_timeout_s * 1000
            self.workers[i].udp_idle.timeout_ms = <uint64_t>udp_idle_s * 1000
            _fill_subnets(self.workers[i], subnets)

    def __dealloc__(self):
        self._free_workers()  # a running thread holds a reference to this object, so none runs here

    cdef void _free_workers(self):
        while self.worker_count:
            self.worker_count -= 1
            self.wakeups += self.workers[self.worker_count].wakeups
            worker_free(self.workers[self.worker_count])
            free(self.workers[self.worker_count])

    def start(self):
        """Start the threads. A second call does nothing; a stopped relay stays stopped.

        OSError when a thread cannot enter the network namespace, and then none runs.
        """
        with self.lock:
            if self.state == "running":
                return
            self._open_only()
            _raise_descriptor_limit()
            entered = queue.SimpleQueue()
            agreed = threading.Event()
            for i in range(self.worker_count):
                self.workers[i].running = 1
                thread = threading.Thread(
                    target=self._run, args=(i, entered, agreed), name=f"relay-{i}", daemon=True
                )
                self.threads.append(thread)
                thread.start()
            failures = [failure for _ in range(self.worker_count) if (failure := entered.get())]
            if failures:
                for i in range(self.worker_count):
                    self.workers[i].running = 0
            agreed.set()
            if failures:
                for thread in self.threads:
                    thread.join()
                self.threads.clear()
                raise failures[0]
            self.state = "running"

    def stop(self):
        """Reset every flow, close every listener and join the threads."""
        with self.lock:
            if self.state == "stopped":
                return
            self._ask(REQUEST_STOP, [])
            for thread in self.threads:
                thread.join()
            self._ask(REQUEST_REMOVE, list(self.rules.values()))
            self._keep_counts(self.rules.values())
            self.rules.clear()
            self.threads.clear()
            self._free_workers()
            self.state = "stopped"

    def add_tcp(self, int listener_fd, target, *, bint transparent=False):
        """Take over *listener_fd* and forward what it accepts to *target*; the rule's id.

        `transparent`: dial from the client's own address where that can be (source.pyx says where).
        When this raises, the descriptor is still the caller's.
        """
        return self.add_tcp_many([(listener_fd, target)], transparent=transparent)[0]

    def add_tcp_many(self, forwards, *, bint transparent=False):
        """`add_tcp` for many at once: all are added or none."""
        return self._add(ITEM_TCP_RULE, list(forwards), transparent)

    def add_udp(self, int socket_fd, target, *, bint transparent=False):
        """Take over the bound *socket_fd* and forward its datagrams to *target*; the rule's id."""
        return self.add_udp_many([(socket_fd, target)], transparent=transparent)[0]

    def add_udp_many(self, forwards, *, bint transparent=False):
        """`add_udp` for many at once: all are added or none."""
        return self._add(ITEM_UDP_RULE, list(forwards), transparent)

    def remove(self, rule_id):
        """Close the rule's listener and reset its flows. KeyError when there is no such rule."""
        self.remove_many([rule_id])

    def remove_many(self, rule_ids):
        """`remove` for many at once."""
        for fd in self.release_many(rule_ids):
            os.close(fd)

    def release_many(self, rule_ids):
        """Remove rules and reset their flows; their listening sockets, in order, are the caller's again."""
        cdef _Rule rule
        with self.lock:
            gone = {rule_id: self.rules[rule_id] for rule_id in rule_ids}
            if gone:
                self._ask(REQUEST_REMOVE, list(gone.values()))
                self._keep_counts(gone.values())
            fds = []
            for rule_id, rule in gone.items():
                del self.rules[rule_id]
                fds.append(rule.fd)
                rule.fd = -1
            return fds

    def stats(self, rule_id=None):
        """Counters of one rule, or of the whole relay since it was made, with `wakeups` and `rules`."""
        cdef uint64_t totals[COUNTER_COUNT]
        cdef uint64_t wakeups
        cdef int i
        if rule_id is not None:
            self.rules[rule_id]  # KeyError when there is no such rule
            return self.stats_of([rule_id])
        with self.lock:
            memcpy(totals, self.removed, sizeof(totals))
            for rule in self.rules.values():
                _add_counts(<_Rule>rule, totals)
            wakeups = self.wakeups
            for i in range(self.worker_count):
                wakeups += abx_load_relaxed_u64(&self.workers[i].wakeups)
            found = {name: totals[i] for i, name in enumerate(COUNTERS)}
            return {**found, "wakeups": wakeups, "rules": len(self.rules)}

    def stats_of(self, rule_ids):
        """Counters of those rules together; one that is gone adds nothing."""
        cdef uint64_t totals[COUNTER_COUNT]
        cdef int i
        memset(totals, 0, sizeof(totals))
        with self.lock:
            for rule_id in rule_ids:
                if rule_id in self.rules:
                    _add_counts(<_Rule>self.rules[rule_id], totals)
            return {name: totals[i] for i, name in enumerate(COUNTERS)}

    def flows(self):
        """Every live flow, as a dict each."""
        cdef flow_row *rows
        cdef relay_worker *w
        cdef size_t n
        found = []
        rows = <flow_row *>calloc(self.flows_max, sizeof(flow_row))
        if rows == NULL:
            raise MemoryError
        try:
            with self.lock:
                for i in range(self.worker_count):
                    w = self.workers[i]
                    with nogil:
                        n = worker_flows(w, rows, self.flows_max)
                    found += [_row_dict(&rows[k]) for k in range(<Py_ssize_t>n)]
        finally:
            free(rows)
        return found

    def _run(self, int index, entered, agreed):
        entered.put(self._enter())
        agreed.wait()
        if not self.workers[index].running:
            return
        worker_serve(self.workers[index])

    def _enter(self):
        """The error that keeps the calling thread out of the namespace, None when it is where it belongs."""
        if self.netns_fd is None or setns(self.netns_fd, CLONE_NEWNET) == 0:
            return None
        return OSError(errno, f"relay: enter the network namespace: {os.strerror(errno)}")

    def _add(self, int kind, list forwards, bint transparent):
        cdef _Rule rule
        made = []
        with self.lock:
            self._open_only()
            taken = dict.fromkeys(fd for fd, _ in forwards)
            if len(taken) != len(forwards):
                raise ValueError("a listener was given twice")
            for fd, target in forwards:
                self.last_id += 1
                made.append(self._make_rule(kind, fd, target, self.last_id, transparent))
            self._ask(REQUEST_ADD, made)
            ids = []
            for rule, (fd, _) in zip(made, forwards):
                rule.fd = fd
                rule_id = self._first_part(rule).id
                self.rules[rule_id] = rule
                ids.append(rule_id)
            return ids

    cdef relay_rule *_first_part(self, _Rule rule):
        for i in range(self.worker_count):
            if rule.parts[i] != NULL:
                return rule.parts[i]
        return NULL

    cdef _Rule _make_rule(self, int kind, int fd, target, uint64_t rule_id, bint transparent):
        """A rule with a part for each worker (UDP: for one, which keeps the table of its clients)."""
        cdef _Rule rule = _Rule()
        cdef relay_rule *part
        cdef bint wildcard
        address = ipaddress.ip_address(target[0])
        if not 1 <= target[1] <= 65535:
            raise ValueError(f"target port {target[1]}: expected 1 to 65535")
        wildcard = _check_socket(kind, fd, address, target[1], self.netns_fd is not None)
        for i in range(self.worker_count):
            if kind == ITEM_UDP_RULE and <uint64_t>i != rule_id % <uint64_t>self.worker_count:
                continue
            part = <relay_rule *>calloc(1, sizeof(relay_rule))
            if part == NULL:
                raise MemoryError
            rule.parts[i] = part
            item_init(&part.item, kind)
            list_reset(&part.flows)
            part.rule_link.item = &part.item
            part.id = rule_id
            part.fd = fd
            part.wildcard = wildcard
            part.self_dial = address.is_loopback
            part.transparent = transparent
            part.inside = self.netns_fd is not None
            _fill_address(&part.target, &part.target_size, address.packed, target[1])
        if fcntl(fd, F_SETFL, O_NONBLOCK) < 0 or (kind == ITEM_TCP_RULE and tcp_tune(fd) < 0):
            raise OSError(f"descriptor {fd}: its options cannot be set")
        if kind == ITEM_UDP_RULE:
            udp_tune(fd)
        return rule

    def _ask(self, int kind, list rules):
        """Post one request to each worker and wait for all. OSError when one failed, and then none holds."""
        cdef relay_request requests[WORKERS_MAX]
        cdef relay_worker *w
        cdef int failure = 0
        memset(requests, 0, sizeof(requests))
        try:
            for i in range(self.worker_count):
                requests[i].kind = kind
                requests[i].rules = <relay_rule **>calloc(len(rules) + 1, sizeof(relay_rule *))
                if requests[i].rules == NULL:
                    raise MemoryError
                for rule in rules:
                    if (<_Rule>rule).parts[i] != NULL:
                        requests[i].rules[requests[i].count] = (<_Rule>rule).parts[i]
                        requests[i].count += 1
            for i in range(self.worker_count):
                w = self.workers[i]
                with nogil:
                    worker_post(w, &requests[i])
            for i in range(self.worker_count):
                w = self.workers[i]
                with nogil:
                    worker_wait(w, &requests[i])
                failure = requests[i].failure or failure
            if kind == REQUEST_ADD and failure:
                for i in range(self.worker_count):
                    if not requests[i].failure:
                        w = self.workers[i]
                        requests[i].kind = REQUEST_REMOVE
                        with nogil:
                            worker_post(w, &requests[i])
                            worker_wait(w, &requests[i])
                raise OSError(failure, f"relay: {os.strerror(failure)}")
        finally:
            for i in range(self.worker_count):
                free(requests[i].rules)

    def _keep_counts(self, rules):
        for rule in rules:
            _add_counts(<_Rule>rule, self.removed)

    def _open_only(self):
        if self.state == "stopped":
            raise RuntimeError("the relay was stopped")


cdef void _add_counts(_Rule rule, uint64_t *totals) noexcept:
    cdef int i, k
    for i in range(WORKERS_MAX):
        if rule.parts[i] != NULL:
            for k in range(<int>COUNTER_COUNT):
                totals[k] += abx_load_relaxed_u64(&rule.parts[i].counters[k])


cdef _fill_subnets(relay_worker *w, list subnets):
    cdef const char *raw
    cdef int i
    for i, subnet in enumerate(subnets):
        packed = subnet.network_address.packed
        raw = packed
        w.guest_subnets[i].family = AF_INET if len(packed) == 4 else AF_INET6
        w.guest_subnets[i].prefix_length = subnet.prefixlen
        memcpy(w.guest_subnets[i].address, raw, len(packed))
    w.guest_subnet_count = len(subnets)


cdef void _fill_address(sockaddr_in6 *name, uint32_t *size, bytes packed, int l4_port) noexcept:
    cdef sockaddr_in *v4 = <sockaddr_in *>name
    cdef const char *raw = packed
    if len(packed) == 4:
        v4.sin_family = AF_INET
        v4.sin_port = htons(<uint16_t>l4_port)
        memcpy(&v4.sin_addr, raw, 4)
        size[0] = sizeof(sockaddr_in)
    else:
        name.sin6_family = AF_INET6
        name.sin6_port = htons(<uint16_t>l4_port)
        memcpy(&name.sin6_addr, raw, 16)
        size[0] = sizeof(sockaddr_in6)


cdef dict _row_dict(flow_row *row):
    cdef bint tcp = row.protocol == ITEM_TCP_FLOW
    state = "open"
    client = ""  # one that is gone has no address any more
    if tcp and row.state == TCP_CONNECTING:
        state = "connecting"
    elif row.half_closed:
        state = "half-closed"
    if row.client.sin6_family:
        address, l4_port = _address_of(&row.client)
        client = f"[{address}]:{l4_port}" if address.version == 6 else f"{address}:{l4_port}"
    return {
        "rule": row.rule_id,
        "protocol": "tcp" if tcp else "udp",
        "state": state,
        "client": client,
        "age_ms": row.age_ms,
        "idle_ms": row.idle_ms,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "held": row.held,
    }


cdef tuple _address_of(const sockaddr_in6 *name):
    """(address, L4 port)"""
    cdef const sockaddr_in *v4 = <const sockaddr_in *>name
    if name.sin6_family == AF_INET:
        return ipaddress.IPv4Address((<const char *>&v4.sin_addr)[:4]), ntohs(v4.sin_port)
    if name.sin6_family == AF_INET6:
        return ipaddress.IPv6Address((<const char *>&name.sin6_addr)[:16]), ntohs(name.sin6_port)
    raise ValueError("not an IPv4 or IPv6 socket")


cdef _socket_option(int fd, int name):
    cdef int value = 0
    cdef socklen_t size = sizeof(value)
    if getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0:
        raise OSError(errno, f"descriptor {fd}: {os.strerror(errno)}")
    return value


cdef bint _check_socket(int kind, int fd, address, int target_port, bint elsewhere) except -1:
    """Whether *fd* is bound to no address. ValueError when it cannot serve such a rule."""
    cdef sockaddr_in6 name
    cdef socklen_t size = sizeof(name)
    cdef int on = 1
    cdef bint tcp = kind == ITEM_TCP_RULE
    if _socket_option(fd, SO_TYPE) != (SOCK_STREAM if tcp else SOCK_DGRAM):
        raise ValueError(f"descriptor {fd} is not a {'TCP' if tcp else 'UDP'} socket")
    if tcp and not _socket_option(fd, SO_ACCEPTCONN):
        raise ValueError(f"descriptor {fd} does not listen")
    memset(&name, 0, sizeof(name))
    if getsockname(fd, <sockaddr *>&name, &size) < 0:
        raise OSError(errno, f"descriptor {fd}: {os.strerror(errno)}")
    bound, bound_port = _address_of(&name)
    is_itself = bound == address or (bound.is_unspecified and address.is_loopback)
    if not elsewhere and bound_port == target_port and is_itself:
        raise ValueError(f"a forward from {bound} port {bound_port} to itself would never end")
    if tcp and (bound.is_loopback or (bound.version == 4 and not elsewhere)):
        # Other clients of an IPv4 forward do not come here where the kernel's map takes their packets first.
        tcp_unpace(fd)
    if tcp or not bound.is_unspecified:
        return False
    if name.sin6_family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on))
    else:
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on))
    return True


def _raise_descriptor_limit():
    """A flow takes two descriptors, and four more while it holds pipes; the default soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
