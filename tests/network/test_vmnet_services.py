"""DHCP and DNS of networks of macOS, which are ours: guests at sockets ask, and the system beyond hears nothing."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arcbox_net.config import NetConfig, NetworkMode
from arcbox_net.config_dhcp import DhcpConfig, Reservation
from arcbox_net.config_dns import DnsConfig
from arcbox_net.errors import AddressInUse, ConfigError
from arcbox_net.manager import NetworkManager
from arcbox_net.services.udp_frames import Datagram, wrap
from tests.oracle.dns import response
from tests.support.netns import wait_until
from tests.support.vmnet_client import GATEWAY_MAC, NetworkGuest
from tests.support.vmnet_network import Mac

FUTURE = hex(int(time.time()) + 3600)
FIRST = "192.168.64.10"  # behind those that the system's server keeps


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mac]:
    with tempfile.TemporaryDirectory(prefix="abx") as folder:  # a socket's path is short
        yield Mac(Path(folder), monkeypatch)


def attach(
    network: NetworkManager, place: Mac, name: str, *, hostname: str | None = None, **more: str
) -> NetworkGuest:
    port = network.attach_dgram(place.place / f"{name}.sock", name=name, **more)  # type: ignore[arg-type]
    return NetworkGuest(port, place.place, hostname=hostname)


def system_lease(ip: str, mac: str, name: str) -> dict[str, str]:
    return {"name": name, "ip_address": ip, "hw_address": f"1,{mac}", "lease": FUTURE}


def test_a_guest_gets_the_address_that_its_port_has_and_the_system_hears_nothing(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        guest = attach(network, mac, "one", hostname="box")
        assert [port.ip for port in network.ports()] == [FIRST]
        outside = mac.far_end()
        lease = guest.lease()
        assert (str(lease.ip), lease.prefix, str(lease.router)) == (FIRST, 24, "192.168.64.1")
        assert (lease.dns, lease.domain) == ((IPv4Address("192.168.64.1"),), "dev.internal")
        found = [(one.ip, one.mac, one.hostname, one.port) for one in network.leases()]
        assert found == [(FIRST, "02:" + guest.mac.hex(":")[3:], "box", "one")]
        guest.send(b"out", to="192.168.64.255", src_port=1, dst_port=2)
        assert outside.recv(1 << 16).endswith(b"out"), "what the system hears first is no DHCP"
        renewed = guest.client.renew()
        guest.send(renewed, to="192.168.64.1", dst_mac=GATEWAY_MAC, src_port=68, dst_port=67)
        guest.client.receive(guest.answer(68).payload)
        assert guest.client.lease is not None and network.stats()["dhcp"]["tx_ack"] == 2


def test_a_guest_keeps_its_address_over_down_and_up(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        network.attach_dgram(mac.place / "other.sock", name="other")
        before = attach(network, mac, "one").lease().ip
    (mac.place / "one.own").unlink()
    with NetworkManager(name="dev") as network:
        assert attach(network, mac, "one").lease().ip == before != IPv4Address(FIRST)


def test_reservations_and_allocations_are_the_servers_own(mac: Mac) -> None:
    dhcp = DhcpConfig(reservations=(Reservation("02:00:00:00:00:05", "192.168.64.5"),), lease_s=300)
    with NetworkManager(NetConfig(dhcp=dhcp), name="dev") as network:
        assert str(network.allocate_ip()) == FIRST
        assert str(attach(network, mac, "one").lease().ip) == "192.168.64.11"
        lease = attach(network, mac, "two", mac="02:00:00:00:00:05").lease()
        assert (str(lease.ip), lease.lease_s) == ("192.168.64.5", 300)
        network.reserve("02:00:00:00:00:06", "192.168.64.6")
        assert str(attach(network, mac, "three", mac="02:00:00:00:00:06").lease().ip) == "192.168.64.6"
        assert str(attach(network, mac, "four", ip="192.168.64.77").lease().ip) == "192.168.64.77"
        for taken in ("192.168.64.5", "192.168.64.77", "192.168.64.1"):
            with pytest.raises(AddressInUse):
                network.allocate_ip(taken)
        with pytest.raises(ConfigError):
            network.allocate_ip("10.0.0.5")


def test_what_the_systems_server_gave_to_others_is_theirs(mac: Mac) -> None:
    mac.leases(
        system_lease(FIRST, "2:0:0:0:0:5", "alpha"),
        system_lease("10.1.1.1", "2:0:0:0:0:6", "of-another-network"),
    )
    with NetworkManager(NetConfig(), name="dev") as network:
        available = network.available_ips()
        found = network.leases()
        assert [(one.ip, one.mac, one.hostname, one.state) for one in found] == [
            (FIRST, "02:00:00:00:00:05", "alpha", "system")
        ]
        with pytest.raises(AddressInUse, match="another DHCP server"):
            network.allocate_ip(FIRST)
        assert str(attach(network, mac, "one").lease().ip) == "192.168.64.11"
        mac.leases()
        wait_until(lambda: network.available_ips() == available)
        assert str(network.allocate_ip(FIRST)) == FIRST


def test_names_of_guests_and_records_are_told(mac: Mac) -> None:
    with NetworkManager(
        NetConfig(dns=DnsConfig(records={"fixed": ("192.168.64.99",)})), name="dev"
    ) as network:
        guest = attach(network, mac, "one", hostname="wished")
        guest.lease()
        network.register_dns("db", "192.168.64.77")
        for name, address in {
            "one": FIRST,
            "wished.dev.internal": FIRST,
            "gateway.dev.internal": "192.168.64.1",
            "fixed.dev.internal": "192.168.64.99",
            "db.dev.internal": "192.168.64.77",
        }.items():
            assert any(f"IN A {address}" in line for line in guest.ask(name)), name
        network.deregister_dns("db")
        assert "rcode NXDOMAIN" in guest.ask("db.dev.internal")
        told = {record.name for record in network.dns_records()}
        assert told >= {f"{name}.dev.internal" for name in ("one", "fixed", "wished")}


def test_names_that_were_registered_outlive_a_kill(mac: Mac) -> None:
    network = NetworkManager(NetConfig(), name="dev")
    network.start()
    network.register_dns("db", "192.168.64.77")
    assert network.pid is not None
    os.kill(network.pid, signal.SIGKILL)
    wait_until(lambda: network.state == "failed")
    with NetworkManager(name="dev") as again:
        guest = attach(again, mac, "one")
        guest.lease()
        assert any("192.168.64.77" in line for line in guest.ask("db.dev.internal"))


@pytest.fixture
def upstream() -> Iterator[str]:
    """A name server of the host that knows one address, and a text that no datagram holds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                packet, client = server.recvfrom(4096)
                if client == server.getsockname():
                    return
                records = [
                    f"@ 60 IN A 198.51.{i // 200}.{i % 200}"
                    for i in range(200 if b"long" in packet.lower() else 1)
                ]
                server.sendto(response(packet, records), client)

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = server.getsockname()
        yield f"{host}:{port}"
        server.sendto(b"", (host, port))
        thread.join()


def test_other_names_are_asked_of_the_upstream_and_cached(mac: Mac, upstream: str) -> None:
    with NetworkManager(NetConfig(dns=DnsConfig(upstreams=(upstream,))), name="dev") as network:
        guest = attach(network, mac, "one")
        guest.lease()
        for _ in range(2):
            assert any("198.51.0.0" in line for line in guest.ask("www.example.com"))
        stats = network.stats()["dns"]
        assert (stats["udp_received"], stats["cache_hits"]) == (2, 1)
        assert "flags QR TC RD RA" in guest.ask("long.example.com")


def test_a_host_only_network_asks_nobody(mac: Mac, upstream: str) -> None:
    config = NetConfig(mode=NetworkMode.HOST_ONLY, dns=DnsConfig(upstreams=(upstream,)))
    with NetworkManager(config, name="dev") as network:
        guest = attach(network, mac, "one")
        lease = guest.lease()
        assert lease.router is None
        assert "rcode REFUSED" in guest.ask("www.example.com", server="10.0.0.1")
        assert any(str(lease.ip) in line for line in guest.ask("one", server="10.0.0.1"))


def test_services_that_are_off_answer_nothing_and_nobody_else_is_asked(mac: Mac) -> None:
    config = NetConfig(dhcp=DhcpConfig(enabled=False), dns=DnsConfig(enabled=False))
    with NetworkManager(config, name="dev") as network:
        guest = attach(network, mac, "one")
        outside = mac.far_end()
        guest.send(guest.client.discover(), src_port=68, dst_port=67)
        guest.ip = IPv4Address(FIRST)
        guest.send(b"?" * 20, to="192.168.64.1", dst_mac=GATEWAY_MAC, src_port=1, dst_port=53)
        guest.send(b"out", to="192.168.64.255", src_port=1, dst_port=2)
        assert outside.recv(1 << 16).endswith(b"out")
        wait_until(lambda: network.stats()["service"] == {"unserved": 2})


def test_a_bridged_network_has_none_of_it(mac: Mac) -> None:
    with NetworkManager(NetConfig(mode=NetworkMode.BRIDGE, nic="en0"), name="dev") as network:
        guest = attach(network, mac, "one")
        outside = mac.far_end()
        discover = guest.client.discover()
        guest.send(discover, src_port=68, dst_port=67)
        assert outside.recv(1 << 16).endswith(discover)
        assert network.leases() == [] and network.ports()[0].ip is None


def test_frames_that_lie_are_counted_and_the_next_is_answered(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        guest = attach(network, mac, "one")
        asked = Datagram(guest.mac, b"\xff" * 6, 0, 0xFFFFFFFF, 68, 67, guest.client.discover())
        sent = bytearray(wrap(asked))
        sent[-1] ^= 1
        guest.dgram.send(bytes(sent))
        guest.lease()
        assert network.stats()["service"] == {"bad_frame": 1}
