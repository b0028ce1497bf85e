"""A real Linux guest under QEMU, over its console: DHCP, DNS, HTTP both ways, a kill and the recovery."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from arcbox_net import DnsConfig, NetConfig, NetworkManager
from tests.support.dig import dig
from tests.support.guest import COMMAND_TIMEOUT_S, Guest, tap_fd
from tests.support.machine import CLI, Machine, kill9
from tests.support.netns import wait_until
from tests.support.peers import http_server

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
GATEWAY = "192.168.64.1"


def test_vm_on_a_tap_fd_gets_online_and_is_reachable_through_a_forward(world: Machine) -> None:
    config = NetConfig(mtu=1400, dns=DnsConfig(upstreams=(world.world_ip,)))
    with world.network(config, name="dev") as network:
        network.expose("8080:vm1:80")
        with (
            network.attach_tap("vm1") as tap,
            Guest(tap_fd(tap.fd, tap.mac), fds=[tap.fd], hostname="box") as guest,
        ):
            lease = guest.lease()
            assert lease["ip"] == str(tap.ip)
            assert (lease["router"], lease["dns"], lease["mtu"]) == (GATEWAY, GATEWAY, "1400")
            assert "mtu 1400" in guest.run("ip link show eth0")

            assert world.world_ip in guest.run("nslookup -type=a web.test")
            assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
            digest = "wget -q -O - http://web.test/bytes/4000000 | sha256sum"
            assert guest.run(digest).split()[0] == _digest(4_000_000)

            guest.run("echo hello from the guest >/www/index.html && httpd -h /www")
            got = world.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout
            assert got == "hello from the guest\n"

            # By the name it gave itself, and by the port's.
            asking = world.guest(network, "asking")
            wait_until(lambda: dig(asking, GATEWAY, "box.dev.internal") == [lease["ip"]])
            assert dig(asking, GATEWAY, "vm1") == [lease["ip"]]


def test_s1_vm_configures_itself_by_ipv6_and_reaches_the_world(world: Machine) -> None:
    host6, world6 = "2001:db8:113::2", "2001:db8:113::1"
    world.run(f"ip -6 addr add {host6}/64 dev {world.uplink} nodad")
    world.run(f"ip -6 route add default via {world6} dev {world.uplink}")
    world.world.run(f"ip -6 addr add {world6}/64 dev {world.uplink_peer} nodad")
    config = NetConfig(mtu=1400, dns=DnsConfig(upstreams=(world.world_ip,), records={"six.test": (world6,)}))
    with (
        world.network(config, name="dev") as network,
        http_server(world.world, address=world6),
        network.attach_tap("vm1") as tap,
        Guest(tap_fd(tap.fd, tap.mac), fds=[tap.fd]) as guest,
    ):
        (port,) = network.ports()
        wait_until(lambda: "via fe80::1" in guest.run("ip -6 route show default"), timeout=COMMAND_TIMEOUT_S)
        assert f"{port.ip6}/64" in guest.run("ip -6 addr show dev eth0")
        # Until its address is known to be nobody else's, the guest would send from its link-local one.
        wait_until(
            lambda: "tentative" not in guest.run("ip -6 addr show dev eth0"), timeout=COMMAND_TIMEOUT_S
        )
        assert guest.run("cat /proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1400"
        assert guest.run("wget -q -O - http://six.test/").strip() == host6


def test_vm_survives_a_kill_of_the_network_process_and_up_brings_it_back(world: Machine) -> None:
    world.cli("up dev -p 8080:vm1:80 -p 0.0.0.0:8081:vm1:80")
    network = NetworkManager.connect("dev")
    with network.attach_tap("vm1") as tap, Guest(tap_fd(tap.fd, tap.mac), fds=[tap.fd]) as guest:
        lease = guest.lease()
        guest.run("echo hello >/www/index.html && httpd -h /www")
        kill9(network.pid)

        # The kernel goes on without us: outbound, and inbound where the kernel forwards.
        assert guest.run(f"wget -q -O - http://{world.world_ip}/").strip() == world.host_ip
        assert world.world.run(f"curl -sS --max-time 30 http://{world.host_ip}:8081/").stdout == "hello\n"

        world.cli("up dev -p 8080:vm1:80 -p 0.0.0.0:8081:vm1:80")
        assert world.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout == "hello\n"
        assert world.world_ip in guest.run("nslookup -type=a web.test")
        # Asks again from nothing: the lease is remembered.
        guest.run("kill -USR2 $(cat /udhcpc.pid); : >/lease; kill -USR1 $(cat /udhcpc.pid)")
        assert guest.lease()["ip"] == lease["ip"]
        assert [port.name for port in NetworkManager.connect("dev").ports()] == ["vm1"]
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_run_boots_a_vm_on_the_network(world: Machine) -> None:
    world.cli("up dev")
    with Guest([], prefix=world.argv([str(CLI), "run", "dev", "--"])) as guest:
        lease = guest.lease()
        assert IPv4Address(lease["ip"]) in IPv4Network("192.168.64.0/24")
        assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
    wait_until(lambda: world.cli_json("show dev")["ports"] == [])
    world.cli("down dev")


def test_vm_with_two_queues_gets_online(world: Machine) -> None:
    config = NetConfig(multiqueue=True, num_queues=2, dns=DnsConfig(upstreams=(world.world_ip,)))
    with world.network(config, name="dev") as network, network.attach_tap("vm1") as tap:
        fds = ":".join(map(str, tap.fds))
        device = f"virtio-net-pci,romfile=,netdev=n,mac={tap.mac},mq=on,vectors=6"
        with Guest(["-netdev", f"tap,id=n,fds={fds}", "-device", device], fds=tap.fds) as guest:
            assert guest.lease()["ip"] == str(tap.ip)
            assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip


def _digest(size: int) -> str:
    import hashlib

    from tests.support.peers import body_of

    return hashlib.sha256(body_of(size)).hexdigest()
