"""Connections of a guest through a real TUN, in namespaces of their own: what its kernel and its peer see."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import random
import socket
from collections.abc import Iterator

import pytest

from tests.support.descriptors import no_descriptors
from tests.support.egress import GUEST4, GUEST6, HOST6, WORLD6, EgressBed, listening
from tests.support.netns import Host
from tests.support.relay import is_reset, read_exactly, reset, send_and_end, wait_until

pytestmark = pytest.mark.e2e
MIB = 1 << 20
TCP_REPAIR = 19
WORLD4 = Host.world_ip
SILENT, NO_HOST, NO_NET = 7001, 7003, 7004
RULES = f"""
table inet answers {{
    chain input {{
        type filter hook input priority 0
        tcp dport {SILENT} drop
        tcp dport {NO_HOST} meta nfproto ipv4 reject with icmp type host-unreachable
        tcp dport {NO_NET} meta nfproto ipv4 reject with icmp type net-unreachable
        tcp dport {NO_HOST} meta nfproto ipv6 reject with icmpv6 type addr-unreachable
        tcp dport {NO_NET} meta nfproto ipv6 reject with icmpv6 type no-route
    }}
}}
"""
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(scope="module")
def bed() -> Iterator[EgressBed]:
    with EgressBed(shards=2) as running:
        running.world.run("nft -f -", stdin=RULES)
        yield running


@pytest.fixture(params=[WORLD4, WORLD6], ids=["ipv4", "ipv6"])
def pair(bed: EgressBed, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The guest's socket and the server's."""
    with _pair(bed, request.param) as (client, served):
        yield client, served


class _pair:
    def __init__(self, bed: EgressBed, address: str) -> None:
        with listening(bed.world, address) as (server, port):
            self._client = bed.dial(address, port)
            self._served, _ = server.accept()
            self._served.settimeout(30)

    def __enter__(self) -> Pair:
        return self._client, self._served

    def __exit__(self, *exc: object) -> None:
        self._client.close()
        self._served.close()


def _ping(client: socket.socket, served: socket.socket) -> None:
    client.sendall(b"p")
    assert served.recv(1) == b"p"
    served.sendall(b"q")
    assert client.recv(1) == b"q"


def _swap(pair: Pair, upward: bool) -> Pair:
    return pair if upward else (pair[1], pair[0])


both_families = pytest.mark.parametrize("address", [WORLD4, WORLD6], ids=["ipv4", "ipv6"])
both_ways = pytest.mark.parametrize("upward", [True, False], ids=["guest-first", "server-first"])


def test_bytes_go_both_ways_and_are_counted(bed: EgressBed, pair: Pair) -> None:
    client, served = pair
    client.sendall(b"hello")
    assert read_exactly(served, 5) == b"hello"
    served.sendall(b"worlds")
    assert read_exactly(client, 6) == b"worlds"
    name = client.getsockname()[:2]

    def counted() -> bool:
        (flow,) = (flow for flow in bed.relay.flows() if (flow["guest"], flow["guest_port"]) == name)
        return (flow["state"], flow["bytes_out"], flow["bytes_in"]) == ("open", 5, 6)

    wait_until(counted, "5 bytes out, 6 bytes in")
    peer = client.getpeername()[:2]
    assert any((flow["peer"], flow["peer_port"]) == peer for flow in bed.relay.flows())


@both_families
def test_t3_a_closed_port_looks_closed(bed: EgressBed, address: str) -> None:
    with listening(bed.world, address) as (_, port):
        pass
    with pytest.raises(ConnectionRefusedError):
        bed.dial(address, port)
    assert any(flow["reason"] == "connection refused" for flow in bed.relay.flows())


@pytest.mark.parametrize(
    ("port", "number"), [(NO_HOST, errno.EHOSTUNREACH), (NO_NET, errno.ENETUNREACH)], ids=["host", "network"]
)
@both_families
def test_t4_what_is_unreachable_is_unreachable_for_the_guest(
    bed: EgressBed, address: str, port: int, number: int
) -> None:
    with pytest.raises(OSError) as caught:
        bed.dial(address, port)
    assert caught.value.errno == number


@both_families
def test_t4_a_blackhole_is_silent(bed: EgressBed, address: str) -> None:
    with pytest.raises(TimeoutError):
        bed.dial(address, SILENT, timeout=0.3)


@both_families
def test_t5_no_connection_is_there_before_the_server_has_answered(bed: EgressBed, address: str) -> None:
    """The server's answer is held up: until then the guest's socket stays in SYN-SENT."""
    with listening(bed.world, address) as (server, port):
        rule = (
            f"table inet late {{ chain in {{ type filter hook input priority 0; tcp dport {port} drop; }}; }}"
        )
        bed.world.run("nft -f -", stdin=rule)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        client = bed.guest.call(lambda: socket.socket(family))
        client.setblocking(False)
        assert client.connect_ex((address, port)) == errno.EINPROGRESS
        name = client.getsockname()[:2]

        def dialled() -> bool:
            return any(
                (flow["guest"], flow["guest_port"], flow["state"]) == (*name, "connecting")
                for flow in bed.relay.flows()
            )

        wait_until(dialled, "the relay dials")
        with pytest.raises(OSError, match="not connected"):
            client.getpeername()
        bed.world.run("nft delete table inet late")
        served, _ = server.accept()
        client.settimeout(30)
        wait_until(lambda: client.connect_ex((address, port)) in (0, errno.EISCONN), "connected")
        _ping(client, served)
        client.close()
        served.close()


@both_ways
def test_t33_100_mib_arrive_with_the_same_sha256(pair: Pair, upward: bool) -> None:
    source, sink = _swap(pair, upward)
    block = random.Random(7).randbytes(MIB)
    thread = send_and_end(source, block * 100)
    digest = hashlib.sha256()
    sizes = random.Random(8)
    while chunk := sink.recv(sizes.choice((1000, 65536, 4 * MIB))):
        digest.update(chunk)
    thread.join()
    assert digest.hexdigest() == hashlib.sha256(block * 100).hexdigest()


@both_ways
def test_t1_fin_comes_after_all_data_and_the_other_way_goes_on(pair: Pair, upward: bool) -> None:
    near, far = _swap(pair, upward)
    request = random.Random(1).randbytes(5 * MIB)
    send_and_end(near, request)
    assert read_exactly(far, len(request)) == request
    assert far.recv(1) == b""
    answer = random.Random(2).randbytes(12 * MIB)
    send_and_end(far, answer)
    assert read_exactly(near, len(answer)) == answer
    assert near.recv(1) == b""


@both_ways
def test_t2_a_reset_of_one_side_is_a_reset_of_the_other(pair: Pair, upward: bool) -> None:
    near, far = _swap(pair, upward)
    _ping(*pair)
    reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)


@both_ways
def test_t2_close_with_unread_data_resets_the_sender(pair: Pair, upward: bool) -> None:
    near, far = _swap(pair, upward)
    near.sendall(b"never read")
    wait_until(lambda: far.recv(1, socket.MSG_PEEK) == b"n", "the data arrived")
    far.close()
    assert is_reset(near)


@both_ways
def test_t11_a_reader_that_stops_stops_the_writer_and_nothing_is_lost(
    bed: EgressBed, pair: Pair, upward: bool
) -> None:
    source, sink = _swap(pair, upward)
    source.settimeout(0.5)
    total = 0
    with pytest.raises(TimeoutError):
        while True:
            total += source.send(bytes(MIB))
    source.settimeout(30)
    sender = send_and_end(source, b"end" * 1000)
    assert len(read_exactly(sink, total + 3000)) == total + 3000
    assert sink.recv(1) == b""
    sender.join()


@both_families
def test_t7_two_syns_that_cross_are_one_connection(bed: EgressBed, address: str) -> None:
    """The peer hears no SYN of ours, and sends its own from the port that we dial."""
    six = ":" in address
    made = bed.world.call(lambda: socket.socket(socket.AF_INET6 if six else socket.AF_INET))
    with made, bed.guest.call(lambda: socket.socket(made.family)) as client:
        made.settimeout(30)
        made.bind((address, 0))
        port = made.getsockname()[1]
        deaf = f"tcp dport {port} tcp flags & (syn | ack) == syn drop"
        bed.world.run(
            "nft -f -",
            stdin=f"table inet deaf {{ chain in {{ type filter hook input priority 0; {deaf}; }}; }}",
        )
        client.setblocking(False)
        assert client.connect_ex((address, port)) == errno.EINPROGRESS
        dialling = f"ss -Htn state syn-sent dport = {port}"
        wait_until(lambda: bed.host.run(dialling).stdout != "", "the dial has begun")
        source = bed.host.run(dialling).stdout.split()[2].rpartition(":")[2]
        made.connect((HOST6 if six else bed.host.host_ip, int(source)))
        client.settimeout(30)
        _ping(client, made)
        bed.world.run("nft delete table inet deaf")


@both_families
def test_t6_a_source_port_is_used_again_at_once(bed: EgressBed, address: str) -> None:
    """The relay's end of the first connection is in TIME_WAIT when the guest's second SYN comes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with listening(bed.world, address) as (server, port):
        source_port = 0
        for _ in range(3):
            with bed.guest.call(lambda: socket.socket(family)) as client:
                client.settimeout(30)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("", source_port))
                client.connect((address, port))
                source_port = client.getsockname()[1]
                served, _ = server.accept()
                served.close()
                assert client.recv(1) == b""
            wait_until(
                lambda: all(
                    flow["state"] == "closed"
                    for flow in bed.relay.flows()
                    if flow["guest_port"] == source_port  # noqa: B023
                ),
                "the flow has ended",
            )


def test_t6_a_syn_of_a_connection_that_lives_is_answered_by_the_kernel_that_has_it(bed: EgressBed) -> None:
    """A guest that forgot its connection (TCP_REPAIR closes without a packet) sends a SYN with its ports."""
    with listening(bed.world, WORLD4) as (server, port):
        forgotten = bed.guest.call(socket.socket)
        forgotten.settimeout(30)
        forgotten.bind(
            (GUEST4, 0)
        )  # connect() alone may choose a port that an earlier test left in TIME_WAIT
        forgotten.connect((WORLD4, port))
        source_port = forgotten.getsockname()[1]
        served, _ = server.accept()
        _ping(forgotten, served)
        forgotten.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        forgotten.close()
        returned = bed.stat("syn_returned")
        with bed.guest.call(socket.socket) as again:
            again.settimeout(30)
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind((GUEST4, source_port))
            again.connect((WORLD4, port))  # challenge ACK, RST, and the SYN once more
            second, _ = server.accept()
            _ping(again, second)
            second.close()
        assert bed.stat("syn_returned") > returned
        assert is_reset(served)
        served.close()


@both_families
def test_t28_a_segment_of_a_connection_that_nobody_knows_is_reset(bed: EgressBed, address: str) -> None:
    """As after a restart of the relay: the guest's kernel has the connection, and nobody else."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with bed.guest.call(lambda: socket.socket(family)) as client:
        client.settimeout(30)
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        client.bind((GUEST6 if ":" in address else GUEST4, 0))
        client.connect((address, 80))  # established, without a packet
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        with pytest.raises(ConnectionResetError):
            client.send(b"are you there")
            client.recv(1)


def test_many_connections_at_once_stay_apart_and_leave_nothing(bed: EgressBed) -> None:
    with listening(bed.world, WORLD4) as (server, port):
        clients = bed.guest.call(lambda: [socket.socket() for _ in range(300)])
        for client in clients:
            client.setblocking(False)
            client.connect_ex((WORLD4, port))
        served = [server.accept()[0] for _ in clients]
        for i, client in enumerate(clients):
            client.settimeout(30)
            client.sendall(i.to_bytes(4, "big"))
        for sock in served:
            sock.settimeout(30)
            sock.sendall(read_exactly(sock, 4) * 2)
            sock.close()
        for i, client in enumerate(clients):
            assert read_exactly(client, 8) == i.to_bytes(4, "big") * 2
            assert client.recv(1) == b""
            client.close()

    def all_closed() -> bool:
        return all(flow["state"] == "closed" for flow in bed.relay.flows() if flow["peer_port"] == port)

    wait_until(all_closed, "no flow is left")


def test_k5_without_descriptors_a_new_connection_is_reset_and_the_others_live_on() -> None:
    with EgressBed() as bed, _pair(bed, WORLD4) as known, listening(bed.world, WORLD4) as (server, port):
        late = bed.guest.call(lambda: [socket.socket() for _ in range(10)])
        with no_descriptors():
            wakeups = bed.stat("wakeups")
            for client in late:
                client.settimeout(30)
                with pytest.raises(ConnectionRefusedError):
                    client.connect((WORLD4, port))
            assert bed.stat("refused_fds") == 10
            _ping(*known)
            assert bed.stat("wakeups") - wakeups < 50
        for client in late:
            client.close()
        with bed.dial(WORLD4, port) as client:
            served, _ = server.accept()
            _ping(client, served)
            served.close()


def test_k5_with_a_descriptor_for_one_side_only_the_guest_is_reset() -> None:
    with EgressBed() as bed, listening(bed.world, WORLD4) as (_, port):
        (late,) = bed.guest.call(lambda: [socket.socket()])
        with no_descriptors(spare=1):  # for the dial
            late.settimeout(30)
            try:
                late.connect((WORLD4, port))
                assert is_reset(late)
            except ConnectionResetError:
                pass
            wait_until(lambda: bed.stat("refused_fds") == 1, "the connection was given up")
        late.close()
        assert bed.stat("active") == 0
        with bed.dial(WORLD4, port):
            pass


def test_g2_the_connection_past_the_limit_is_reset_and_the_others_live_on() -> None:
    with EgressBed(flows_max=3) as bed:
        pairs = [_pair(bed, WORLD4) for _ in range(3)]
        with listening(bed.world, WORLD4) as (_, port), pytest.raises(ConnectionRefusedError):
            bed.dial(WORLD4, port)
        assert bed.stat("refused_limit") == 1
        for known in pairs:
            with known as (client, served):
                _ping(client, served)
        wait_until(lambda: bed.stat("active") == 0, "all have ended")
        with _pair(bed, WORLD4) as (client, served):
            _ping(client, served)


def test_an_idle_flow_is_reset_on_both_sides() -> None:
    with EgressBed(idle_timeout_s=1) as bed, _pair(bed, WORLD4) as (client, served):
        assert is_reset(client)
        assert is_reset(served)
        assert bed.stat("idle_timeout") == 1
        assert bed.relay.flows()[0]["reason"] == "idle"


def test_connections_that_nobody_waits_for_are_reset_each() -> None:
    with EgressBed() as bed:
        strays: list[socket.socket] = []

        def knock() -> None:
            for _ in range(200):
                with contextlib.suppress(ConnectionResetError):  # before connect() returns
                    strays.append(socket.create_connection(("127.0.0.1", bed.listener4_port)))

        bed.inside.call(knock)
        wait_until(lambda: bed.stat("accepted_stray") == 200, "all were reset")
        for stray in strays:
            stray.close()


def test_a_relay_whose_tun_was_deleted_sleeps() -> None:
    with EgressBed() as bed:
        before = bed.stat("wakeups")
        bed.inside.run("ip link delete out0")
        wait_until(lambda: bed.stat("wakeups") > before, "the thread was told")
        seen: list[int] = []

        def at_rest() -> bool:
            seen.append(bed.stat("wakeups"))
            return len(seen) >= 20 and len(set(seen[-20:])) == 1

        wait_until(at_rest, "the thread sleeps")
