"""Networks on a Mac's own vmnet, as root: nothing stands in for anything."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager, NetworkMode
from tests.support.listening import is_free
from tests.support.vmnet_network import DgramGuest

pytestmark = pytest.mark.skipif(
    platform.system() != "Darwin" or os.geteuid() != 0, reason="needs macOS, and root"
)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="abx", dir="/tmp") as folder:  # a socket's path is short
        yield Path(folder)


def arp(mac: str, ip: IPv4Address, target: IPv4Address) -> bytes:
    sender = bytes.fromhex(mac.replace(":", ""))
    head = b"\xff" * 6 + sender + b"\x08\x06" + bytes.fromhex("0001080006040001")
    return (head + sender + ip.packed + bytes(6) + target.packed).ljust(60, b"\0")


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.HOST_ONLY])
def test_the_gateway_answers_a_guest(place: Path, mode: NetworkMode) -> None:
    with NetworkManager(NetConfig(mode=mode)) as network:
        gateway = IPv4Address(str(network.status().gateway))
        port = network.attach_dgram(place / "vm.sock", ip=gateway + 100)
        guest = DgramGuest(port.socket, str(place / "guest.sock"))
        assert port.ip is not None
        guest.send(arp(port.mac, port.ip, gateway))
        while (answer := guest.receive())[12:14] != b"\x08\x06" or answer[20:22] != b"\x00\x02":
            pass
        assert answer[28:32] == gateway.packed


def test_a_forward_holds_while_the_network_runs(place: Path) -> None:
    with NetworkManager(NetConfig()) as network:
        network.attach_dgram(place / "vm.sock", name="vm")
        assert network.expose("0.0.0.0:18080:vm:80").path == "vmnet"
        assert [one.host_port for one in network.forwards()] == [18080]
        assert not is_free("tcp", 18080)
        network.unexpose("0.0.0.0:18080:vm:80")
        assert is_free("tcp", 18080)


def test_nothing_is_left_when_it_stops(place: Path) -> None:
    before = socket.if_nameindex()
    with NetworkManager(NetConfig()):
        assert len(socket.if_nameindex()) > len(before)
    assert socket.if_nameindex() == before
