"""Where a guest's packets may go, and NAT: real connections between guests, host and world."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import Dnat, HostAccessRedirect
from tests.host.firewall_lab import (
    ANSWER_S,
    Guest,
    Lab,
    apply_anew,
    ask,
    bridge_netfilter_off,
    client,
    ping,
    send_raw,
    server,
    silent,
)
from tests.support.netns import Host

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture(scope="module")
def network(host: Host) -> Lab:
    return Lab(host)


@pytest.fixture(scope="module")
def alice(network: Lab) -> Guest:
    return network.guest()


@pytest.fixture(scope="module")
def bob(network: Lab) -> Guest:
    return network.guest()


@pytest.fixture(scope="module")
def other(host: Host) -> Guest:
    return Lab(host, "other", "192.168.65.0/24").guest()


@pytest.fixture(scope="module")
def inner(host: Host) -> Guest:
    """A guest of a host-only network."""
    return Lab(host, "inner", "10.0.0.0/24", masquerade=False).guest()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_guest_reaches_the_world_with_the_host_s_address(host: Host, alice: Guest, protocol: str) -> None:
    with server(host.world, 7000, protocol):
        seen = ask(alice.ns, host.world_ip, 7000, protocol)
    assert seen is not None and seen.split()[0] == host.host_ip


def test_guest_pings_the_world(host: Host, alice: Guest) -> None:
    assert ping(alice.ns, host.world_ip)


def test_traffic_inside_the_subnet_is_not_translated(alice: Guest, bob: Guest) -> None:
    with server(bob.ns, 7001):
        assert ask(alice.ns, bob.ip, 7001, source=(str(alice.ip), 40000)) == f"{alice.ip} 40000"


def test_world_does_not_reach_a_guest_by_routing_to_its_subnet(
    host: Host, network: Lab, alice: Guest
) -> None:
    host.world.run(f"ip route replace {network.subnet} via {host.host_ip}")
    try:
        with server(alice.ns, 7002), server(alice.ns, 7002, "udp"):
            assert silent(host.world, alice.ip, 7002)
            assert silent(host.world, alice.ip, 7002, "udp")
            assert not ping(host.world, alice.ip, timeout=0.4)
            assert ask(host, alice.ip, 7002)  # the host itself may
    finally:
        host.world.run(f"ip route del {network.subnet}")


def test_world_does_not_reach_the_gateway_address(host: Host, network: Lab, alice: Guest) -> None:
    host.world.run(f"ip route replace {network.subnet} via {host.host_ip}")
    try:
        with server(host, 53, "udp", str(network.gateway)):
            assert ask(alice.ns, network.gateway, 53, "udp")
            assert silent(host.world, network.gateway, 53, "udp")
            assert not ping(host.world, network.gateway, timeout=0.4)
    finally:
        host.world.run(f"ip route del {network.subnet}")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_gateway_offers_dns_and_nothing_else(host: Host, network: Lab, alice: Guest, protocol: str) -> None:
    with server(host, 53, protocol), server(host, 22, protocol):
        assert ask(alice.ns, network.gateway, 53, protocol)
        assert silent(alice.ns, network.gateway, 22, protocol)


def test_gateway_answers_ping(network: Lab, alice: Guest) -> None:
    assert ping(alice.ns, network.gateway)


@pytest.mark.parametrize("address", ["203.0.113.2", "192.168.65.1"])
def test_h1_guest_does_not_reach_other_addresses_of_the_host(
    host: Host, alice: Guest, other: Guest, address: str
) -> None:
    with server(host, 8001), server(host, 53, "udp"):
        assert ask(host.world, host.host_ip, 8001)
        assert silent(alice.ns, address, 8001)
        assert silent(alice.ns, address, 53, "udp")
        assert not ping(alice.ns, address, timeout=0.4)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "192.168.64.255", "255.255.255.255"]
)
def test_h1_guest_does_not_reach_the_host_s_loopback(
    host: Host, network: Lab, alice: Guest, address: str
) -> None:
    received: list[bytes] = []
    host.sysctl(f"net.ipv4.conf.{network.bridge}.route_localnet", 1)
    with host.call(lambda: _bound_udp(9000)) as listener:
        listener.settimeout(ANSWER_S)
        send_raw(alice, network, address, 9000, b"no")
        with client(host, "udp") as control:
            control.sendto(b"control", ("127.0.0.1", 9000))
        while b"control" not in received:
            received.append(listener.recv(100))
    assert received == [b"control"]


def test_host_reaches_guests(host: Host, alice: Guest) -> None:
    with server(alice.ns, 7003):
        assert ask(host, alice.ip, 7003)
    assert ping(host, alice.ip)


def test_networks_do_not_reach_each_other(alice: Guest, other: Guest, inner: Guest) -> None:
    for a, b in ((alice, other), (other, alice), (alice, inner), (inner, alice)):
        with server(b.ns, 7004), server(b.ns, 7004, "udp"):
            assert silent(a.ns, b.ip, 7004)
            assert silent(a.ns, b.ip, 7004, "udp")
            assert not ping(a.ns, b.ip, timeout=0.4)


def test_host_only_guest_has_no_way_out(host: Host, inner: Guest) -> None:
    with server(host.world, 7005), server(host.world, 7005, "udp"), server(host, 53, "udp"):
        assert silent(inner.ns, host.world_ip, 7005)
        assert silent(inner.ns, host.world_ip, 7005, "udp")
        assert not ping(inner.ns, host.world_ip, timeout=0.4)
        assert ask(inner.ns, "10.0.0.1", 53, "udp")


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "168.63.129.16"])
def test_h2_guest_does_not_reach_the_cloud_s_metadata_service(host: Host, alice: Guest, address: str) -> None:
    host.world.run(f"ip addr add {address}/32 dev {host.uplink_peer}")
    with server(host.world, 80, address=address):
        assert ask(host, address, 80)
        assert silent(alice.ns, address, 80)


def test_isolated_guests_do_not_meet_by_way_of_the_gateway(host: Host) -> None:
    network = Lab(host, "apart", "192.168.66.0/24", isolated=True)
    a, b = network.guest(), network.guest()
    # As `isolated on` does on the bridge: they have no common link, and the gateway must not replace it.
    for guest in (a, b):
        host.run(f"bridge link set dev {guest.plan.ifname} isolated on")
    a.ns.run(f"ip route add {b.ip}/32 via {network.gateway}")
    b.ns.run(f"ip route add {a.ip}/32 via {network.gateway}")
    with server(b.ns, 7006):
        assert ask(host, b.ip, 7006)
        assert silent(a.ns, b.ip, 7006)
    network.close()


# -- forwards


@pytest.fixture
def forward(network: Lab, alice: Guest, host: Host) -> Iterator[None]:
    dnats = [
        Dnat("tcp", None, 8080, alice.ip, 80),
        Dnat("tcp", IPv4Address(host.host_ip), 8081, alice.ip, 80),
        Dnat("udp", None, 8080, alice.ip, 80),
        Dnat("udp", IPv4Address(host.host_ip), 8081, alice.ip, 80),
    ]
    network.forward(*dnats)
    with server(alice.ns, 80), server(alice.ns, 80, "udp"):
        yield
    network.unforward(*dnats)


@pytest.mark.usefixtures("forward")
@pytest.mark.parametrize("port", [8080, 8081])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
class TestForward:
    def test_client_s_address_is_preserved(self, host: Host, protocol: str, port: int) -> None:
        seen = ask(host.world, host.host_ip, port, protocol, source=(host.world_ip, 45000))
        assert seen == f"{host.world_ip} 45000"

    def test_host_itself_reaches_it_by_its_own_address(self, host: Host, protocol: str, port: int) -> None:
        seen = ask(host, host.host_ip, port, protocol)
        assert seen is not None and seen.split()[0] == host.host_ip

    def test_hairpin_guest_reaches_its_neighbour_by_the_host_s_address(
        self, host: Host, network: Lab, bob: Guest, protocol: str, port: int
    ) -> None:
        seen = ask(bob.ns, host.host_ip, port, protocol)
        assert seen is not None and seen.split()[0] == str(network.gateway)

    def test_hairpin_guest_reaches_itself_by_the_host_s_address(
        self, host: Host, alice: Guest, protocol: str, port: int
    ) -> None:
        # br_netfilter would bridge the translated frame, and a bridge never sends one back to its own port.
        with bridge_netfilter_off(host):
            assert ask(alice.ns, host.host_ip, port, protocol)

    def test_guest_of_another_network_reaches_it(
        self, host: Host, other: Guest, protocol: str, port: int
    ) -> None:
        seen = ask(other.ns, host.host_ip, port, protocol)
        assert seen is not None

    def test_host_only_guest_does_not_reach_it(
        self, host: Host, inner: Guest, protocol: str, port: int
    ) -> None:
        assert silent(inner.ns, host.host_ip, port, protocol)

    def test_h5_loopback_does_not_lead_to_it(self, host: Host, protocol: str, port: int) -> None:
        assert ask(host, "127.0.0.1", port, protocol, timeout=0.4) is None


def test_removed_forward_is_gone_and_others_stay(host: Host, network: Lab, alice: Guest) -> None:
    kept, gone = Dnat("tcp", None, 8082, alice.ip, 80), Dnat("tcp", None, 8083, alice.ip, 80)
    with server(alice.ns, 80):
        network.forward(kept, gone)
        assert ask(host.world, host.host_ip, 8082) and ask(host.world, host.host_ip, 8083)
        network.unforward(gone)
        assert ask(host.world, host.host_ip, 8082)
        assert ask(host.world, host.host_ip, 8083, timeout=0.4) is None
        network.unforward(kept)


def test_dns_of_the_gateway_wins_over_a_forward_of_port_53(
    host: Host, network: Lab, alice: Guest, bob: Guest
) -> None:
    dnat = Dnat("udp", None, 53, bob.ip, 5353)
    network.forward(dnat)
    with server(host, 53, "udp", str(network.gateway)), server(bob.ns, 5353, "udp"):
        assert ask(alice.ns, network.gateway, 53, "udp", source=(str(alice.ip), 46000)) == f"{alice.ip} 46000"
        assert ask(host.world, host.host_ip, 53, "udp")
    network.unforward(dnat)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_host_access_leads_to_the_relay_only(host: Host, network: Lab, alice: Guest, protocol: str) -> None:
    redirect = HostAccessRedirect(protocol, 8000, 41000)
    with server(host, 41000, protocol, str(network.gateway)):
        assert silent(alice.ns, network.gateway, 8000, protocol)
        network.redirect(redirect)
        seen = ask(alice.ns, network.gateway, 8000, protocol)
        assert seen is not None and seen.split()[0] == str(alice.ip)
        assert silent(alice.ns, network.gateway, 41000, protocol)  # not by its own port number
        host.call(lambda: apply_anew(network.firewall, redirects=()))
        assert silent(alice.ns, network.gateway, 8000, protocol)


# -- life of the tables


def test_apply_twice_is_the_same_and_keeps_forwards(host: Host, network: Lab, alice: Guest) -> None:
    dnat = Dnat("tcp", None, 8084, alice.ip, 80)
    network.forward(dnat)
    rules = host.run("nft -s -t list ruleset").stdout
    forwards = host.run("nft list map inet abx_lab forwards_any").stdout
    host.call(lambda: apply_anew(network.firewall))
    assert sorted(host.run("nft -s -t list ruleset").stdout.split()) == sorted(rules.split())
    assert host.run("nft list map inet abx_lab forwards_any").stdout == forwards
    network.unforward(dnat)


def test_listing_can_be_loaded_again(host: Host, network: Lab) -> None:
    for family in ("inet", "bridge"):
        listing = host.run(f"nft -s list table {family} abx_lab").stdout
        host.run("nft -c -f -", stdin=f"delete table {family} abx_lab\n{listing}")


def test_owned_networks_and_remove() -> None:
    with Host(world=False) as host:
        assert host.call(Firewall.owned_networks) == []
        host.run("nft add table inet abx_not-ours-by-name")
        host.run("nft delete table inet abx_not-ours-by-name")
        networks = [Lab(host, "a-b", "192.168.70.0/24"), Lab(host, "ab", "192.168.71.0/24")]
        assert host.call(Firewall.owned_networks) == ["a-b", "ab"]
        networks[0].close()
        assert host.call(Firewall.owned_networks) == ["ab"]
        host.call(Firewall("never-there").remove)
        networks[1].close()
        assert host.run("nft list ruleset").stdout == ""


def test_change_after_a_foreign_flush_brings_everything_back(host: Host) -> None:
    with Host() as host:
        network = Lab(host)
        guest = network.guest()
        host.run("nft flush ruleset")
        network.forward(Dnat("tcp", None, 8080, guest.ip, 80))
        assert host.call(network.firewall.intact)
        with server(guest.ns, 80):
            assert ask(host.world, host.host_ip, 8080)
            assert ping(guest.ns, host.world_ip)


def _bound_udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    return sock


def test_without_the_right_to_change_rules_the_error_says_so() -> None:
    script = (
        "from arcbox_net.host.linux.nftables import Firewall\n"
        "from arcbox_net.errors import PermissionDenied\n"
        "try:\n"
        "    Firewall.owned_networks()\n"
        "except PermissionDenied as error:\n"
        "    print(error.fix)\n"
    )
    # Root without capabilities: the kernel refuses, and the files of this checkout can be read all the same.
    dropped = [
        "setpriv",
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
        sys.executable,
        "-c",
        script,
    ]
    done = subprocess.run(dropped, capture_output=True, text=True, check=True)
    assert "CAP_NET_ADMIN" in done.stdout
