"""Connections of a removed forward end, and only those; idle times are those of the RFCs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from arcbox_net.host.linux import conntrack, sysctl
from arcbox_net.host.plan import Dnat
from tests.host.firewall_lab import ANSWER_S, Guest, Lab, ask, ask_on, client, ping, server
from tests.support.netns import Host

pytestmark = pytest.mark.e2e


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture
def network(host: Host) -> Lab:
    return Lab(host)


@pytest.fixture
def alice(network: Lab) -> Guest:
    return network.guest()


def flows(host: Host) -> list[conntrack.Entry]:
    """TCP and UDP; a bridge also talks IGMP by itself."""
    return [e for e in host.call(conntrack.entries) if e.original.protocol in conntrack.PROTOCOLS.values()]


def host_ports(host: Host) -> list[tuple[int, int]]:
    """(protocol, original destination port) of every conntrack entry."""
    return sorted((e.original.protocol, e.original.dst_port) for e in flows(host))


def test_h6_removing_a_udp_forward_forgets_exactly_its_connections(
    host: Host, network: Lab, alice: Guest
) -> None:
    address = IPv4Address(host.host_ip)
    gone = Dnat("udp", address, 5000, alice.ip, 80)
    kept = [
        Dnat("udp", address, 5001, alice.ip, 80),  # another host port
        Dnat("tcp", address, 5000, alice.ip, 80),  # another protocol
    ]
    network.forward(gone, *kept)
    with server(alice.ns, 80), server(alice.ns, 80, "udp"), server(host.world, 5000, "udp"):
        clients = [client(host.world, "udp") for _ in range(3)]
        for sock in clients:
            assert ask_on(sock, host.host_ip, 5000)
        assert ask(host.world, host.host_ip, 5001, "udp")
        assert ask(host.world, host.host_ip, 5000, "tcp")
        assert ask(alice.ns, host.world_ip, 5000, "udp")  # the same port number, outbound
        before = host_ports(host)
        network.unforward(gone)
        for _ in clients:
            before.remove((17, 5000))
        assert host_ports(host) == before
        assert (17, 5000) in before and (6, 5000) in before and (17, 5001) in before
        for sock in clients:
            assert ask_on(sock, host.host_ip, 5000, timeout=0.4) is None
            sock.close()


def test_h6_forward_of_any_address_forgets_the_connections_of_all(
    host: Host, network: Lab, alice: Guest
) -> None:
    host.run("ip addr add 203.0.113.77/24 dev up0")
    gone, kept = Dnat("udp", None, 5000, alice.ip, 80), Dnat("udp", None, 5001, alice.ip, 80)
    network.forward(gone, kept)
    with server(alice.ns, 80, "udp"):
        for address in (host.host_ip, "203.0.113.77"):
            assert ask(host.world, address, 5000, "udp")
        assert ask(host.world, host.host_ip, 5001, "udp")
    network.unforward(gone)
    assert host_ports(host) == [(17, 5001)]


def test_h6_forward_given_to_another_guest_moves_its_clients(host: Host, network: Lab, alice: Guest) -> None:
    bob = network.guest()
    with server(alice.ns, 80, "udp"), server(bob.ns, 81, "udp"), client(host.world, "udp") as sock:
        network.forward(Dnat("udp", None, 5000, alice.ip, 80))
        assert ask_on(sock, host.host_ip, 5000)
        network.unforward(Dnat("udp", None, 5000, alice.ip, 80))
        network.forward(Dnat("udp", None, 5000, bob.ip, 81))
        assert ask_on(sock, host.host_ip, 5000)
    (entry,) = flows(host)
    assert entry.reply.src == int(bob.ip) and entry.reply.src_port == 81


def test_h6_client_that_sent_before_the_forward_existed_gets_it(
    host: Host, network: Lab, alice: Guest
) -> None:
    """Its conntrack entry says "not translated", and would for as long as it keeps sending."""
    with (
        server(alice.ns, 80, "udp"),
        server(host, 5000, "udp", host.host_ip),
        client(host.world, "udp") as sock,
    ):
        assert ask_on(sock, host.host_ip, 5000)
        bystander = ask(host.world, host.host_ip, 5000, "udp", source=(host.world_ip, 45001))
        assert bystander
        network.forward(Dnat("udp", IPv4Address(host.host_ip), 5000, alice.ip, 80))
        assert ask_on(sock, host.host_ip, 5000)
        assert all(e.reply.src == int(alice.ip) for e in flows(host))


def test_removed_tcp_forward_ends_its_connections(host: Host, network: Lab, alice: Guest) -> None:
    dnat = Dnat("tcp", None, 5000, alice.ip, 80)
    network.forward(dnat)
    with server(alice.ns, 80):
        assert ask(host.world, host.host_ip, 5000)
        network.unforward(dnat)
        assert host_ports(host) == []


def test_removed_port_leaves_no_connection_to_the_next_owner_of_its_address(
    host: Host, network: Lab, alice: Guest
) -> None:
    bob = network.guest()
    with server(host.world, 7000, "udp"):
        assert ask(alice.ns, host.world_ip, 7000, "udp")
        assert ask(bob.ns, host.world_ip, 7000, "udp")
    host.call(lambda: network.firewall.remove_port(alice.plan))
    assert [e.original.src for e in flows(host)] == [int(bob.ip)]


def test_connection_older_than_the_network_does_not_lead_into_it(host: Host) -> None:
    """Someone sends to an address of the subnet before the subnet exists: the entry must not open the door."""
    host.sysctl("net.ipv4.ip_forward", 1)
    host.run("nft add table ip t")  # something that keeps conntrack on
    host.run("nft add chain ip t f { type filter hook forward priority 0; }")
    host.run("nft add rule ip t f ct state new accept")
    host.world.run(f"ip route add 192.168.64.0/24 via {host.host_ip}")
    with client(host.world, "udp") as sock:
        sock.sendto(b"early", ("192.168.64.2", 80))
        assert [e.original.dst for e in flows(host)] == [int(IPv4Address("192.168.64.2"))]
        network = Lab(host)
        assert flows(host) == []
        guest = network.guest()
        with server(guest.ns, 80, "udp"):
            assert ask(host, guest.ip, 80, "udp")
            assert ask_on(sock, guest.ip, 80, timeout=0.4) is None


# -- idle times: what is left of one, read within a minute


def timeouts(host: Host) -> dict[tuple[str, str], int]:
    """Seconds left of each entry, by protocol and state (`ESTABLISHED`, `ASSURED`, `UNREPLIED` or empty)."""
    found = {}
    for line in host.call(lambda: Path("/proc/thread-self/net/nf_conntrack").read_text()).splitlines():
        words = line.split()
        state = words[5] if words[2] == "tcp" else ""
        if "[UNREPLIED]" in words:
            state = "UNREPLIED"
        port = next((w for w in words if w.startswith("dport=")), "")
        found[words[2] + port.removeprefix("dport"), state] = int(words[4])
    return found


def test_n5_n18_idle_times_are_at_the_floors(host: Host, network: Lab, alice: Guest) -> None:
    with server(host.world, 7000, "udp"), server(host.world, 53, "udp"), client(alice.ns) as sock:
        listener = host.world.call(lambda: _listen(7001))
        sock.connect((host.world_ip, 7001))
        assert ask(alice.ns, host.world_ip, 7000, "udp")
        assert ask(alice.ns, host.world_ip, 53, "udp")
        with client(alice.ns, "udp") as unanswered:
            unanswered.sendto(b"?", ("203.0.113.200", 9))
        left = timeouts(host)
        assert 7380 <= left["tcp=7001", "ESTABLISHED"] <= 7440
        assert 240 <= left["udp=7000", ""] <= 300
        assert 240 <= left["udp=9", "UNREPLIED"] <= 300
        assert left["udp=53", ""] <= 120  # a question and its answer; 4787-5a allows less for this port
        sock.close()
        listener.close()
        left = timeouts(host)
        (closing,) = [seconds for (flow, state), seconds in left.items() if flow == "tcp=7001"]
        assert 180 < closing <= 240


def test_inbound_connections_have_the_same_idle_times(host: Host, network: Lab, alice: Guest) -> None:
    network.forward(Dnat("udp", None, 5000, alice.ip, 80))
    with server(alice.ns, 80, "udp"):
        assert ask(host.world, host.host_ip, 5000, "udp")
    assert 240 <= timeouts(host)["udp=5000", ""] <= 300


def test_n23_icmp_lives_for_a_minute_while_a_network_forwards(
    host: Host, network: Lab, alice: Guest, tmp_path: Path
) -> None:
    host.call(lambda: sysctl.enable_forwarding("lab", [network.bridge], tmp_path))
    assert ping(alice.ns, host.world_ip)
    assert 30 < timeouts(host)["icmp", ""] <= 60
    host.call(lambda: sysctl.restore_forwarding("lab", tmp_path))
    assert host.sysctl("net.netfilter.nf_conntrack_icmp_timeout") == "30"


def test_icmp_error_of_a_translated_connection_reaches_the_guest(host: Host, alice: Guest) -> None:
    assert ping(alice.ns, host.world_ip)
    with client(alice.ns, "udp") as sock:
        sock.settimeout(ANSWER_S)
        sock.connect((host.world_ip, 7999))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


def test_h8_ten_thousand_forwards_and_one_of_them_works(host: Host, network: Lab, alice: Guest) -> None:
    dnats = [Dnat("tcp", None, 10_000 + i, alice.ip, 80) for i in range(10_000)]
    started = time.perf_counter()
    network.forward(*dnats)
    added = time.perf_counter()
    with server(alice.ns, 80):
        assert ask(host.world, host.host_ip, 10_000) and ask(host.world, host.host_ip, 19_999)
    removing = time.perf_counter()
    network.unforward(*dnats)
    removed = time.perf_counter()
    print(f"10,000 forwards: added in {added - started:.3f} s, removed in {removed - removing:.3f} s")
    assert ask(host.world, host.host_ip, 10_000, timeout=0.4) is None
    assert host.call(network.firewall.intact)


def test_forget_subnet_leaves_others_alone(host: Host, network: Lab, alice: Guest) -> None:
    assert ping(alice.ns, host.world_ip)
    before = host.call(conntrack.entries)
    assert host.call(lambda: conntrack.forget_subnet(IPv4Network("10.99.0.0/16"))) == 0
    assert host.call(lambda: conntrack.forget_subnet(network.subnet)) == len(before)


def _listen(port: int):  # type: ignore[no-untyped-def]
    import socket

    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("0.0.0.0", port))
    sock.listen()
    return sock
