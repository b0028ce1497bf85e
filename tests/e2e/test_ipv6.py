"""IPv6 of a network: guests configure themselves, have names, and reach out by NAT66 or relay while the host can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from arcbox_net import DnsConfig, NetConfig, NetworkManager, NetworkMode
from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.config import Egress
from tests.support.dig import dig
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, NetnsGuest
from tests.support.netns import wait_until
from tests.support.peers import SILENCE_S, exchange_udp, http_server, is_closed, refused, udp_echo

each_egress = pytest.mark.parametrize(
    "egress", [Egress.MASQUERADE, Egress.RELAY], ids=lambda egress: egress.value
)
HOST6 = "2001:db8:113::2"
WORLD6 = "2001:db8:113::1"


@pytest.fixture
def dual(machine: Machine) -> Iterator[Machine]:
    """The machine and its world with IPv6, and HTTP in the world; the host has no IPv6 route to it yet."""
    machine.run(f"ip -6 addr add {HOST6}/64 dev {machine.uplink} nodad")
    machine.world.run(f"ip -6 addr add {WORLD6}/64 dev {machine.uplink_peer} nodad")
    with http_server(machine.world, address=WORLD6):
        yield machine


def connect_host(machine: Machine) -> None:
    machine.run(f"ip -6 route add default via {WORLD6} dev {machine.uplink}")


def config(machine: Machine, **options: object) -> NetConfig:
    return NetConfig(dns=DnsConfig(upstreams=(machine.world_ip,)), **options)  # type: ignore[arg-type]


def subnet_of(network: NetworkManager) -> IPv6Network:
    subnet = network.status().subnet6
    assert subnet is not None
    return IPv6Network(subnet)


def addresses6(guest: NetnsGuest) -> set[str]:
    """Global addresses that are ready for use."""
    links = guest.json("ip -6 -j addr show dev eth0 scope global")
    found = [address for link in links for address in link.get("addr_info", []) if address]
    return {address["local"] for address in found if not address.get("tentative")}


def default_routes(guest: NetnsGuest) -> list[str]:
    return [route["gateway"] for route in guest.json("ip -6 -j route show default")]


def ready(guest: NetnsGuest, *, routed: bool = True) -> str:
    """The guest's own address, once it has it, and its default route."""
    wait_until(lambda: addresses6(guest), message="an IPv6 address")
    if routed:
        wait_until(lambda: default_routes(guest), message="a default route")
    return sorted(addresses6(guest))[0]


def body(guest: NetnsGuest, url: str) -> str:
    return guest.run(["curl", "-gsS", "--max-time", "30", url]).stdout.strip()


def test_s1_a_guest_configures_itself_and_reaches_the_world(dual: Machine) -> None:
    connect_host(dual)
    with dual.network(config(dual), name="dev") as network:
        guest = dual.bare_guest(network)
        address = ready(guest)
        assert IPv6Address(address) == eui64_address(subnet_of(network), parse_mac(guest.mac))
        assert default_routes(guest) == ["fe80::1"]
        assert body(guest, f"http://[{WORLD6}]/") == HOST6
        wait_for_echo(guest, WORLD6)
        with udp_echo(dual.world, 7, WORLD6):
            assert exchange_udp(guest, WORLD6, 7, b"hello") == f"{HOST6} hello".encode()


@each_egress
def test_a_guest_that_is_configured_for_it_has_its_address_at_once_and_the_same(
    dual: Machine, egress: Egress
) -> None:
    connect_host(dual)
    with dual.network(config(dual, egress=egress), name="dev") as network:
        guest = dual.guest(network)
        (port,) = network.ports()
        assert addresses6(guest) == {port.ip6}
        ready(guest)
        assert body(guest, f"http://[{WORLD6}]/") == HOST6
        assert addresses6(guest) == {port.ip6}


@each_egress
def test_a_default_route_follows_the_hosts(dual: Machine, egress: Egress) -> None:
    with dual.network(config(dual, egress=egress), name="dev") as network:
        guest = dual.guest(network)
        other = dual.bare_guest(network)
        ready(other, routed=False)
        assert (default_routes(guest), default_routes(other)) == ([], [])
        assert not network.status().ipv6_egress
        connect_host(dual)
        wait_until(lambda: default_routes(guest) and default_routes(other), message="default routes")
        assert network.status().ipv6_egress
        assert body(guest, f"http://[{WORLD6}]/") == HOST6
        dual.run("ip -6 route del default")
        wait_until(lambda: not default_routes(guest) + default_routes(other), message="no default route")


@pytest.mark.parametrize("route", ["unreachable default", "default dev lo"])
def test_a_default_route_that_leads_nowhere_is_none(dual: Machine, route: str) -> None:
    dual.run(f"ip -6 route add {route}")
    with dual.network(config(dual), name="dev") as network:
        guest = dual.bare_guest(network)
        ready(guest, routed=False)
        assert default_routes(guest) == []


@each_egress
def test_s4_a_guest_with_nothing_but_ipv6_resolves_and_connects(dual: Machine, egress: Egress) -> None:
    connect_host(dual)
    records = {"server.test": (WORLD6,)}
    with dual.network(NetConfig(egress=egress, dns=DnsConfig(records=records)), name="dev") as network:
        guest = dual.bare_guest(network)
        ready(guest)
        gateway = str(subnet_of(network)[1])
        guest.etc("resolv.conf", f"nameserver {gateway}\n")
        assert guest.run("ip -4 -o addr show dev eth0").stdout == ""
        assert body(guest, "http://server.test/") == HOST6


@each_egress
def test_names_have_both_addresses_and_lead_back(dual: Machine, egress: Egress) -> None:
    with dual.network(config(dual, egress=egress), name="dev") as network:
        guest = dual.guest(network, "vm1")
        (port,) = network.ports()
        gateway = str(subnet_of(network)[1])
        assert dig(guest, gateway, "vm1.dev.internal", "AAAA") == [port.ip6]
        assert dig(guest, gateway, "vm1.dev.internal", "A") == [guest.ip]
        assert dig(guest, gateway, "+tcp", "-x", str(port.ip6)) == ["vm1.dev.internal."]
        for name in ("host.internal", "gateway.internal"):
            assert dig(guest, gateway, name, "AAAA") == [gateway]
        unknown = guest.run(f"dig +tries=10 @{gateway} -x {subnet_of(network)[77]}").stdout
        assert "NXDOMAIN" in unknown
        lease = next(lease for lease in network.leases() if lease.port == "vm1")
        assert lease.ip6 == port.ip6


@each_egress
def test_guests_reach_each_other_and_nothing_else_of_the_host(dual: Machine, egress: Egress) -> None:
    with dual.network(config(dual, egress=egress), name="dev") as network:
        one, two = dual.guest(network), dual.guest(network)
        address = ready(two, routed=False)
        gateway = str(subnet_of(network)[1])
        with http_server(two, address=address), http_server(dual, port=8080, address="::"):
            assert body(one, f"http://[{address}]/") == ready(one, routed=False)
            wait_for_echo(one, gateway)
            assert refused(one, gateway, 8080, timeout=SILENCE_S) == "timeout"
            assert is_closed(one, HOST6, 8080)


def test_guests_of_an_isolated_network_do_not_reach_each_other(dual: Machine) -> None:
    with dual.network(config(dual, isolated=True), name="dev") as network:
        one, two = dual.guest(network), dual.guest(network)
        address = ready(two, routed=False)
        with http_server(two, address=address):
            assert is_closed(one, address, 80)


@each_egress
def test_s5_eight_temporary_addresses_of_a_guest_all_work(dual: Machine, egress: Egress) -> None:
    connect_host(dual)
    with dual.network(config(dual, egress=egress), name="dev") as network:
        guest = dual.bare_guest(network)
        ready(guest)
        for number in range(8):
            address = subnet_of(network)[0x5000_0000_0000_0000 + number]
            guest.run(f"ip -6 addr add {address}/64 dev eth0 nodad")
            shown = guest.run(
                ["curl", "-gsS", "--max-time", "30", "--interface", str(address), f"http://[{WORLD6}]/"]
            )
            assert shown.stdout.strip() == HOST6


def test_a_host_only_network_has_addresses_and_names_but_no_way_out(dual: Machine) -> None:
    connect_host(dual)
    with dual.network(NetConfig(mode=NetworkMode.HOST_ONLY), name="lab") as network:
        guest = dual.bare_guest(network, "vm1")
        address = ready(guest, routed=False)
        gateway = str(subnet_of(network)[1])
        assert dig(guest, gateway, "vm1.lab.internal", "AAAA") == [address]
        assert default_routes(guest) == []
        guest.run("ip -6 route add default via fe80::1 dev eth0")
        assert is_closed(guest, WORLD6, 80)


def test_a_network_can_do_without_ipv6(dual: Machine) -> None:
    connect_host(dual)
    with dual.network(config(dual, subnet6="none"), name="dev") as network:
        dual.guest(network)
        assert network.status().subnet6 is None
        assert [port.ip6 for port in network.ports()] == [None]
        (link,) = dual.json("ip -6 -j addr show dev abx-dev") or [{}]
        assert not link.get("addr_info")
        assert dual.sysctl("net.ipv6.conf.all.forwarding") == "0"


def test_the_subnet_is_remembered_or_as_asked_and_a_clash_is_refused_by_name(dual: Machine) -> None:
    dual.cli("up dev")
    first = dual.cli_json("show dev")["subnet6"]
    dual.cli("down dev")
    dual.cli("up dev")
    assert dual.cli_json("show dev")["subnet6"] == first
    dual.cli("up other --subnet6 fd12:3456:789a::/64")
    assert dual.cli_json("show other")["gateway6"] == "fd12:3456:789a::1"
    assert "fd12:3456:789a::/64" in dual.cli("show other").stdout
    refusal = dual.cli("up third --subnet6 fd12:3456:789a::/64", check=False)
    assert refusal.returncode == 1
    assert "fd12:3456:789a::/64 is in use" in refusal.stderr and "abx-other" in refusal.stderr
    for name in ("dev", "other"):
        dual.cli(f"down {name}")


def test_the_host_keeps_the_default_route_that_a_router_advertises_to_it(dual: Machine) -> None:
    """Forwarding makes a router of a host, and routers ignore advertisements: not this one."""
    before = dual.sysctl(f"net.ipv6.conf.{dual.uplink}.accept_ra")
    with dual.network(config(dual), name="dev"):
        forwarding = dual.sysctl(f"net.ipv6.conf.{dual.uplink}.forwarding")
        accepting = dual.sysctl(f"net.ipv6.conf.{dual.uplink}.accept_ra")
        assert (forwarding, accepting) in (("0", before), ("1", "2"))
    assert dual.sysctl(f"net.ipv6.conf.{dual.uplink}.accept_ra") == before


def test_a_bridge_that_is_deleted_comes_back_with_its_advertisements(dual: Machine) -> None:
    connect_host(dual)
    with dual.network(config(dual), name="dev") as network:
        gateway = str(subnet_of(network)[1])
        dual.run("ip link del abx-dev")
        wait_until(
            lambda: gateway in json.dumps(dual.json("ip -6 -j addr show")), message="the bridge is back"
        )
        guest = dual.bare_guest(network)
        ready(guest)
        assert body(guest, f"http://[{WORLD6}]/") == HOST6


def test_addresses_that_somebody_took_off_the_bridge_come_back(dual: Machine) -> None:
    with dual.network(config(dual), name="dev") as network:
        gateway = str(subnet_of(network)[1])
        dual.run("ip -6 addr flush dev abx-dev")

        def is_back() -> bool:
            shown = dual.run("ip -6 -o addr show dev abx-dev").stdout
            return gateway in shown and "fe80::1/64" in shown

        wait_until(is_back, message="the gateway's addresses")
        guest = dual.guest(network, "vm1")
        assert dig(guest, gateway, "vm1.dev.internal", "AAAA") == [network.ports()[0].ip6]


def test_a_network_that_the_host_joins_later_and_that_overlaps_is_told(dual: Machine) -> None:
    with dual.network(config(dual, subnet6="fd12:3456:789a::/64"), name="dev") as network:
        dual.run(f"ip -6 addr add fd12:3456:789a::77/64 dev {dual.uplink} nodad")
        (warning,) = wait_until(lambda: network.status().warnings, message="a warning")
        assert "fd12:3456:789a::/64" in warning.message and "--subnet6" in str(warning.fix)
