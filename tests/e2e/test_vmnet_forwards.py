"""Forwards of a network of macOS, tried as its user does first: from the host itself, at 127.0.0.1.

The network process is in a namespace that is the Mac: what is beyond the uplink is a TAP there, with the gateway's
address, as a bridge of vmnet is. The guest is another namespace, whose TAP is at the network's socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.host.linux.tap import open_queues
from arcbox_net.manager import NetworkManager
from tests.support.echo import wait_for_echo
from tests.support.netns import Namespace, remove_stale, requires_root
from tests.support.relay import DEADLINE_S, is_reset, send_and_end
from tests.support.vmnet_network import Mac
from tests.support.vmnet_tap import Pump, TapGuest

pytestmark = [pytest.mark.e2e, requires_root]
GATEWAY, GUEST = "192.168.64.1", "192.168.64.20"
RULES = pytest.mark.parametrize("host_ip", ["0.0.0.0", "127.0.0.1"], ids=["with the system", "alone"])
SERVED_BY = {"0.0.0.0": "vmnet", "127.0.0.1": "relay"}


class MacHost(Namespace):
    """The Mac: its link to the guests of a network is up from `join` on."""

    def join(self, mac: Mac) -> Pump:
        (self._tap,) = self.call(
            lambda: open_queues("bridge100", 1, vnet_hdr=False, multi_queue=False, create=True)
        )
        os.set_blocking(self._tap, True)
        self.run(f"ip addr add {GATEWAY}/24 dev bridge100")
        self.run("ip link set bridge100 up")
        self._far_end = mac.far_end()
        self._far_end.settimeout(None)
        return Pump(self._tap, self._far_end.fileno())

    def leave(self, pump: Pump) -> None:
        pump.stop()
        self._far_end.close()
        os.close(self._tap)


@contextlib.contextmanager
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[NetworkManager, MacHost, TapGuest]]:
    remove_stale()
    with tempfile.TemporaryDirectory(prefix="abx") as folder, contextlib.ExitStack() as ends:
        mac = Mac(Path(folder), monkeypatch)
        host = ends.enter_context(MacHost("mac"))
        network = NetworkManager(NetConfig(), name="dev")
        host.call(network.start)
        ends.callback(network.stop)
        pump = host.join(mac)
        ends.callback(host.leave, pump)
        port = network.attach_dgram(mac.place / "vm.sock", name="vm", ip=GUEST)
        guest = ends.enter_context(TapGuest("vm", port, mac.place))
        guest.run(f"ip addr add {GUEST}/24 dev tap0")
        wait_for_echo(host, GUEST)
        yield network, host, guest


def dial(host: MacHost, port: int) -> socket.socket:
    return host.call(lambda: socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))


def is_refused(host: MacHost, port: int) -> bool:
    """Whether a connection is reset; a quick RST comes out of connect() already."""
    try:
        with dial(host, port) as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


def echo(listener: socket.socket, seen: list[str]) -> None:
    """Answer each client with all that it said, when it has said all."""
    with contextlib.suppress(OSError):  # of the listener's end
        while True:
            served, (address, _) = listener.accept()
            seen.append(address)
            with served:
                said = b"".join(iter(lambda: served.recv(1 << 20), b""))  # noqa: B023
                served.sendall(said)


@RULES
def test_tcp_from_the_mac_reaches_the_guest_and_its_answer_comes_back(
    monkeypatch: pytest.MonkeyPatch, host_ip: str
) -> None:
    with started(monkeypatch) as (network, host, guest):
        info = network.expose(f"{host_ip}:8080:vm:80")
        assert (info.path, info.state) == (SERVED_BY[host_ip], "active")
        assert is_refused(host, 8080)  # nothing listens in the guest
        seen: list[str] = []
        with guest.call(lambda: socket.create_server((GUEST, 80))) as listener:
            threading.Thread(target=echo, args=(listener, seen), daemon=True).start()
            said = os.urandom(1 << 20)
            with dial(host, 8080) as client:
                send_and_end(client, said)
                heard = b"".join(iter(lambda: client.recv(1 << 20), b""))
            assert hashlib.sha256(heard).digest() == hashlib.sha256(said).digest()
            assert seen == [GATEWAY]
            listener.shutdown(socket.SHUT_RDWR)
        network.unexpose(f"{host_ip}:8080:vm:80")
        with pytest.raises(ConnectionRefusedError):
            dial(host, 8080)


@RULES
def test_udp_from_the_mac_reaches_the_guest_and_its_answer_comes_back(
    monkeypatch: pytest.MonkeyPatch, host_ip: str
) -> None:
    with started(monkeypatch) as (network, host, guest):
        assert network.expose(f"{host_ip}:5300:vm:53/udp").path == SERVED_BY[host_ip]
        with (
            guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server,
            host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
        ):
            server.bind((GUEST, 53))
            for end in (server, client):
                end.settimeout(DEADLINE_S)
            client.connect(("127.0.0.1", 5300))
            client.send(b"question")
            said, sender = server.recvfrom(100)
            assert (said, sender[0]) == (b"question", GATEWAY)
            server.sendto(b"answer", sender)
            assert client.recv(100) == b"answer"
        assert network.forwards()[0].dials_as_gateway == 1
