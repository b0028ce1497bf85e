"""IPv6 through the kernel's NAT: real connections between guests, host and world, as in test_nftables_routing.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from arcbox_net.host.linux import conntrack
from arcbox_net.host.plan import Dnat, HostAccessRedirect
from tests.host.firewall_lab import (
    Guest,
    Lab,
    apply_anew,
    ask,
    ask_on,
    bridge_netfilter_off,
    client,
    ethernet,
    ipv6,
    send,
    server,
    silent,
    udp,
)
from tests.support import netns
from tests.support.echo import wait_for_echo
from tests.support.netns import Host, wait_until

pytestmark = [pytest.mark.e2e, netns.requires_root]
HOST6, WORLD6 = "2001:db8:1::2", "2001:db8:1::1"
SUBNET6 = IPv6Network("fd12:3456:789a::/64")
OTHER6 = IPv6Network("fd12:3456:789b::/64")
ANY = "::"
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        host.run(f"ip -6 addr add {HOST6}/64 dev {host.uplink} nodad")
        host.world.run(f"ip -6 addr add {WORLD6}/64 dev {host.uplink_peer} nodad")
        host.run(f"ip -6 route add default via {WORLD6}")
        yield host


@pytest.fixture(scope="module")
def network(host: Host) -> Lab:
    return Lab(host, subnet6=SUBNET6, gateway6=SUBNET6[1])


@pytest.fixture(scope="module")
def alice(network: Lab) -> Guest:
    return network.guest()


@pytest.fixture(scope="module")
def bob(network: Lab) -> Guest:
    return network.guest()


@pytest.fixture(scope="module")
def other(host: Host) -> Guest:
    return Lab(host, "other", "192.168.65.0/24", subnet6=OTHER6, gateway6=OTHER6[1]).guest()


def address(guest: Guest) -> IPv6Address:
    assert guest.ip6 is not None
    return guest.ip6


@protocols
def test_guest_reaches_the_world_with_the_hosts_address(host: Host, alice: Guest, protocol: str) -> None:
    with server(host.world, 7000, protocol, ANY):
        seen = ask(alice.ns, WORLD6, 7000, protocol)
    assert seen is not None and seen.split()[0] == HOST6


def test_guest_pings_the_world_and_the_gateway(alice: Guest) -> None:
    for target in (WORLD6, SUBNET6[1], "fe80::1%eth0"):
        wait_for_echo(alice.ns, str(target))


def test_rfc4787_req5_idle_connections_live_as_long_as_with_ipv4(host: Host, alice: Guest) -> None:
    with server(host.world, 7003, "tcp", ANY), client(alice.ns, to=WORLD6) as sock:
        ask_on(sock, WORLD6, 7003)
    with server(host.world, 7003, "udp", ANY):
        assert ask(alice.ns, WORLD6, 7003, "udp")
    listed = host.run("conntrack -L -f ipv6", check=False)
    if listed.returncode:
        pytest.skip("needs conntrack (package conntrack)")
    seconds = [int(line.split()[2]) for line in listed.stdout.splitlines() if "dport=7003" in line]
    assert len(seconds) == 2 and all(100 < value <= 300 for value in seconds)


def test_world_does_not_reach_a_guest_by_routing_to_its_subnet(host: Host, alice: Guest) -> None:
    host.world.run(f"ip -6 route replace {SUBNET6} via {HOST6}")
    try:
        with server(alice.ns, 7002, "tcp", ANY), server(host, 53, "udp", str(SUBNET6[1])):
            assert silent(host.world, address(alice), 7002)
            assert silent(host.world, SUBNET6[1], 53, "udp")
            assert ask(host, address(alice), 7002)  # the host itself may
            assert ask(alice.ns, SUBNET6[1], 53, "udp")
    finally:
        host.world.run(f"ip -6 route del {SUBNET6}")


@protocols
def test_gateway_offers_dns_and_nothing_else(host: Host, alice: Guest, protocol: str) -> None:
    with server(host, 53, protocol, ANY), server(host, 22, protocol, ANY):
        assert ask(alice.ns, SUBNET6[1], 53, protocol)
        assert silent(alice.ns, SUBNET6[1], 22, protocol)


def test_h1_guest_does_not_reach_other_addresses_of_the_host(host: Host, alice: Guest, other: Guest) -> None:
    with server(host, 8001, "tcp", ANY):
        assert ask(host.world, HOST6, 8001)
        assert silent(alice.ns, HOST6, 8001)
        assert silent(alice.ns, OTHER6[1], 8001)


def test_guests_of_another_network_are_out_of_reach(alice: Guest, other: Guest) -> None:
    with server(other.ns, 8002, "tcp", ANY):
        assert silent(alice.ns, address(other), 8002)
        assert ask(other.ns, address(other), 8002)


@pytest.mark.parametrize(
    "target", ["fd00:ec2::254", "fd20:ce::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]
)
def test_h2_metadata_services_are_never_routed(host: Host, network: Lab, alice: Guest, target: str) -> None:
    before = network.drops("destination is never routed")
    gateway = str(host.links()[network.bridge]["address"])
    packet = ipv6(17, udp(9, 80, b"?"), src=str(address(alice)), dst=target, hops=64)
    send(alice, ethernet(gateway, alice.mac, 0x86DD, packet))
    assert wait_until(lambda: network.drops("destination is never routed") == before + 1)


@protocols
def test_a_forward_leads_to_the_guest_with_the_clients_address(
    host: Host, network: Lab, alice: Guest, bob: Guest, protocol: str
) -> None:
    one = Dnat(protocol, IPv6Address(HOST6), 8081, address(alice), 80)
    every = Dnat(protocol, None, 8080, address(alice), 80)
    network.forward(one, every)
    try:
        with server(alice.ns, 80, protocol, ANY):
            for port in (8080, 8081):
                seen = ask(host.world, HOST6, port, protocol)
                assert seen is not None and seen.split()[0] == WORLD6
                assert ask(host, HOST6, port, protocol)
                assert ask(bob.ns, HOST6, port, protocol)
                with bridge_netfilter_off(host):
                    assert ask(alice.ns, HOST6, port, protocol)
            assert ask(host, "::1", 8080, protocol, timeout=0.4) is None
    finally:
        network.unforward(one, every)


def test_h6_a_forward_that_is_gone_takes_its_connections_along(
    host: Host, network: Lab, alice: Guest
) -> None:
    kept = Dnat("udp", None, 8082, address(alice), 80)
    gone = Dnat("udp", None, 8083, address(alice), 80)
    network.forward(kept, gone)
    with server(alice.ns, 80, "udp", ANY):
        assert ask(host.world, HOST6, 8082, "udp") and ask(host.world, HOST6, 8083, "udp")
        network.unforward(gone)
        left = {e.original.dst_port for e in host.call(lambda: conntrack.entries(version=6, translated=True))}
        assert 8082 in left and 8083 not in left
    network.unforward(kept)


def test_host_access_is_redirected_to_our_listener(host: Host, network: Lab, alice: Guest) -> None:
    redirect = HostAccessRedirect("tcp", 8000, 41000)
    network.redirect(redirect)
    with server(host, 41000, "tcp", str(SUBNET6[1])):
        assert ask(alice.ns, SUBNET6[1], 8000)
        assert silent(alice.ns, SUBNET6[1], 41000)


def test_a_host_only_network_leads_nowhere(host: Host) -> None:
    inner6 = IPv6Network("fd12:3456:789c::/64")
    inner = Lab(host, "inner", "10.0.0.0/24", masquerade=False, subnet6=inner6, gateway6=inner6[1])
    guest, neighbour = inner.guest(), inner.guest()
    with server(host.world, 7005, "tcp", ANY), server(neighbour.ns, 7005, "tcp", ANY):
        assert ask(guest.ns, address(neighbour), 7005)
        assert silent(guest.ns, WORLD6, 7005)
    assert inner.drops("the network is host-only") > 0


def test_g5_a_guest_cannot_fill_the_neighbour_table_by_way_of_the_gateway(
    host: Host, network: Lab, alice: Guest, bob: Guest
) -> None:
    before = network.drops("a neighbour by way of the gateway")
    gateway = str(host.links()[network.bridge]["address"])
    frames = [
        ethernet(
            gateway, alice.mac, 0x86DD, ipv6(17, udp(9, 80), src=str(address(alice)), dst=target, hops=64)
        )
        for target in map(str, (SUBNET6[number] for number in range(0x5000, 0x5100)))
    ]
    send(alice, *frames)
    assert wait_until(lambda: network.drops("a neighbour by way of the gateway") == before + len(frames))
    assert "fd12:3456:789a::50" not in host.run(f"ip -6 neigh show dev {network.bridge}").stdout
    with server(bob.ns, 7007, "tcp", ANY):
        assert ask(alice.ns, address(bob), 7007)


def test_l8_isolated_guests_do_not_meet_at_the_gateway(host: Host) -> None:
    subnet6 = IPv6Network("fd12:3456:789d::/64")
    apart = Lab(host, "apart", "10.1.0.0/24", isolated=True, subnet6=subnet6, gateway6=subnet6[1])
    guest, neighbour = apart.guest(), apart.guest()
    gateway = str(host.links()[apart.bridge]["address"])
    packet = ipv6(17, udp(9, 80, b"?"), src=str(address(guest)), dst=str(address(neighbour)), hops=64)
    send(guest, ethernet(gateway, guest.mac, 0x86DD, packet))
    assert wait_until(lambda: apart.drops("a neighbour by way of the gateway") > 0)


def test_while_the_rules_are_flushed_no_new_connection_passes(host: Host, network: Lab, alice: Guest) -> None:
    with server(host.world, 7006, "tcp", ANY):
        assert ask(alice.ns, WORLD6, 7006)
        subprocess.run(host.argv("nft flush ruleset"), check=True)
        try:
            assert silent(alice.ns, WORLD6, 7006)
        finally:
            host.call(lambda: apply_anew(network.firewall))
        assert ask(alice.ns, WORLD6, 7006)
