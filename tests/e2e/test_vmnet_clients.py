"""Clients as guests have them, in a network of macOS: udhcpc and dig in a namespace whose TAP is at its socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from arcbox_net.config import NetConfig
from arcbox_net.config_dns import DnsConfig
from arcbox_net.manager import NetworkManager
from tests.support.dig import dig
from tests.support.echo import is_echoed
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.vmnet_network import Mac
from tests.support.vmnet_tap import TapGuest

pytestmark = pytest.mark.e2e
GATEWAY, GATEWAY_MAC = "192.168.64.1", "02:00:00:00:00:fe"
SCRIPT = Path(__file__).parents[1] / "support" / "udhcpc.script"


class System:
    """What is beyond the uplink: it answers for the gateway's address, and remembers what it heard."""

    def __init__(self, mac: Mac) -> None:
        self.heard: list[Packet] = []
        self._end = mac.far_end()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()

    def ports(self, kind: type[Packet]) -> set[int]:
        return {packet[kind].dport for packet in self.heard if kind in packet}

    def _run(self) -> None:
        while True:
            try:
                frame = self._end.recv(1 << 16)
            except TimeoutError:
                continue
            if not frame:
                return
            packet = Ether(frame)
            self.heard.append(packet)
            if ARP in packet and packet[ARP].op == 1 and packet[ARP].pdst == GATEWAY:
                asked = packet[ARP]
                answer = ARP(op=2, hwsrc=GATEWAY_MAC, psrc=GATEWAY, hwdst=asked.hwsrc, pdst=asked.psrc)
                self._end.send(bytes(Ether(src=GATEWAY_MAC, dst=packet.src) / answer))


@contextlib.contextmanager
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[NetworkManager, TapGuest, System]]:
    """A network, its first guest, and what is beyond it."""
    with tempfile.TemporaryDirectory(prefix="abx") as folder, contextlib.ExitStack() as ends:
        mac = Mac(Path(folder), monkeypatch)
        config = NetConfig(dns=DnsConfig(records={"fixed": ("192.168.64.99",)}))
        network = ends.enter_context(NetworkManager(config, name="dev"))
        system = System(mac)
        ends.callback(system.stop)
        port = network.attach_dgram(mac.place / "vm.sock", name="vm")
        yield network, ends.enter_context(TapGuest("vm", port, mac.place)), system


@pytest.mark.skipif(not (shutil.which("busybox") and shutil.which("dig")), reason="needs busybox and dig")
def test_udhcpc_and_dig_are_served_and_the_system_hears_arp_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(monkeypatch) as (network, guest, system):
        client = guest.popen(
            f"busybox udhcpc -i tap0 -f -R -s {SCRIPT} -x hostname:box", stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        told = {}
        while "serverid" not in told or "lease" not in told:
            line = client.stdout.readline()
            assert line, told
            name, _, value = line.removeprefix("lease:").strip().partition("=")
            told[name] = value
        assert (told["ip"], told["serverid"]) == ("192.168.64.10", GATEWAY)
        lease = network.leases()[0]
        assert (lease.state, lease.port, lease.hostname) == ("allocated", "vm", "box")

        answers = {
            name: dig(guest, GATEWAY, name)
            for name in ("box.dev.internal", "fixed.dev.internal", "gateway.dev.internal")
        }
        assert answers == {
            "box.dev.internal": ["192.168.64.10"],
            "fixed.dev.internal": ["192.168.64.99"],
            "gateway.dev.internal": [GATEWAY],
        }
        assert dig(guest, GATEWAY, "-x", "192.168.64.10")

        client.terminate()
        client.wait(PATIENCE_S)
        wait_until(lambda: network.stats()["dhcp"]["rx_release"] == 1)
        assert any(ARP in packet for packet in system.heard)
        assert not system.ports(UDP) & {53, 67}


def test_a_question_by_tcp_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(monkeypatch) as (_network, guest, system):
        guest.run("ip addr add 192.168.64.10/24 dev tap0")

        def dial() -> socket.socket:
            dialing = socket.socket()
            dialing.setblocking(False)
            dialing.connect_ex((GATEWAY, 53))
            return dialing

        with guest.call(dial):
            wait_until(lambda: system.ports(TCP) == {53})


def test_a_guest_that_takes_another_address_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(monkeypatch) as (network, guest, system):
        guest.run("ip addr add 192.168.64.77/24 dev tap0")
        assert not is_echoed(guest, GATEWAY)
        wait_until(lambda: network.ports()[0].drops.get("arp", 0) > 0)
        assert not any(ARP in packet for packet in system.heard)
