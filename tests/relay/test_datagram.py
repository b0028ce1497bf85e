"""UDP of a guest through a real TUN and host sockets, in namespaces of their own."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import resource
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.descriptors import no_descriptors, open_descriptors
from tests.support.egress import GATEWAY4, GUEST4, HOST6, WORLD6, EgressBed
from tests.support.netns import WORLD_SUBNET, Host, Namespace, wait_until

pytestmark = pytest.mark.e2e

DEADLINE_S = 30.0
UDP_SEGMENT = 103
UDP_GRO = 104
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
IP_PMTUDISC_DO = 2
IP_RECVERR, IPV6_RECVERR = 11, 25
SECOND4 = f"{WORLD_SUBNET}.99"
ANYCAST6 = str(ipaddress.ip_network(f"{HOST6}/64", strict=False)[0])


@pytest.fixture(scope="module")
def bed() -> Iterator[EgressBed]:
    with EgressBed() as running:
        yield running


both_families = pytest.mark.parametrize("address", [Host.world_ip, WORLD6], ids=["ipv4", "ipv6"])


def udp(where: Namespace, address: str = "", port: int = 0) -> socket.socket:
    """A UDP socket in *where*, of the family of *address* and bound to it when there is a port to ask for."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = where.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.settimeout(DEADLINE_S)
    if port >= 0:
        where.call(lambda: made.bind((address, port)))
    return made


@contextlib.contextmanager
def pair(bed: EgressBed, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected socket of the guest, and the world's that it is connected to."""
    with udp(bed.world, address) as server, udp(bed.guest, "::" if ":" in address else "") as client:
        client.connect(server.getsockname()[:2])
        yield client, server


@both_families
@pytest.mark.parametrize("size", [0, 1, 1400, 1453, 1472, 1473, 9000, 65507])
def test_a_datagram_and_its_answer_keep_their_bytes_and_bounds(
    bed: EgressBed, address: str, size: int
) -> None:
    payload = random.Random(size).randbytes(size)
    with pair(bed, address) as (client, server):
        client.send(payload)
        got, source = server.recvfrom(65536)
        assert got == payload
        server.sendto(payload[::-1], source)
        assert client.recv(65536) == payload[::-1]


@both_families
def test_a_super_frame_of_the_guest_arrives_as_its_datagrams(bed: EgressBed, address: str) -> None:
    datagrams = [bytes([i]) * 1200 for i in range(20)] + [b"the last one is shorter"]
    with pair(bed, address) as (client, server):
        client.sendmsg([b"".join(datagrams)], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 1200))])
        assert [server.recv(2000) for _ in datagrams] == datagrams


@both_families
def test_a_super_frame_of_the_peer_arrives_as_its_datagrams(bed: EgressBed, address: str) -> None:
    datagrams = [bytes([i]) * 1100 for i in range(30)] + [b"short"]
    with pair(bed, address) as (client, server):
        client.send(b"hello")
        _, source = server.recvfrom(10)
        segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 1100))]
        server.sendmsg([b"".join(datagrams)], segment, 0, source)
        assert [client.recv(2000) for _ in datagrams] == datagrams


@both_families
def test_segments_longer_than_the_way_out_are_told_or_fragmented(bed: EgressBed, address: str) -> None:
    """The guests' link carries more than the host's: what goes as one message inside is too long outside."""
    _set_mtu(bed, guest=9000)
    try:
        with pair(bed, address) as (client, _):
            discover(client, IP_PMTUDISC_DO)
            segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 4000))]
            client.sendmsg([bytes(12000)], segment)
            wait_until(lambda: too_big(client, 4000))
            assert path_mtu(bed, address) == 1500
        with pair(bed, address) as (client, server):
            client.send(bytes(4000))
            assert len(server.recv(5000)) == 4000
    finally:
        _set_mtu(bed, guest=1500)


def _set_mtu(bed: EgressBed, guest: int) -> None:
    bed.guest.run(f"ip link set eth0 mtu {guest}")
    bed.inside.run(f"ip link set g0 mtu {guest}")
    bed.guest.run("ip route flush cache")


def discover(sock: socket.socket, mode: int) -> None:
    """Set how *sock* deals with the path's MTU."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, mode)
    else:
        sock.setsockopt(socket.SOL_IP, IP_MTU_DISCOVER, mode)


def too_big(sock: socket.socket, size: int) -> bool:
    """Whether the kernel of *sock* knows by now that *size* bytes are too many."""
    try:
        sock.send(bytes(size))
    except OSError as error:
        return error.errno == errno.EMSGSIZE
    return False


def path_mtu(bed: EgressBed, address: str) -> int:
    """What the guest believes the path to carry."""
    (route,) = bed.guest.json(f"ip -j route get {address}")
    found: int = route["metrics"][0]["mtu"]
    return found


@both_families
def test_bursts_of_mixed_sizes_arrive_whole_and_in_order(bed: EgressBed, address: str) -> None:
    rng = random.Random(7)
    sizes = [rng.choice([0, 1, 200, 200, 200, 700, 1400]) for _ in range(200)]
    sent = [rng.randbytes(size) for size in sizes]
    with pair(bed, address) as (client, server):
        for datagram in sent[:100]:
            client.send(datagram)
        got, source = zip(*(server.recvfrom(2000) for _ in range(100)), strict=True)
        assert list(got) == sent[:100]
        for datagram in sent[100:]:
            server.sendto(datagram, source[0])
        assert [client.recv(2000) for _ in range(100)] == sent[100:]


@both_families
def test_n1_every_peer_sees_one_source(bed: EgressBed, address: str) -> None:
    with udp(bed.guest, "::" if ":" in address else "") as client, contextlib.ExitStack() as stack:
        servers = [stack.enter_context(udp(bed.world, address)) for _ in range(3)]
        sources = set()
        for server in servers:
            client.sendto(b"x", server.getsockname()[:2])
            sources.add(server.recvfrom(10)[1])
        assert len(sources) == 1


def test_n8_an_address_that_was_not_sent_to_is_not_heard(bed: EgressBed) -> None:
    bed.world.run(f"ip addr add 203.0.113.9/24 dev {bed.host.uplink_peer}", check=False)
    dropped = bed.stat("udp_drop_stranger")
    with udp(bed.world, bed.world_ip) as server, udp(bed.world, "203.0.113.9") as stranger:
        with udp(bed.guest) as client:
            client.sendto(b"hello", server.getsockname())
            _, source = server.recvfrom(10)
            stranger.sendto(b"unasked", source)
            with udp(bed.world, bed.world_ip) as neighbour:  # another port of a known address is heard
                neighbour.sendto(b"asked", source)
                assert client.recvfrom(10) == (b"asked", neighbour.getsockname())
    wait_until(lambda: bed.stat("udp_drop_stranger") == dropped + 1)


def test_peers_past_the_limit_are_forgotten_in_the_order_they_came(bed: EgressBed) -> None:
    with udp(bed.guest) as client, contextlib.ExitStack() as stack:
        servers = []
        for i in range(65):
            bed.world.run(f"ip addr add 203.0.113.{20 + i}/32 dev lo", check=False)
            servers.append(stack.enter_context(udp(bed.world, f"203.0.113.{20 + i}")))
            client.sendto(b"x", servers[-1].getsockname())
            _, source = servers[-1].recvfrom(10)
            if i == 63:
                servers[0].sendto(b"still known", source)
                assert client.recv(20) == b"still known"
        servers[0].sendto(b"forgotten", source)
        servers[1].sendto(b"known", source)
        assert client.recv(20) == b"known"


@both_families
def test_i10_a_closed_port_is_a_refusal_to_the_guest(bed: EgressBed, address: str) -> None:
    with udp(bed.world, address) as gone:
        name = gone.getsockname()[:2]
    with udp(bed.guest, "::" if ":" in address else "") as client:
        client.connect(name)
        client.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_n12_an_error_leaves_the_endpoint_and_its_peers_alone(bed: EgressBed) -> None:
    with udp(bed.world, bed.world_ip) as gone:
        name = gone.getsockname()
    with udp(bed.guest) as client, udp(bed.world, bed.world_ip) as server:
        told = bed.stat("udp_errors_told")
        client.sendto(b"x", name)
        wait_until(lambda: bed.stat("udp_errors_told") == told + 1)
        for _ in range(2):
            client.sendto(b"y", server.getsockname())
            _, source = server.recvfrom(10)
            server.sendto(b"z", source)
            assert client.recv(10) == b"z"


@pytest.mark.parametrize(
    ("address", "route", "expected"),
    [
        ("198.51.100.1", "unreachable 198.51.100.1", errno.EHOSTUNREACH),
        ("198.51.100.2", "prohibit 198.51.100.2", errno.EHOSTUNREACH),
        ("fd00:db8:9::1", "unreachable fd00:db8:9::1", errno.EHOSTUNREACH),
        ("fd00:db8:9::2", "prohibit fd00:db8:9::2", errno.EACCES),
    ],
)
def test_i10_a_destination_without_a_route_is_told_as_a_router_would(
    bed: EgressBed, address: str, route: str, expected: int
) -> None:
    bed.host.run(f"ip {'-6' if ':' in address else '-4'} route replace {route}")
    with udp(bed.guest, "::" if ":" in address else "") as client:
        client.connect((address, 9))
        if client.family == socket.AF_INET6:  # without it, a socket hears of hard errors only
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            client.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        client.send(b"x")
        with pytest.raises(OSError) as told:
            client.recv(10)
        assert told.value.errno == expected


@both_families
def test_n13_a_packet_too_big_for_the_path_is_told_with_its_mtu(bed: EgressBed, address: str) -> None:
    bed.host.run(f"ip link set {bed.host.uplink} mtu 1400")
    try:
        with pair(bed, address) as (client, _):
            discover(client, IP_PMTUDISC_DO)
            wait_until(lambda: too_big(client, 1390))
            assert path_mtu(bed, address) == 1400
        with pair(bed, address) as (client, server):
            client.send(bytes(1390))
            assert len(server.recv(2000)) == 1390
    finally:
        bed.host.run(f"ip link set {bed.host.uplink} mtu 1500")
        bed.guest.run("ip route flush cache")
        bed.guest.run("ip -6 route flush cache")


@both_families
def test_ttl_and_tos_are_the_guests_and_the_peers(bed: EgressBed, address: str) -> None:
    six = ":" in address
    level = socket.IPPROTO_IPV6 if six else socket.SOL_IP
    set_ttl, set_tos = (16, 67) if six else (2, 1)  # IPV6_UNICAST_HOPS, IPV6_TCLASS; IP_TTL, IP_TOS
    recv_ttl, recv_tos = (51, 66) if six else (12, 13)

    def header_fields(sock: socket.socket) -> tuple[int, int, object]:
        _, controls, _, source = sock.recvmsg(10, 200)
        found = {kind: int.from_bytes(value, "little") for _, kind, value in controls}
        return found[52 if six else 2], found[67 if six else 1], source

    with pair(bed, address) as (client, server):
        for sock in (client, server):
            sock.setsockopt(level, recv_ttl, 1)
            sock.setsockopt(level, recv_tos, 1)
            sock.setsockopt(level, set_ttl, 40)
            sock.setsockopt(level, set_tos, 0x2A)  # AF11 and ECT(0)
        client.send(b"x")
        ttl, tos, source = header_fields(server)
        assert (ttl, tos) == (39, 0x2A)
        server.sendto(b"y", source)  # type: ignore[arg-type]
        assert header_fields(client)[:2] == (39, 0x2A)


@pytest.mark.parametrize("address", [Host.host_ip, HOST6], ids=["ipv4", "ipv6"])
def test_h1_the_host_itself_looks_closed(bed: EgressBed, address: str) -> None:
    with udp(bed.host, address) as listener, udp(bed.guest, "::" if ":" in address else "") as client:
        client.connect(listener.getsockname()[:2])
        client.send(b"secret?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(10)


def test_an_address_of_the_host_that_nobody_listed_is_not_reached_either(bed: EgressBed) -> None:
    bed.host.run("ip addr add 198.51.100.77/32 dev lo", check=False)
    with udp(bed.host, "198.51.100.77") as listener, udp(bed.guest) as client:
        client.connect(listener.getsockname())
        client.send(b"secret?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_a_published_port_of_the_host_is_reached(bed: EgressBed) -> None:
    with udp(bed.host, bed.host.host_ip) as listener, udp(bed.guest) as client:
        bed.relay.set_hairpin([], udp=[(bed.host.host_ip, listener.getsockname()[1])])
        client.connect(listener.getsockname())
        client.send(b"hello")
        got, source = listener.recvfrom(10)
        listener.sendto(got, source)
        assert client.recv(10) == b"hello"


def test_h1_one_published_port_opens_no_other_of_the_host(bed: EgressBed) -> None:
    with (
        udp(bed.host, bed.host.host_ip) as published,
        udp(bed.host, bed.host.host_ip) as neighbour,
        udp(bed.guest) as client,
    ):
        bed.relay.set_hairpin([], udp=[(bed.host.host_ip, published.getsockname()[1])])
        client.sendto(b"hello", published.getsockname())
        assert published.recv(10) == b"hello"
        before = bed.stat("udp_drop_destination")
        client.sendto(b"secret?", neighbour.getsockname())
        wait_until(lambda: bed.stat("udp_drop_destination") == before + 1)
        neighbour.setblocking(False)
        with pytest.raises(BlockingIOError):
            neighbour.recv(10)


def test_h1_a_peer_whose_address_the_host_takes_is_a_peer_no_more(bed: EgressBed) -> None:
    with pair(bed, bed.world_ip) as (client, server):
        client.send(b"hello")
        assert server.recv(10) == b"hello"
        bed.relay.set_host_addresses([bed.host.host_ip, HOST6, bed.world_ip])
        client.send(b"secret?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        bed.relay.set_host_addresses([bed.host.host_ip, HOST6])


@pytest.mark.parametrize("address", [SECOND4, ANYCAST6], ids=["second of its subnet", "anycast of a router"])
def test_h1_an_address_of_the_host_that_nothing_leaves_from_is_not_reached(
    bed: EgressBed, address: str
) -> None:
    bed.host.run(f"ip addr add {SECOND4}/24 dev {bed.host.uplink}", check=False)
    bed.host.sysctl("net.ipv6.conf.all.forwarding", 1)
    wildcard = "::" if ":" in address else ""
    with udp(bed.host, wildcard) as listener, udp(bed.guest, wildcard) as client:
        client.connect((address, listener.getsockname()[1]))
        client.send(b"secret?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(10)


@pytest.mark.parametrize("address", ["224.0.0.251", "255.255.255.255"])
def test_multicast_and_broadcast_are_not_relayed(bed: EgressBed, address: str) -> None:
    before = bed.stat("udp_drop_destination")
    bed.guest.run(f"ip route replace {address} via {GATEWAY4}", check=False)
    with udp(bed.guest) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        raw = bed.inside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        with raw:  # straight into the TUN: a kernel would not route this
            raw.setsockopt(socket.SOL_SOCKET, 25, b"out0\0")  # SO_BINDTODEVICE
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            raw.sendto(_packet(GUEST4, address, 4000, 5353, b"x"), (address, 0))
        wait_until(lambda: bed.stat("udp_drop_destination") == before + 1)


def _packet(src: str, dst: str, src_port: int, dst_port: int, payload: bytes) -> bytes:
    """IPv4 and UDP, without a UDP checksum; the kernel fills in the IP header's."""
    size = 28 + len(payload)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, size, 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst)
    )
    return header + struct.pack("!HHHH", src_port, dst_port, 8 + len(payload), 0) + payload


def test_flows_lists_the_endpoint(bed: EgressBed) -> None:
    with pair(bed, bed.world_ip) as (client, server):
        client.send(b"12345")
        _, source = server.recvfrom(10)
        server.sendto(b"123", source)
        client.recv(10)
        port = client.getsockname()[1]
        (flow,) = [row for row in bed.relay.flows() if row["guest_port"] == port]
        assert (flow["protocol"], flow["guest"], flow["peer"]) == ("udp", GUEST4, bed.world_ip)
        assert (flow["peer_port"], flow["bytes_out"], flow["bytes_in"]) == (server.getsockname()[1], 5, 3)


def test_dig_asks_through_it(bed: EgressBed, tmp_path: Path) -> None:
    command = ["dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", f"--pid-file={tmp_path}/pid"]
    command += ["--address=/example.test/192.0.2.99", "--bind-interfaces", f"--listen-address={bed.world_ip}"]
    served = bed.world.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        dig = f"dig +short +tries=1 +time=1 @{bed.world_ip} example.test"
        wait_until(lambda: bed.guest.run(dig, check=False).stdout.strip() == "192.0.2.99")
    finally:
        served.kill()
        served.wait()


def test_endpoints_end_after_silence_and_their_descriptors_are_given_back() -> None:
    with EgressBed(udp_idle_s=2, dns_idle_s=1) as bed:
        with pair(bed, bed.world_ip) as (warm, server):
            warm.send(b"opens what the relay keeps for itself")
            server.recv(100)
        wait_until(lambda: bed.stat("udp_endpoints") == 0)
        before = open_descriptors()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(udp(bed.world, bed.world_ip))
            for _ in range(50):
                stack.enter_context(udp(bed.guest)).sendto(b"x", server.getsockname())
                server.recvfrom(10)
            assert bed.stat("udp_opened") == 51
        wait_until(lambda: bed.stat("udp_endpoints") == 0)
        assert bed.stat("udp_expired") == 51
        assert open_descriptors() == before


def test_an_endpoint_that_only_asks_name_servers_ends_earlier() -> None:
    with EgressBed(udp_idle_s=600, dns_idle_s=1) as bed:
        with udp(bed.world, bed.world_ip, 53) as server, udp(bed.world, bed.world_ip) as other:
            with udp(bed.guest) as asks, udp(bed.guest) as both:
                asks.sendto(b"x", server.getsockname())
                both.sendto(b"x", server.getsockname())
                both.sendto(b"x", other.getsockname())
                both.sendto(b"x", server.getsockname())
                wait_until(lambda: bed.stat("udp_expired") == 1)
                assert [row["guest_port"] for row in bed.relay.flows()] == [both.getsockname()[1]]


def test_n6_inbound_does_not_refresh() -> None:
    with EgressBed(udp_idle_s=1) as bed, pair(bed, bed.world_ip) as (client, server):
        client.send(b"x")
        _, source = server.recvfrom(10)

        def expired() -> bool:
            server.sendto(b"still there?", source)
            return bed.stat("udp_expired") == 1

        wait_until(expired)


def test_n27_past_the_limit_new_endpoints_are_dropped_and_live_ones_go_on() -> None:
    with EgressBed(udp_flows_max=3) as bed, udp(bed.world, bed.world_ip) as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(udp(bed.guest)) for _ in range(4)]
            for client in clients[:3]:
                client.sendto(b"in", server.getsockname())
                server.recv(10)
            clients[3].sendto(b"one past", server.getsockname())
            wait_until(lambda: bed.stat("udp_drop_limit") == 1)
            for client in clients[:3]:
                client.sendto(b"still in", server.getsockname())
                assert server.recv(10) == b"still in"


def test_n24_a_guest_at_its_limit_takes_nothing_from_another() -> None:
    with EgressBed(udp_flows_per_guest_max=2) as bed, udp(bed.world, bed.world_ip) as server:
        bed.guest.run("ip addr add 192.0.2.3/24 dev eth0")
        with contextlib.ExitStack() as stack:
            for n in range(3):
                client = stack.enter_context(udp(bed.guest))
                client.sendto(b"x", server.getsockname())
                if n < 2:
                    server.recv(10)
            wait_until(lambda: bed.stat("udp_drop_guest_limit") == 1)
            other = stack.enter_context(udp(bed.guest, "192.0.2.3"))
            other.sendto(b"another guest", server.getsockname())
            assert server.recv(20) == b"another guest"


def test_k5_without_descriptors_known_endpoints_go_on_and_new_ones_come_back() -> None:
    with EgressBed() as bed, pair(bed, bed.world_ip) as (known, server), udp(bed.guest) as late:
        known.send(b"known")
        _, source = server.recvfrom(10)
        with no_descriptors():
            late.sendto(b"late", server.getsockname())
            wait_until(lambda: bed.stat("udp_drop_descriptors") == 1)
            known.send(b"still")
            assert server.recv(10) == b"still"
            server.sendto(b"answer", source)
            assert known.recv(10) == b"answer"

        def served() -> bool:
            late.sendto(b"late again", server.getsockname())
            server.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                return server.recv(20) == b"late again"
            return False

        wait_until(served)


def test_k5_endpoints_leave_descriptors_to_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with EgressBed() as bed, udp(bed.world, bed.world_ip) as server:
        _spray_until(bed, server, range(1024, 1054), lambda: bed.stat("udp_endpoints") == 30)
        _spray_until(bed, server, range(1054, 1055), lambda: bed.stat("udp_drop_limit") > 0)
        assert bed.stat("udp_endpoints") == 30


def test_more_endpoints_than_one_turn_ends_end_together() -> None:
    with EgressBed(udp_idle_s=1) as bed, udp(bed.world, bed.world_ip) as server:
        # More than end in one turn.
        _spray_until(bed, server, range(1024, 3024), lambda: bed.stat("udp_endpoints") > 300)
        wait_until(lambda: bed.stat("udp_endpoints") == 0)
        assert bed.stat("udp_expired") == bed.stat("udp_opened")


def _spray_until(
    bed: EgressBed, server: socket.socket, ports: Iterable[int], enough: Callable[[], bool]
) -> None:
    """Datagrams of the guest from each of these ports, again until there were *enough*: a relay that is kept from its
    core loses some.
    """
    raw = bed.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    packets = [_packet(GUEST4, bed.world_ip, port, server.getsockname()[1], b"x" * 64) for port in ports]

    def spray() -> bool:
        for packet in packets:
            raw.sendto(packet, (bed.world_ip, 0))
        return enough()

    with raw:
        wait_until(spray)


def test_a_flood_of_new_endpoints_does_not_make_memory_grow() -> None:
    with EgressBed(udp_flows_max=256) as bed, udp(bed.world, bed.world_ip) as server:
        _spray_until(bed, server, range(1024, 9216), lambda: bed.stat("udp_drop_limit") > 4000)
        before = _resident_pages()
        _spray_until(bed, server, range(1024, 9216), lambda: bed.stat("udp_drop_limit") > 20000)
        assert _resident_pages() - before < 1024
        assert bed.stat("udp_endpoints") == 256


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_several_threads_share_the_endpoints() -> None:
    with EgressBed(shards=3) as bed, udp(bed.world, bed.world_ip) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(udp(bed.guest)) for _ in range(40)]
        for client in clients:
            client.sendto(b"x", server.getsockname())
            _, source = server.recvfrom(10)
            server.sendto(b"y", source)
            assert client.recv(10) == b"y"
        assert bed.stat("udp_endpoints") == 40
