"""Whose address a guest sees at a forward, by IP version and egress, and what an ordinary user may forward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.config import Egress
from tests.support.machine import Machine, NetnsGuest
from tests.support.netns import Namespace, wait_until
from tests.support.peers import exchange_udp, http_server, is_closed, udp_echo
from tests.support.rootless import Rootless

HOST6 = "2001:db8:113::2"
WORLD6 = "2001:db8:113::1"
each_egress = pytest.mark.parametrize("egress", [Egress.MASQUERADE, Egress.RELAY], ids=lambda one: one.value)


@pytest.fixture
def dual(machine: Machine) -> Iterator[Machine]:
    """The machine and its world with IPv6."""
    machine.run(f"ip -6 addr add {HOST6}/64 dev {machine.uplink} nodad")
    machine.world.run(f"ip -6 addr add {WORLD6}/64 dev {machine.uplink_peer} nodad")
    machine.run(f"ip -6 route add default via {WORLD6}")
    yield machine


def body(client: Namespace, address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return client.run(f"curl -gsS --max-time 30 http://{host}:{port}/").stdout.strip()


def ip6_of(network: NetworkManager, guest: NetnsGuest) -> str:
    """The guest's IPv6 address, once the guest has it and the way back."""
    wait_until(lambda: guest.json("ip -6 -j route show default"), message="a default route")
    ip6 = network.ports()[0].ip6
    assert ip6 is not None
    return str(ip6)


@each_egress
def test_guest_sees_the_client_over_ipv4(machine: Machine, egress: Egress) -> None:
    with machine.network(NetConfig(egress=egress)) as network:
        guest = machine.guest(network, "web")
        network.expose("0.0.0.0:8080:web:80")
        with http_server(guest):
            assert body(machine.world, machine.host_ip, 8080) == machine.world_ip
            assert body(machine, machine.host_ip, 8080) == machine.host_ip
            assert body(machine, "127.0.0.1", 8080) == str(network.status().gateway)
        (info,) = network.forwards()
        assert (info.client_address, info.client_address_reason) == ("client's own", None)
        if egress is Egress.RELAY:
            assert (info.path, info.dials_as_client, info.dials_as_gateway) == ("splice", 2, 1)


@each_egress
def test_guest_sees_the_client_over_ipv6_at_its_own_ipv6_address(dual: Machine, egress: Egress) -> None:
    with dual.network(NetConfig(egress=egress)) as network:
        guest = dual.guest(network, "web")
        ip6 = ip6_of(network, guest)
        network.expose(f"[::]:8080:[{ip6}]:80")
        with http_server(guest, address="::"):
            assert body(dual.world, HOST6, 8080) == WORLD6
        assert is_closed(dual.world, dual.host_ip, 8080)  # `::` is not IPv4


@each_egress
def test_ipv6_client_reaches_an_ipv4_guest_as_the_gateway(dual: Machine, egress: Egress) -> None:
    with dual.network(NetConfig(egress=egress)) as network:
        guest = dual.guest(network, "web")
        info = network.expose("[::]:8080:web:80")
        assert (info.client_address, info.path) == ("gateway's", "splice")
        assert info.client_address_reason == "guest and clients differ in their IP version"
        with http_server(guest):
            assert body(dual.world, HOST6, 8080) == str(network.status().gateway)


@each_egress
@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_keep_the_clients_address(dual: Machine, egress: Egress, version: int) -> None:
    with dual.network(NetConfig(egress=egress)) as network:
        guest = dual.guest(network, "echo")
        if version == 4:
            network.expose("0.0.0.0:7007:echo:7/udp")
            at, client, bound = dual.host_ip, dual.world_ip, "0.0.0.0"
        else:
            network.expose(f"[::]:7007:[{ip6_of(network, guest)}]:7/udp")
            at, client, bound = HOST6, WORLD6, "::"
        with udp_echo(guest, 7, bound):
            assert exchange_udp(dual.world, at, 7007, b"hello") == f"{client} hello".encode()


@each_egress
def test_guest_reaches_a_forwarded_port_at_the_hosts_address(machine: Machine, egress: Egress) -> None:
    with machine.network(NetConfig(egress=egress)) as network:
        web, other = machine.guest(network, "web"), machine.guest(network, "other")
        network.expose("0.0.0.0:8080:web:80")
        with http_server(web), http_server(machine, port=8081):
            assert body(other, machine.host_ip, 8080)
            assert is_closed(other, machine.host_ip, 8081)  # of the host, and published by nobody
            network.unexpose("0.0.0.0:8080:web:80")
            assert is_closed(other, machine.host_ip, 8080)


def test_forward_can_be_removed_and_added_while_the_network_runs(site: Rootless) -> None:
    site.up("-p", "0.0.0.0:8080-8081:web:80-81")
    guest = site.guest("web")
    with http_server(guest, port=81):
        for _ in range(2):
            assert body(site.world, site.host_ip, 8081) == site.world_ip
            site.user.cli("forward", "rm", "dev", "0.0.0.0:8080-8081:web:80-81")
            assert is_closed(site.world, site.host_ip, 8081)
            site.user.cli("forward", "add", "dev", "0.0.0.0:8080-8081:web:80-81")


def test_privileged_port_of_an_ordinary_user_names_the_setting(site: Rootless) -> None:
    site.up()
    failed = site.user.cli("forward", "add", "dev", "80:80", check=False)
    assert failed.returncode == 1
    assert (
        "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80, or use a port from 1024 on" in failed.stderr
    )
    site.machine.sysctl("net.ipv4.ip_unprivileged_port_start", 80)
    site.user.cli("forward", "add", "dev", "80:80")
