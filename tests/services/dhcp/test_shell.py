"""The real thing: a bridge, guests with real clients, a disk that fails, and a server that is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from arcbox_net.network.state import State
from arcbox_net.services.dhcp.client import ClientSocket, ClientState, DhcpClient, lease_in_this_namespace
from arcbox_net.services.dhcp.clock import system_clock
from tests.support.netns import PATIENCE_S, Host, Namespace, wait_until

pytestmark = pytest.mark.e2e
SERVER = Path(__file__).with_name("serve.py")
BRIDGE = "br0"


def needs(tool: str) -> Callable[[Any], Any]:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


class Network:
    """A host with a bridge and the DHCP service on it, in a process of its own."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.path = directory / "net.db"
        self.process: subprocess.Popen[str] | None = None
        self.events: list[dict[str, Any]] = []
        self.bridge()

    def bridge(self) -> None:
        self.host.run(f"ip link add {BRIDGE} type bridge")
        self.host.run(f"ip addr add 10.77.0.1/24 dev {BRIDGE}")
        self.host.run(f"ip link set {BRIDGE} up")

    def guest(self, label: str) -> Namespace:
        guest = self.host.namespace(label)
        self.host.run(f"ip link add v-{label} type veth peer name eth0 netns {guest.name}")
        self.host.run(f"ip link set v-{label} master {BRIDGE} up")
        guest.run("ip link set eth0 up")
        return guest

    def start(self, *, expect: str = "ready", under: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
        command = [*under, sys.executable, str(SERVER), str(self.path), BRIDGE, json.dumps(changes)]
        self.process = self.host.popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        first: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert first["event"] == expect, first
        threading.Thread(target=self._follow, args=(self.process.stdout,), daemon=True).start()
        return first

    def _follow(self, lines: Any) -> None:
        for line in lines:
            self.events.append(json.loads(line))

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for pid in children:  # the server, when the process is a tracer
                os.kill(int(pid), number)
            if not children:
                self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
            self.process = None

    def stats(self) -> dict[str, int]:
        """What the server counted, told when it stops."""
        self.stop()
        return wait_until(lambda: next((e["stats"] for e in self.events if e["event"] == "stopped"), None))

    def leases(self) -> dict[str, str | None]:
        state = State.open(self.path)
        try:
            now = system_clock()
            return {str(lease.ip): lease.hostname for lease in state.leases() if lease.is_bound(now)}
        finally:
            state.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Host(world=False) as host:
        found = Network(host, tmp_path)
        yield found
        found.stop(signal.SIGKILL)


def lease(guest: Namespace, timeout_s: float = PATIENCE_S, **more: Any) -> Any:
    return guest.call(lambda: lease_in_this_namespace("eth0", timeout_s, **more))


def test_our_client_gets_a_lease_and_its_name_is_told(network: Network) -> None:
    network.start()
    found = lease(network.guest("a"), hostname="vm-a")
    assert (str(found.ip), found.prefix, str(found.router)) == ("10.77.0.2", 24, "10.77.0.1")
    assert (found.domain, found.mtu) == ("t.internal", 1500)
    event = wait_until(lambda: next(iter(network.events), None))
    assert event == {"event": "lease", "ip": "10.77.0.2", "hostname": "vm-a", "active": True}
    network.stop()
    assert network.leases() == {"10.77.0.2": "vm-a"}


@needs("busybox")
def test_busybox_udhcpc_gets_renews_and_releases_a_lease(network: Network, tmp_path: Path) -> None:
    network.start()
    guest = network.guest("a")
    script = tmp_path / "script"
    # A release is sent by unicast, so the client needs its address.
    script.write_text(
        "#!/bin/sh\n"
        '[ "$1" = bound ] && ip addr add "$ip/$mask" dev "$interface"\n'
        f'echo "$1 $ip/$mask $router $dns $domain $mtu $lease" >> {tmp_path}/log\n'
    )
    script.chmod(0o755)
    client = guest.popen(
        f"busybox udhcpc -i eth0 -f -R -s {script} -x hostname:box -O mtu",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "bound" in log.read_text())
    assert "bound 10.77.0.2/24 10.77.0.1 10.77.0.1 t.internal 1500 3600" in log.read_text()
    client.send_signal(signal.SIGUSR1)
    wait_until(lambda: "renew 10.77.0.2" in log.read_text())
    client.send_signal(signal.SIGTERM)
    client.wait(PATIENCE_S)
    wait_until(lambda: any(not event.get("active", True) for event in network.events))
    stats = network.stats()
    assert stats["rx_release"] == 1 and stats["tx_ack"] >= 2 and network.leases() == {}


@needs("dhclient")
def test_dhclient_gets_a_lease_and_keeps_its_address_over_a_restart(network: Network, tmp_path: Path) -> None:
    network.start()
    guest = network.guest("a")
    dhclient = f"dhclient -1 -v -sf /bin/true -lf {tmp_path}/leases -pf {tmp_path}/pid eth0"
    assert "bound to 10.77.0.2" in guest.run(dhclient).stderr
    guest.run(f"dhclient -x -sf /bin/true -lf {tmp_path}/leases -pf {tmp_path}/pid eth0", check=False)
    network.stop(signal.SIGKILL)
    network.start()
    again = guest.run(dhclient).stderr
    assert "DHCPACK of 10.77.0.2" in again and "DHCPDISCOVER" not in again, "INIT-REBOOT was acknowledged"


def test_d10_the_broadcast_flag_is_honoured_on_the_wire(network: Network) -> None:
    network.start()
    guest = network.guest("a")

    def ask() -> IPv4Address | None:
        with ClientSocket("eth0") as sock:
            client = DhcpClient(sock.mac, random.Random(1), broadcast=True)
            sock.exchange(
                client, client.discover(), lambda: client.lease is not None, time.monotonic() + PATIENCE_S
            )
            return client.lease.ip if client.lease else None

    assert str(guest.call(ask)) == "10.77.0.2"


def test_renewal_by_unicast_is_answered_and_draws_no_icmp(network: Network) -> None:
    network.start()
    guest = network.guest("a")
    lease(guest)
    guest.run("ip addr add 10.77.0.2/24 dev eth0")

    def renew() -> bytes:
        from arcbox_net.services.dhcp.messages import ACK, BOOTREPLY, Message, build, parse

        with ClientSocket("eth0") as raw:
            mac = raw.mac
        payload = build(b"\x35\x01\x03", op=1, xid=7, chaddr=mac, ciaddr=int(IPv4Address("10.77.0.2")))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.77.0.2", 68))
            sock.connect(("10.77.0.1", 67))  # so that a port-unreachable would be an error of recv
            sock.settimeout(PATIENCE_S)
            sock.send(payload)
            answer = sock.recv(2000)
            message = parse(answer, kinds=frozenset((ACK,)), op=BOOTREPLY)
            assert isinstance(message, Message)
            return message.options[54]

    assert guest.call(renew) == IPv4Address("10.77.0.1").packed


def test_a_second_server_on_the_bridge_is_an_error_with_a_fix(network: Network) -> None:
    network.start()
    second = Network.__new__(Network)
    second.host, second.path, second.events = network.host, network.path.with_name("other.db"), []
    told = second.start(expect="failed")
    assert "port 67 is in use" in told["message"] and "dhcp.enabled" in told["fix"]
    second.stop(signal.SIGKILL)


def test_an_interface_that_does_not_exist_is_an_error_with_its_name(network: Network) -> None:
    network.host.run(f"ip link del {BRIDGE}")
    assert BRIDGE in network.start(expect="failed")["message"]


def test_d6_an_address_that_somebody_squats_is_not_given_to_another(network: Network) -> None:
    network.start(pool=["10.77.0.2", "10.77.0.2"], lease_s=120)
    squatter, late = network.guest("a"), network.guest("b")
    squatter.run("ip addr add 10.77.0.2/24 dev eth0")

    def release() -> None:
        with ClientSocket("eth0") as sock:
            client = DhcpClient(sock.mac, random.Random(1), hostname="squatter")
            sock.exchange(
                client, client.discover(), lambda: client.lease is not None, time.monotonic() + PATIENCE_S
            )
            sock.send(client.release())

    squatter.call(release)
    wait_until(lambda: [e for e in network.events if e.get("active") is False])

    def ask() -> ClientState:
        with ClientSocket("eth0") as sock:
            client = DhcpClient(sock.mac, random.Random(2))
            sock.exchange(client, client.discover(), lambda: client.lease is not None, time.monotonic() + 1.5)
            return client.state

    assert late.call(ask) is ClientState.SELECTING
    stats = network.stats()
    assert stats["drop_conflict"] == 1


@pytest.mark.fault
def test_a_bridge_that_goes_down_and_up_serves_again(network: Network) -> None:
    network.start()
    guest = network.guest("a")
    first = lease(guest)
    for state in ("down", "up"):
        network.host.run(f"ip link set {BRIDGE} {state}")
    assert lease(guest).ip == first.ip


@pytest.mark.fault
def test_a_bridge_made_anew_serves_again_after_rebind(network: Network) -> None:
    network.start()
    first = lease(network.guest("a"))
    network.host.run(f"ip link del {BRIDGE}")
    network.bridge()
    assert network.process is not None
    network.process.send_signal(signal.SIGHUP)
    wait_until(lambda: {"event": "rebound"} in network.events)
    assert lease(network.guest("b")).ip not in (None, first.ip)


@pytest.mark.fault
@needs("strace")
def test_d13_a_disk_that_fails_every_sync_serves_renewals_only(network: Network) -> None:
    """Every fdatasync fails from the first lease on."""
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync")
    network.start(under=(*inject, "-e", "inject=fdatasync,fsync:error=EIO:when=40+"))
    guest = network.guest("a")
    acknowledged: list[int] = []

    def clients() -> None:
        with ClientSocket("eth0") as sock:
            for number in range(60):
                client = DhcpClient(sock.mac, random.Random(number), client_id=b"\0" + bytes((number,)))
                deadline = time.monotonic() + (5 if acknowledged else PATIENCE_S)
                if not sock.exchange(
                    client, client.discover(), lambda c=client: c.lease is not None, deadline
                ):
                    return
                acknowledged.append(number)

    guest.call(clients)
    assert 0 < len(acknowledged) < 60
    network.stop(signal.SIGKILL)
    state = State.open(network.path)
    stored = {lease.client_id for lease in state.leases() if lease.is_bound(system_clock())}
    state.close()
    assert {b"\0" + bytes((number,)) for number in acknowledged} <= stored


@pytest.mark.fault
def test_d11_kill_9_loses_no_lease_that_was_acknowledged(network: Network) -> None:
    """Many clients, a server that is killed again and again, and every ACK it ever gave must be on the disk."""
    guest = network.guest("a")
    acknowledged: dict[IPv4Address, int] = {}
    rng = random.Random(5)
    number = 0
    for _ in range(6):
        network.start(pool=["10.77.0.2", "10.77.0.250"])
        stop_after = rng.randrange(5, 30)

        def clients(first: int = number, wanted: int = stop_after) -> dict[IPv4Address, int]:
            found: dict[IPv4Address, int] = {}
            with ClientSocket("eth0") as sock:
                for n in range(first, first + wanted + 1):
                    client = DhcpClient(sock.mac, rng, client_id=b"\0" + n.to_bytes(2, "big"))
                    if n == first + wanted:
                        sock.send(client.discover())
                        network.stop(signal.SIGKILL)
                        break
                    done = sock.exchange(
                        client,
                        client.discover(),
                        lambda c=client: c.lease is not None,
                        time.monotonic() + PATIENCE_S,
                    )
                    assert done and client.lease is not None
                    found[client.lease.ip] = n
            return found

        found = guest.call(clients)
        assert not set(found) & set(acknowledged), "an address was given twice"
        acknowledged |= found
        number += stop_after
    state = State.open(network.path)
    stored = {lease.ip: lease.client_id for lease in state.leases() if lease.is_bound(system_clock())}
    state.close()
    for address, n in acknowledged.items():
        assert stored[address] == b"\0" + n.to_bytes(2, "big")


@pytest.mark.fault
def test_d13_a_full_disk_serves_renewals_and_space_brings_new_clients_back(
    network: Network, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        network.path = small / "net.db"
        network.start()
        old, new = network.guest("a"), network.guest("b")
        first = lease(old)
        with (small / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 512)

        def renew(hostname: str) -> tuple[ClientState, int]:
            with ClientSocket("eth0") as sock:
                client = DhcpClient(sock.mac, random.Random(1), hostname=hostname)
                client.lease = first
                sock.exchange(
                    client,
                    client.renew(),
                    lambda: client.state is ClientState.BOUND,
                    time.monotonic() + PATIENCE_S,
                )
                return client.state, client.lease.lease_s if client.lease else 0

        refused = 0
        for number in range(100):  # the WAL has some room left at first; a new name must be written
            state, left = old.call(lambda name=f"h{number}": renew(name))
            assert state is ClientState.BOUND and left <= 3600
            if left < 3600:
                refused += 1
                break
        assert refused, "the disk was never full"
        from arcbox_net.errors import ServiceError

        with pytest.raises(ServiceError, match="no DHCP server answered"):
            lease(new, 1.5)
        os.unlink(small / "filler")
        assert str(lease(new).ip) != str(first.ip)
        assert network.stats()["commit_failures"] > 0
    finally:
        network.stop(signal.SIGKILL)
        subprocess.run(["umount", "-l", str(small)], check=True)
