"""Networks of macOS, in the process that would run there, over the stand-in for vmnet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arcbox_net.config import NetConfig, NetworkMode
from arcbox_net.errors import (
    ForwardExists,
    ForwardNotFound,
    HostPortInUse,
    NotRunning,
    PermissionDenied,
    SubnetConflict,
    Unsupported,
)
from arcbox_net.manager import NetworkManager, remove_leftovers
from arcbox_net.network.client import Client
from arcbox_net.network.messages import OpenTap
from arcbox_net.rules import parse_forward
from tests.support.frames import udp
from tests.support.listening import free_port, is_free, taken
from tests.support.netns import wait_until
from tests.support.sockets import StreamPeer
from tests.support.vmnet_network import DgramGuest, Mac

EVERYBODY = b"\xff" * 6
FUTURE = hex(int(time.time()) + 3600)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mac]:
    with tempfile.TemporaryDirectory(prefix="abx") as folder:  # a socket's path is short
        yield Mac(Path(folder), monkeypatch)


def frame(to: bytes | str, sender: str, ip: IPv4Address | str | None = "192.168.64.200") -> bytes:
    target = to if isinstance(to, bytes) else bytes.fromhex(to.replace(":", ""))
    packet = udp((str(ip), 1000), ("192.168.64.21", 2000), b"payload of some bytes")
    return target + bytes.fromhex(sender.replace(":", "")) + b"\x08\x00" + bytes(packet)


def lease(ip: str, mac: str, name: str) -> dict[str, str]:
    return {"name": name, "ip_address": ip, "hw_address": f"1,{mac}", "lease": FUTURE}


def test_frames_pass_between_a_datagram_guest_a_stream_guest_and_the_system(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        one = network.attach_dgram(mac.place / "one.sock", name="one")
        two = network.attach_stream(mac.place / "two.sock", name="two")
        dgram = DgramGuest(one.socket, str(mac.place / "own.sock"))
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(two.socket)
        peer = StreamPeer(stream)
        wait_until(lambda: all(port.state == "up" for port in network.ports()))
        outside = mac.far_end()
        sent = frame(EVERYBODY, one.mac, one.ip)
        dgram.send(sent)
        assert peer.receive(1) == [sent]
        assert outside.recv(1 << 16) == sent
        peer.send(frame(one.mac, two.mac, two.ip))
        assert dgram.receive() == frame(one.mac, two.mac, two.ip)
        outside.send(frame(two.mac, "02:00:00:00:00:99"))
        assert peer.receive(1) == [frame(two.mac, "02:00:00:00:00:99")]
        status = network.status()
        assert (status.mode, status.egress, status.gateway) == ("nat", "vmnet", "192.168.64.1")
        assert network.stats()["ports"]["one"]["tx_packets"] == 1


def test_a_guest_cannot_send_as_another(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        one = network.attach_dgram(mac.place / "one.sock", name="one")
        guest = DgramGuest(one.socket, str(mac.place / "own.sock"))
        guest.send(frame(EVERYBODY, "02:00:00:00:00:77", one.ip))
        guest.send(frame(EVERYBODY, one.mac, "192.168.64.77"))
        wait_until(lambda: network.ports()[0].drops == {"source mac": 1, "source ip": 1})


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (
            NetConfig(),
            {"operation_mode": "1001", "start_address": "192.168.64.1", "end_address": "192.168.64.9"},
        ),
        (NetConfig(mode=NetworkMode.HOST_ONLY), {"operation_mode": "1000", "start_address": "10.0.0.1"}),
        (
            NetConfig(mode=NetworkMode.BRIDGE, nic="en0"),
            {"operation_mode": "1002", "shared_interface_name": "en0"},
        ),
    ],
    ids=["nat", "host-only", "bridge"],
)
def test_each_mode_is_an_interface_of_its_kind(mac: Mac, config: NetConfig, asked: dict[str, str]) -> None:
    with NetworkManager(config, name="dev") as network:
        assert {key: mac.ask("asked", key) for key in asked} == asked
        assert network.status().mode == config.mode.value


def test_nothing_is_left_when_it_stops(mac: Mac) -> None:
    network = NetworkManager(NetConfig(), name="dev")
    network.start()
    network.attach_dgram(mac.place / "one.sock", name="one")
    network.stop()
    assert not (mac.place / "one.sock").exists()
    assert not (mac.place / "run" / "dev").exists()
    assert network.state == "stopped"


def test_its_end_is_that_of_its_parent(mac: Mac) -> None:
    code = (
        "from arcbox_net import manager, network_process; import sys;"
        "network_process.PROCESS = 'tests.support.vmnet_main';"
        "network = manager.NetworkManager(name='dev'); network.start(); print(network.pid, flush=True);"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (mac.place / "run" / "dev").exists()


def test_guests_and_forwards_of_a_killed_run_are_there_again(mac: Mac) -> None:
    network = NetworkManager(NetConfig(), name="dev")
    network.start()
    port = network.attach_dgram(mac.place / "one.sock", name="one", mac="02:00:00:00:00:09")
    network.expose(f"0.0.0.0:{free_port()}:one:80")
    assert network.pid is not None
    os.kill(network.pid, signal.SIGKILL)
    wait_until(lambda: network.state == "failed")
    with NetworkManager(name="dev") as again:
        assert [(one.name, one.mac, one.ip) for one in again.ports()] == [("one", port.mac, str(port.ip))]
        assert [rule.state for rule in again.forwards()] == ["active"]
        guest = DgramGuest(port.socket, str(mac.place / "own.sock"))
        outside = mac.far_end()
        guest.send(frame(EVERYBODY, port.mac, port.ip))
        assert outside.recv(1 << 16) == frame(EVERYBODY, port.mac, port.ip)


def test_what_a_killed_run_left_is_removed_once(mac: Mac) -> None:
    network = NetworkManager(NetConfig(), name="dev")
    network.start()
    assert network.pid is not None
    os.kill(network.pid, signal.SIGKILL)
    wait_until(lambda: network.state == "failed")
    assert remove_leftovers("dev")
    assert not remove_leftovers("dev")


def test_a_guest_of_a_killed_run_whose_address_is_of_another_subnet_is_given_up(mac: Mac) -> None:
    network = NetworkManager(NetConfig(), name="dev")
    network.start()
    network.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.64.20")
    assert network.pid is not None
    os.kill(network.pid, signal.SIGKILL)
    wait_until(lambda: network.state == "failed")
    mac.fails(vmnet_start_interface=(1009, 1))
    with NetworkManager(name="dev") as again:
        assert again.status().subnet == "192.168.65.0/24"
        assert again.ports() == [] and again.leases() == []
        one = again.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.65.20")
        assert one.ip == IPv4Address("192.168.65.20")


def test_forwards_of_every_address_are_rules_of_the_system(mac: Mac) -> None:
    first = free_port(size=2)
    with NetworkManager(NetConfig(), name="dev") as network:
        network.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.64.20")
        info = network.expose(f"0.0.0.0:{first}-{first + 1}:one:80-81/udp")
        assert (info.path, info.state, info.guest_ip) == ("vmnet", "active", "192.168.64.20")
        told = [f"udp {first} 192.168.64.20 80", f"udp {first + 1} 192.168.64.20 81"]
        assert mac.ask("rules") == told
        with pytest.raises(ForwardExists):
            network.expose(f"0.0.0.0:{first + 1}:one:9/udp")
        network.unexpose(f"0.0.0.0:{first}-{first + 1}:one:80-81/udp")
        assert mac.ask("rules") == []
        with pytest.raises(ForwardNotFound):
            network.unexpose(f"0.0.0.0:{first}:one:80")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_beside_a_rule_of_the_system_a_listener_has_the_loopback(mac: Mac, protocol: str) -> None:
    host_port = free_port()
    rule = f"0.0.0.0:{host_port}:one:80/{protocol}"
    with NetworkManager(NetConfig(), name="dev") as network:
        with taken(protocol, host_port), pytest.raises(HostPortInUse, match=rf"127\.0\.0\.1:{host_port}"):
            network.expose(rule)
        assert network.forwards() == [] and mac.ask("rules") == []
        network.attach_dgram(mac.place / "one.sock", name="one")
        assert network.expose(rule).path == "vmnet"
        assert not is_free(protocol, host_port)
        assert is_free(protocol, host_port, "127.0.0.2")
        network.unexpose(rule)
        assert is_free(protocol, host_port)
        network.expose(rule)
    assert is_free(protocol, host_port)


def test_a_forward_waits_for_its_guest(mac: Mac) -> None:
    host_port = free_port()
    with NetworkManager(NetConfig(), name="dev") as network:
        assert network.expose(f"0.0.0.0:{host_port}:one:80").state == "pending"
        one = network.attach_dgram(mac.place / "one.sock", name="one")
        assert mac.ask("rules") == [f"tcp {host_port} {one.ip} 80"]


def test_a_forward_that_the_system_refuses_waits_and_holds_up_nobody(mac: Mac) -> None:
    mac.fails(vmnet_interface_add_ip_port_forwarding_rule=(1001, 1))
    with NetworkManager(NetConfig(), name="dev") as network:
        for rule in (f"0.0.0.0:{free_port()}:one:80", f"0.0.0.0:{free_port()}:one:81"):
            assert network.expose(rule).state == "pending"
        network.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.64.20")
        assert [rule.state for rule in network.forwards()] == ["pending", "active"]
        network.attach_dgram(mac.place / "two.sock", name="two")
        assert [rule.state for rule in network.forwards()] == ["active", "active"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_forward_of_the_loopback_is_passed_on_by_a_listener(mac: Mac, host: str, protocol: str) -> None:
    address = host.strip("[]")
    host_port = free_port(address)
    rule = f"{host}:{host_port}:one:80/{protocol}"
    with NetworkManager(NetConfig(subnet="192.168.64.0/24"), name="dev") as network:
        network.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.64.20")
        info = network.expose(rule)
        assert (info.path, info.state, info.client_address) == ("relay", "active", "gateway's")
        assert mac.ask("rules") == [] and not is_free(protocol, host_port, address)
        assert network.stats()["relay"]["accepted"] == 0
        network.unexpose(rule)
        assert is_free(protocol, host_port, address)


def test_udp_to_every_address_needs_a_rule_of_the_system(mac: Mac) -> None:
    host_port = free_port()
    with NetworkManager(NetConfig(mode=NetworkMode.HOST_ONLY), name="dev") as network:
        with pytest.raises(Unsupported, match="UDP") as caught:
            network.expose(f"0.0.0.0:{host_port}:one:53/udp")
        assert f"127.0.0.1:{host_port}" in (caught.value.fix or "")
        assert network.expose(f"0.0.0.0:{host_port}:one:53").path == "relay"


def test_kinds_of_guests_that_need_linux_are_refused(mac: Mac) -> None:
    with NetworkManager(NetConfig(), name="dev") as network:
        for attach in (
            lambda: network.attach_tap("one"),
            lambda: network.attach_tap("one", persist=True),
            lambda: network.attach_netns(os.getpid()),
            lambda: network.attach_vhost_user(mac.place / "one.sock"),
        ):
            with pytest.raises(Unsupported):
                attach()
        assert network.ports() == [] and network.flows() == []


def test_who_asks_for_a_tap_needs_no_kind_of_socket_that_macos_does_not_have(
    mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "SOCK_SEQPACKET", 4711)
    network = NetworkManager(NetConfig(), name="dev")
    with network, pytest.raises(Unsupported, match="TAP"):
        network.attach_tap("one")
    with pytest.raises(NotRunning):
        Client("dev").request_fds(OpenTap(name="one"))


def test_a_subnet_that_is_taken_is_passed_over_or_named(mac: Mac) -> None:
    mac.fails(vmnet_start_interface=(1009, 2))
    with NetworkManager(NetConfig(), name="dev") as network:
        assert network.status().subnet == "192.168.66.0/24"
    with pytest.raises(SubnetConflict, match=r"192\.168\.80\.0/24"):
        NetworkManager(NetConfig(subnet="192.168.80.0/24"), name="other").start()


def test_a_refusal_of_the_system_is_an_error_that_says_what_to_do(mac: Mac) -> None:
    mac.fails(vmnet_start_interface=(1010, 1))
    with pytest.raises(PermissionDenied) as caught:
        NetworkManager(NetConfig(), name="dev").start()
    assert "com.apple.vm.networking" in (caught.value.fix or "")


def test_a_network_of_macos_26_whose_subnet_is_taken_goes_on_to_another(mac: Mac) -> None:
    mac.release(26, privileged=False)
    mac.fails(vmnet_network_create=(1001, 1))
    with NetworkManager(NetConfig(), name="dev"):
        assert "subnet 192.168.65.1 255.255.255.0" in mac.ask("network")


def test_from_macos_26_on_everybody_has_a_network(mac: Mac) -> None:
    mac.release(26, privileged=False)
    said_port, host_port = free_port(), free_port()
    said = f"0.0.0.0:{said_port}:192.168.64.5:53/udp"
    with NetworkManager(NetConfig(forwards=(parse_forward(said),)), name="dev") as network:
        made = mac.ask("network")
        assert f"forward 17 {said_port} to 192.168.64.5 port 53" in made
        assert not is_free("udp", said_port)
        assert [(one.path, one.state) for one in network.forwards()] == [("vmnet", "active")]
        with pytest.raises(Unsupported, match="when the network was made"):
            network.unexpose(said)
        assert "no dhcp" in made
        network.attach_dgram(mac.place / "one.sock", name="one", ip="192.168.64.20")
        assert network.expose(f"0.0.0.0:{host_port}:one:80").path == "relay"
        with pytest.raises(Unsupported, match="UDP"):
            network.expose(f"0.0.0.0:{host_port}:one:53/udp")


def test_before_macos_26_others_than_root_need_an_entitlement(mac: Mac) -> None:
    mac.release(14, privileged=False)
    with NetworkManager(NetConfig(), name="dev"):
        assert mac.ask("network") == []


def test_run_gives_vfkit_a_device_at_a_socket_of_a_network_of_its_own(mac: Mac) -> None:
    monitor = mac.place / "vfkit"
    monitor.write_text(f'#!/bin/sh\necho "$@" > {mac.place}/words\nexit 3\n')
    monitor.chmod(0o755)
    code = (
        "import sys; from arcbox_net import network_process; from arcbox_net.cli.main import main;"
        "network_process.PROCESS = 'tests.support.vmnet_main'; sys.argv[0] = 'arcbox-net'; main()"
    )
    words = [
        sys.executable,
        "-c",
        code,
        "run",
        "--mac",
        "02:00:00:00:00:44",
        "--",
        str(monitor),
        "--cpus",
        "2",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    given = (mac.place / "words").read_text().split()
    assert given[:3] == ["--cpus", "2", "--device"]
    kind, socket_path, address = given[3].split(",")
    assert (kind, address) == ("virtio-net", "mac=02:00:00:00:00:44")
    assert socket_path.startswith("unixSocketPath=/")
