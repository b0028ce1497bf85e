"""Relay egress as the kernel does it: what reaches the TUNs and listeners of the relay, and what never does."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from arcbox_net.host.plan import RELAY_MARK_DOOR, HostAccessRedirect, table_name
from tests.host import relay_lab as lab
from tests.host.firewall_lab import apply_anew, ethernet, send
from tests.host.relay_lab import (
    ACK,
    GATEWAY,
    GATEWAY6,
    RST,
    SILENCE_S,
    SYN,
    RelayGuest,
    RelayLab,
    connected,
    dialling,
    echo_packet,
    family,
    tcp_packet,
    udp_packet,
    udp_socket,
)
from tests.support import netns
from tests.support.echo import wait_for_echo
from tests.support.netns import Host, wait_until

pytestmark = [pytest.mark.e2e, netns.requires_root]
WORLD = {4: "8.8.8.8", 6: "2001:db8::8"}
both = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def network() -> Iterator[RelayLab]:
    with Host(world=False) as host:
        created = RelayLab(host)
        yield created
        created.close()


@pytest.fixture(autouse=True)
def nothing_waits(network: RelayLab) -> None:
    """What an earlier test's sockets repeated is not this one's."""
    network.drain()


@pytest.fixture(scope="module")
def guest(network: RelayLab) -> RelayGuest:
    return network.guest()


@pytest.fixture(scope="module")
def neighbour(network: RelayLab) -> RelayGuest:
    return network.guest()


def send_ip(network: RelayLab, guest: RelayGuest, packet: bytes) -> None:
    """Hand *packet* to the gateway as a frame, whatever the guest's own kernel thinks of it."""
    gateway = str(network.host.links()[network.bridge]["address"])
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    send(guest, ethernet(gateway, guest.mac, kind, packet))  # type: ignore[arg-type]


@both
def test_t5_a_syn_waits_in_the_tun_and_the_guest_hears_nothing(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with dialling(guest, WORLD[version], 80) as sock:
        syn = network.syn(sock, WORLD[version])
        assert syn.src == guest.address(version) and syn.ports[1] == 80
        assert select.select([], [sock], [], SILENCE_S)[1] == []
        _, connection = network.let_in(syn)
        with connection:
            connected(sock)


@both
def test_a_syn_that_comes_back_is_a_connection_of_that_shards_listener(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    shards = set()
    for _ in range(64):
        with dialling(guest, WORLD[version], 443) as sock:
            syn = network.syn(sock, WORLD[version])
            shard, connection = network.let_in(syn)
            with connection:
                assert shard == syn.shard
                shards.add(shard)
                assert connection.getsockname()[:2] == (WORLD[version], 443)
                assert connection.getpeername()[:2] == sock.getsockname()[:2]
        if len(shards) == 2:
            return
    raise AssertionError("64 ports of a guest all go to one shard")


@both
def test_an_established_connection_carries_data_and_both_ends(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with dialling(guest, WORLD[version], 80) as sock:
        syn = network.syn(sock, WORLD[version])
        _, connection = network.let_in(syn)
        connected(sock)
        with connection:
            sock.sendall(b"up" * 10_000)
            assert _receive(connection, 20_000) == b"up" * 10_000
            connection.sendall(b"down" * 10_000)
            assert _receive(sock, 40_000) == b"down" * 10_000
            connection.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
            sock.sendall(b"after")
            assert _receive(connection, 5) == b"after"
    assert network.read(6, dst=WORLD[version], timeout=SILENCE_S) is None


@both
def test_t2_a_reset_reaches_the_guest(network: RelayLab, guest: RelayGuest, version: int) -> None:
    with dialling(guest, WORLD[version], 80) as sock:
        syn = network.syn(sock, WORLD[version])
        _, connection = network.let_in(syn)
        connected(sock)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@both
def test_n16_a_source_port_that_is_used_again_within_a_minute_gets_through(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    for _ in range(2):
        with guest.ns.call(lambda: socket.socket(family(version), socket.SOCK_STREAM)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((guest.address(version), 7777))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect((WORLD[version], 80))
            syn = network.syn(sock, WORLD[version])
            _, connection = network.let_in(syn)
            connected(sock)
            connection.close()  # first, so that TIME_WAIT is on our side
            assert sock.recv(1) == b""


@both
def test_t3_a_reset_written_to_the_tun_refuses_a_dial(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with dialling(guest, WORLD[version], 81) as sock:
        syn = network.syn(sock, WORLD[version])
        ack = struct.unpack_from("!L", syn.transport, 4)[0] + 1
        refusal = tcp_packet(syn.dst, 81, syn.src, syn.ports[0], RST | ACK, ack)
        network.write(syn.shard, refusal)
        with pytest.raises(ConnectionRefusedError):
            connected(sock)


@both
def test_t28_tcp_of_no_known_connection_goes_to_the_relay_which_resets_it(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    before = network.drops("TCP of no known connection")
    protocol = socket.IPPROTO_TCP
    raw = guest.ns.call(lambda: socket.socket(family(version), socket.SOCK_RAW, protocol))
    with raw:
        raw.settimeout(lab.ANSWER_S)
        send_ip(network, guest, tcp_packet(guest.address(version), 4444, WORLD[version], 80, ACK, 77))
        segment = network.read(6, dst=WORLD[version])
        assert segment is not None and segment.ports == (4444, 80)
        network.write(segment.shard, tcp_packet(segment.dst, 80, segment.src, 4444, RST))
        answer, peer = raw.recvfrom(2048)
    assert peer[0] == WORLD[version]
    assert struct.unpack_from("!HH", answer[20:] if version == 4 else answer) == (80, 4444)
    assert network.drops("TCP of no known connection") == before + 1


@both
def test_a_segment_whose_connection_was_missed_reaches_it_by_way_of_the_relay(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    """A rule stands for the moment in which the kernel does not find a connection that is there."""
    with dialling(guest, WORLD[version], 80) as sock:
        syn = network.syn(sock, WORLD[version])
        _, connection = network.let_in(syn)
        connected(sock)
        chain = f"inet {table_name(lab.NAME)} {'from_guests' if version == 4 else 'from_guests6'}"
        mark = RELAY_MARK_DOOR + syn.shard
        inserted = network.host.run(
            f"nft -e -a insert rule {chain} meta l4proto tcp meta mark set {mark} accept"
        )
        handle = inserted.stdout.rpartition("# handle ")[2].split()[0]
        try:
            sock.sendall(b"missed")
            segment = network.read(6, dst=WORLD[version])
            while segment is not None and not segment.raw.endswith(b"missed"):
                segment = network.read(6, dst=WORLD[version])  # the last ACK of the handshake
        finally:
            network.host.run(f"nft delete rule {chain} handle {handle}")
        assert segment is not None
        with connection:
            os.write(network.tuns[segment.shard], segment.raw)
            assert _receive(connection, 6) == b"missed"


@both
@pytest.mark.parametrize("flags", [0, 0x29, SYN | 0x01], ids=str)
def test_t24_flags_that_make_no_sense_reach_nobody(
    network: RelayLab, guest: RelayGuest, version: int, flags: int
) -> None:
    before = network.drops("malformed TCP flags")
    send_ip(network, guest, tcp_packet(guest.address(version), 4445, WORLD[version], 80, flags))
    send_ip(network, guest, tcp_packet(guest.address(version), 4446, WORLD[version], 80, ACK))
    segment = network.read(6, dst=WORLD[version])
    assert segment is not None and segment.ports == (4446, 80)
    assert network.read(6, dst=WORLD[version], timeout=SILENCE_S) is None
    assert network.drops("malformed TCP flags") == before + 1


@both
def test_udp_of_one_endpoint_always_reaches_the_same_shard(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    other = "9.9.9.9" if version == 4 else "2001:db8::9"
    shards = set()
    for _ in range(64):
        with udp_socket(guest, version) as sock:
            seen = set()
            for address in (WORLD[version], other, WORLD[version]):
                sock.sendto(b"hello", (address, 53))
                packet = network.read(17, dst=address)
                assert packet is not None
                assert (packet.src, packet.ports, packet.payload) == (
                    guest.address(version),
                    (sock.getsockname()[1], 53),
                    b"hello",
                )
                seen.add(packet.shard)
            assert len(seen) == 1
            shards |= seen
        if len(shards) == 2:
            return
    raise AssertionError("64 ports of a guest all go to one shard")


def test_ipv6_packets_of_one_guest_have_its_label_whatever_their_source(
    network: RelayLab, guest: RelayGuest, neighbour: RelayGuest
) -> None:
    def label(sender: RelayGuest, source: str) -> bytes:
        send_ip(network, sender, udp_packet(source, 4000, WORLD[6], 9, b"?"))
        packet = network.read(17, dst=WORLD[6])
        assert packet is not None and packet.src == source
        return packet.ip[2:4]

    more = [str(ip_address(guest.address(6)) + step) for step in (0x1000, 0x2000)]
    labels = {label(guest, source) for source in (guest.address(6), *more)}
    network.host.call(lambda: apply_anew(network.firewall))
    labels.add(label(guest, guest.address(6)))
    assert len(labels) == 1 and b"\0\0" not in labels
    assert label(neighbour, neighbour.address(6)) not in labels


@both
def test_an_endpoint_keeps_its_shard_when_the_rules_are_applied_anew(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp_socket(guest, version)) for _ in range(8)]

        def shards() -> list[int]:
            found = []
            for sock in socks:
                sock.sendto(b"?", (WORLD[version], 9))
                packet = network.read(17, dst=WORLD[version])
                assert packet is not None
                found.append(packet.shard)
            return found

        before = shards()
        network.host.call(lambda: apply_anew(network.firewall))
        assert shards() == before


@both
def test_a_udp_reply_written_to_any_tun_reaches_the_guest(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with udp_socket(guest, version) as sock:
        port = sock.getsockname()[1]
        for shard in range(2):
            reply = udp_packet(WORLD[version], 53, guest.address(version), port, b"reply%d" % shard)
            network.write(shard, reply)
            data, peer = sock.recvfrom(100)
            assert (data, peer[:2]) == (b"reply%d" % shard, (WORLD[version], 53))


@both
def test_echo_requests_reach_the_tun_and_replies_the_guest(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    protocol, request, reply = (1, 8, 0) if version == 4 else (58, 128, 129)
    raw = guest.ns.call(lambda: socket.socket(family(version), socket.SOCK_RAW, protocol))
    with raw:
        raw.settimeout(lab.ANSWER_S)
        send_ip(network, guest, echo_packet(guest.address(version), WORLD[version], request, 5))
        packet = network.read(protocol, dst=WORLD[version])
        assert packet is not None and packet.transport[0] == request
        network.write(packet.shard, echo_packet(WORLD[version], guest.address(version), reply, 5))
        while True:
            answer, peer = raw.recvfrom(2048)
            body = answer[20:] if version == 4 else answer
            if body[0] == reply:
                assert peer[0] == WORLD[version] and struct.unpack_from("!H", body, 6) == (5,)
                return


@both
def test_an_icmp_error_written_to_the_tun_reaches_the_guests_socket(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    with udp_socket(guest, version) as sock:
        sock.connect((WORLD[version], 7))
        sock.send(b"anyone?")
        packet = network.read(17, dst=WORLD[version])
        assert packet is not None
        kind, code, protocol = (3, 3, 1) if version == 4 else (1, 4, 58)
        body = struct.pack("!BBHL", kind, code, 0, 0) + packet.ip[:48]
        error = lab.ip_packet(WORLD[version], guest.address(version), protocol, body, checksum_at=2)
        network.write(packet.shard, error)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


METADATA = [
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.251",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::1",
]


@pytest.mark.parametrize("target", METADATA)
@pytest.mark.parametrize("protocol", [6, 17], ids=["tcp", "udp"])
def test_h2_metadata_and_loopback_never_reach_the_tun(
    network: RelayLab, guest: RelayGuest, target: str, protocol: int
) -> None:
    version = 6 if ":" in target else 4
    before = network.drops("destination is never routed")
    source = guest.address(version)
    packet = (
        tcp_packet(source, 5000, target, 80, SYN)
        if protocol == 6
        else udp_packet(source, 5000, target, 80, b"?")
    )
    send_ip(network, guest, packet)
    if version == 4 or target not in ("::ffff:169.254.169.254", "::1"):  # those the kernel drops by itself
        assert wait_until(lambda: network.drops("destination is never routed") == before + 1)
    assert network.read(protocol, dst=target, timeout=0.05) is None


@both
def test_other_protocols_are_dropped_and_counted(network: RelayLab, guest: RelayGuest, version: int) -> None:
    before = network.drops("neither TCP, UDP nor echo request")
    kind = 13 if version == 4 else 139  # timestamp request, node information query
    send_ip(network, guest, echo_packet(guest.address(version), WORLD[version], kind, 1))
    assert wait_until(lambda: network.drops("neither TCP, UDP nor echo request") == before + 1)


@both
def test_the_gateway_answers_pings_and_its_other_ports_are_silent(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    gateway = str(GATEWAY if version == 4 else GATEWAY6)
    wait_for_echo(guest.ns, gateway)
    secret = network.host.call(lambda: socket.create_server((gateway, 0), family=family(version)))
    with secret:
        before = network.drops("not a service of the gateway")
        with dialling(guest, gateway, secret.getsockname()[1]):
            assert wait_until(lambda: network.drops("not a service of the gateway") > before)


@both
def test_dns_at_the_gateway_is_open(network: RelayLab, guest: RelayGuest, version: int) -> None:
    gateway = str(GATEWAY if version == 4 else GATEWAY6)

    def bound() -> socket.socket:
        sock = socket.socket(family(version), socket.SOCK_DGRAM)
        sock.bind((gateway, 53))
        return sock

    with network.host.call(bound) as server, udp_socket(guest, version) as sock:
        server.settimeout(lab.ANSWER_S)
        sock.sendto(b"?", (gateway, 53))
        _, peer = server.recvfrom(100)
        server.sendto(b"!", peer)
        assert sock.recv(10) == b"!"


@both
def test_host_access_is_redirected_to_the_relays_listener_and_only_there(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    gateway = str(GATEWAY if version == 4 else GATEWAY6)
    listener = network.host.call(lambda: socket.create_server((gateway, 0), family=family(version)))
    with listener:
        port = listener.getsockname()[1]
        redirect = HostAccessRedirect("tcp", 8000, port)
        network.redirect(redirect)
        try:
            with dialling(guest, gateway, 8000) as sock:
                connected(sock)
                connection, peer = listener.accept()
                with connection:
                    assert peer[0] == guest.address(version)
                    connection.sendall(b"hi")
                    assert sock.recv(2) == b"hi"
            before = network.drops("not a service of the gateway")
            with dialling(guest, gateway, port):
                assert wait_until(lambda: network.drops("not a service of the gateway") > before)
            # Relayed connections go on untracked beside it.
            with dialling(guest, WORLD[version], 80) as sock:
                syn = network.syn(sock, WORLD[version])
                _, connection = network.let_in(syn)
                with connection:
                    connected(sock).sendall(b"x")
                    assert connection.recv(1) == b"x"
        finally:
            network.host.call(lambda: apply_anew(network.firewall, redirects=()))


@both
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_answers_to_a_client_whose_address_we_dial_with_come_back(
    network: RelayLab, guest: RelayGuest, version: int, kind: socket.SocketKind
) -> None:
    client = "203.0.113.9" if version == 4 else "2001:db8:1::9"

    def dial() -> socket.socket:
        sock = socket.socket(family(version), kind)
        if version == 4:
            sock.setsockopt(socket.SOL_IP, lab.IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, lab.IPV6_TRANSPARENT, 1)
        sock.settimeout(lab.ANSWER_S)
        sock.bind((client, 0))
        sock.connect((guest.address(version), server.getsockname()[1]))
        return sock

    def serve() -> socket.socket:
        sock = socket.socket(family(version), kind)
        sock.bind((guest.address(version), 0))
        sock.settimeout(lab.ANSWER_S)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    with guest.ns.call(serve) as server, network.host.call(dial) as ours:
        if kind == socket.SOCK_STREAM:
            connection, peer = server.accept()
            with connection:
                connection.sendall(b"hello")
                assert ours.recv(10) == b"hello"
        else:
            ours.send(b"?")
            _, peer = server.recvfrom(10)
            server.sendto(b"hello", peer)
            assert ours.recv(10) == b"hello"
        assert peer[0] == client


@both
def test_guests_reach_each_other_directly(
    network: RelayLab, guest: RelayGuest, neighbour: RelayGuest, version: int
) -> None:
    with udp_socket(guest, version) as mine, udp_socket(neighbour, version) as theirs:
        mine.sendto(b"hi", theirs.getsockname()[:2])
        assert theirs.recvfrom(10)[0] == b"hi"


@both
def test_l8_isolated_guests_do_not_reach_each_other_by_way_of_the_gateway(version: int) -> None:
    with Host(world=False) as host:
        isolated = RelayLab(host, isolated=True)
        alice, bob = isolated.guest(), isolated.guest()
        packet = udp_packet(alice.address(version), 1, bob.address(version), 2, b"?")
        send_ip(isolated, alice, packet)
        reason = "guests are isolated" if version == 4 else "a neighbour by way of the gateway"
        assert wait_until(lambda: isolated.drops(reason) == 1)
        isolated.close()


@both
def test_f6_fragments_reach_one_tun_in_order_whatever_order_they_were_sent_in(
    network: RelayLab, guest: RelayGuest, version: int
) -> None:
    """The kernel puts them together, chooses the shard by the ports, and takes them apart again."""
    payload = bytes(range(256)) * 15
    whole = udp_packet(guest.address(version), 5000, WORLD[version], 9, payload)
    for piece in reversed(_fragments(whole)):
        send_ip(network, guest, piece)
    found, shards = b"", set()
    protocol, head = (17, 20) if version == 4 else (44, 48)
    while len(found) < 8 + len(payload):
        packet = network.read(protocol, dst=WORLD[version])
        assert packet is not None
        offset = struct.unpack_from("!H", packet.ip, 6 if version == 4 else 42)[0]
        assert ((offset & 0x1FFF) * 8 if version == 4 else offset & 0xFFF8) == len(found)
        found += packet.ip[head:]
        shards.add(packet.shard)
    assert found[8:] == payload and len(shards) == 1


def test_f_a_large_reply_is_fragmented_for_the_guest(network: RelayLab, guest: RelayGuest) -> None:
    with udp_socket(guest, 4) as sock:
        reply = udp_packet(WORLD[4], 9, str(guest.ip), sock.getsockname()[1], b"b" * 4000)
        network.write(0, reply)
        assert sock.recv(5000) == b"b" * 4000


def test_g5_a_guest_cannot_fill_the_neighbour_table_by_way_of_the_gateway(
    network: RelayLab, guest: RelayGuest
) -> None:
    before = network.drops("a neighbour by way of the gateway")
    for target in map(str, (lab.SUBNET6[number] for number in range(0x5000, 0x5010))):
        send_ip(network, guest, udp_packet(str(guest.ip6), 9, target, 80, b""))
    assert wait_until(lambda: network.drops("a neighbour by way of the gateway") == before + 16)
    assert "fd12:3456:789a::50" not in network.host.run("ip -6 neigh").stdout


def test_a_flushed_ruleset_lets_nothing_out(network: RelayLab, guest: RelayGuest) -> None:
    network.host.run("nft flush ruleset")
    try:
        send_ip(network, guest, udp_packet(str(guest.ip), 5000, "8.8.8.8", 53, b"?"))
        with dialling(guest, "8.8.8.8", 80) as sock, pytest.raises(OSError) as caught:
            connected(sock)
        assert caught.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        assert network.read(17, dst="8.8.8.8", timeout=SILENCE_S) is None
    finally:
        network.host.call(lambda: apply_anew(network.firewall))


def _receive(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = sock.recv(size - len(found))
        assert part, f"the other end closed after {len(found)} of {size} bytes"
        found += part
    return found


def _fragments(packet: bytes, size: int = 1400) -> list[bytes]:
    """*packet* in pieces of *size* bytes of payload."""
    version = packet[0] >> 4
    body = packet[20 if version == 4 else 40 :]
    pieces = []
    for start in range(0, len(body), size):
        part, more = body[start : start + size], start + size < len(body)
        if version == 4:
            head = packet[:2] + struct.pack("!HHH", 20 + len(part), 77, start // 8 | more << 13)
            head += packet[8:10] + b"\0\0" + packet[12:20]
            pieces.append(head[:10] + struct.pack("!H", lab.checksum(head)) + head[12:] + part)
        else:
            head = packet[:4] + struct.pack("!HB", 8 + len(part), 44) + packet[7:40]
            pieces.append(head + struct.pack("!BBHL", 17, 0, start | more, 77) + part)
    return pieces
