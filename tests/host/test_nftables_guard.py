"""K10: the ruleset is flushed or changed by others. Nothing new passes meanwhile, and it is noticed at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network

import pytest

from arcbox_net.host.linux.firewall_monitor import FirewallMonitor
from arcbox_net.host.linux.guard import Guard, guard_name
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import Dnat
from tests.host.firewall_lab import (
    ANSWER_S,
    Guest,
    Lab,
    apply_anew,
    ask,
    client,
    ping,
    server,
    silent,
)
from tests.support.netns import Host, wait_until

pytestmark = pytest.mark.e2e
NOTICED_S = 30.0


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture
def network(host: Host) -> Lab:
    return Lab(host)


@pytest.fixture
def alice(network: Lab) -> Guest:
    return network.guest()


def test_while_the_ruleset_is_flushed_nothing_new_passes(host: Host, network: Lab, alice: Guest) -> None:
    other = Lab(host, "other", "192.168.65.0/24").guest()
    host.world.run(f"ip route add {network.subnet} via {host.host_ip}")
    with server(host.world, 80), server(host, 22), server(alice.ns, 80), server(alice.ns, 80, "udp"):
        host.run("nft flush ruleset")
        assert f"table inet {guard_name('lab')}" in host.run("nft list tables").stdout
        assert "abx_lab" not in host.run("nft list tables").stdout
        assert silent(alice.ns, host.world_ip, 80)
        assert silent(alice.ns, network.gateway, 22)
        assert silent(alice.ns, host.host_ip, 22)
        assert silent(alice.ns, other.ip, 80)
        assert silent(other.ns, alice.ip, 80)
        assert silent(host.world, alice.ip, 80)
        assert silent(host.world, alice.ip, 80, "udp")
        assert not ping(host.world, alice.ip, timeout=0.4)
        host.call(lambda: apply_anew(network.firewall))
        assert ask(alice.ns, host.world_ip, 80)
        assert silent(host.world, alice.ip, 80)


def test_connections_survive_a_flush_with_their_nat(host: Host, network: Lab, alice: Guest) -> None:
    network.forward(Dnat("tcp", None, 8080, alice.ip, 80))
    with echo(host.world, 81), echo(alice.ns, 80):
        outbound, inbound = client(alice.ns), client(host.world)
        outbound.connect((host.world_ip, 81))
        inbound.connect((host.host_ip, 8080))
        for sock in (outbound, inbound):
            sock.settimeout(ANSWER_S)
            _exchange(sock)
        host.run("nft flush ruleset")
        for sock in (outbound, inbound):
            sock.sendall(b"sent during the gap")
        host.call(lambda: apply_anew(network.firewall))
        for sock in (outbound, inbound):
            assert sock.recv(100) == b"sent during the gap"
            _exchange(sock)
            sock.close()


def test_no_packet_slips_through_while_tables_come_and_go(host: Host, network: Lab, alice: Guest) -> None:
    host.world.run(f"ip route add {network.subnet} via {host.host_ip}")
    stop = threading.Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        port = 1024
        while not stop.is_set():
            with client(host.world, "udp") as sock:
                sock.sendto(b"knock", (str(alice.ip), 80))
                sent += 1
            port += 1

    listener = alice.ns.call(lambda: _udp_listener(80))
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(50):
            host.run("nft flush ruleset")
            host.call(lambda: apply_anew(network.firewall))
    finally:
        stop.set()
        thread.join()
    with client(host, "udp") as sock:
        sock.sendto(b"last", (str(alice.ip), 80))
    listener.settimeout(ANSWER_S)
    assert listener.recv(100) == b"last"
    assert sent > 100
    listener.close()


def test_others_cannot_delete_the_guard(host: Host, network: Lab) -> None:
    done = host.run(f"nft delete table inet {guard_name('lab')}", check=False)
    assert done.returncode != 0 and "not permitted" in done.stderr


def test_guard_goes_with_the_process_and_the_tables_stay(host: Host, network: Lab, alice: Guest) -> None:
    script = (
        "import sys, signal\n"
        "from ipaddress import IPv4Address, IPv4Network\n"
        "from arcbox_net.host.linux.nftables import Firewall\n"
        "from arcbox_net.host.plan import FirewallPlan\n"
        "firewall = Firewall('killed')\n"
        "firewall.apply(FirewallPlan('killed', 'abx-killed', IPv4Network('192.168.99.0/24'),"
        " IPv4Address('192.168.99.1'), masquerade=True))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    process = host.popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert guard_name("killed") in host.run("nft list tables").stdout
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: guard_name("killed") not in host.run("nft list tables").stdout)
    assert "table inet abx_killed" in host.run("nft list tables").stdout
    successor = Firewall("killed")
    assert "killed" in host.call(Firewall.owned_networks)
    host.call(successor.remove)
    assert "killed" not in host.run("nft list tables").stdout


def test_guard_of_one_network_does_not_stop_another(host: Host, network: Lab, alice: Guest) -> None:
    other = Lab(host, "other", "192.168.65.0/24")
    guest = other.guest()
    other.forward(Dnat("tcp", None, 8080, guest.ip, 80))
    with server(host.world, 80), server(guest.ns, 80):
        assert ask(guest.ns, host.world_ip, 80)
        assert ask(alice.ns, host.host_ip, 8080)  # through both networks' guards


def test_guard_opens_once_and_closes_twice(host: Host, network: Lab) -> None:
    guard = Guard("twice")
    plan = network.plan.__class__("twice", "abx-twice", IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"))
    assert host.call(lambda: guard.open(plan)) and host.call(lambda: guard.open(plan))
    assert guard.active
    guard.close()
    guard.close()
    assert not guard.active
    assert "twice" not in host.run("nft list tables").stdout


# -- the monitor


class Watched:
    """A monitor in a loop of its own, in the host's namespace; `seen` counts its calls."""

    def __init__(
        self, host: Host, firewall: Firewall, *, audit_s: float = 3600, repair: bool = False
    ) -> None:
        self.seen = 0
        self.when = 0.0
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._monitor = FirewallMonitor(firewall, self._on_change, audit_s=audit_s)
        self._repair: Callable[[], None] | None = partial(apply_anew, firewall) if repair else None
        self._thread = threading.Thread(target=lambda: host.call(lambda: asyncio.run(self._run())))
        self._thread.start()
        assert self._ready.wait(NOTICED_S)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        await self._monitor.start()
        self._ready.set()
        await self._end.wait()
        await self._monitor.stop()

    def _on_change(self) -> None:
        if self._repair is not None:
            self._repair()
        with self._changed:
            self.seen += 1
            self.when = time.monotonic()
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen >= count, NOTICED_S), (
                f"{self.seen} of {count} noticed"
            )

    def drop_messages(self) -> None:
        """What a full socket buffer does: the kernel's messages are lost."""
        assert self._monitor._socket is not None
        import socket

        self._monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    def close(self) -> None:
        assert self._loop is not None and self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def watched(host: Host, network: Lab) -> Iterator[Watched]:
    watched = Watched(host, network.firewall)
    yield watched
    watched.close()


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet abx_lab",
        "delete table bridge abx_lab",
        "flush chain inet abx_lab from_guests",
        "insert rule inet abx_lab forward accept",
        "flush set bridge abx_lab addresses",
        "add element inet abx_lab forwards_any { tcp . 22 : 192.168.64.2 . 22 }",
        "add chain inet abx_lab extra",
    ],
)
def test_foreign_change_of_our_tables_is_noticed(
    host: Host, network: Lab, alice: Guest, watched: Watched, command: str
) -> None:
    started = time.monotonic()
    host.run(["nft", command])
    watched.wait(1)
    print(f"{command}: noticed {1000 * (watched.when - started):.0f} ms after nft was started")


def test_our_own_changes_and_those_of_other_tables_are_not(
    host: Host, network: Lab, watched: Watched
) -> None:
    guest = network.guest()
    network.forward(*[Dnat("tcp", None, port, guest.ip, 80) for port in range(1000, 2000)])
    network.unforward(*[Dnat("tcp", None, port, guest.ip, 80) for port in range(1000, 2000)])
    host.call(lambda: apply_anew(network.firewall))
    host.run("nft add table inet someone")
    host.run("nft add chain inet someone c { type filter hook forward priority 5; }")
    host.run("nft delete table inet someone")
    host.run(
        "nft add chain inet abx_lab extra"
    )  # this one is: all before it has been looked at when it is noticed
    watched.wait(1)
    assert watched.seen == 1


def test_a_flush_while_a_change_of_ours_is_looked_at_is_noticed(
    host: Host, network: Lab, alice: Guest, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_own_change = network.firewall.is_own_change
    looked: list[int] = []

    def look(number: int) -> bool:
        if not looked:
            host.run("nft flush ruleset")
            wait_until(lambda: watched._monitor._suspects)
        looked.append(number)
        return is_own_change(number)

    monkeypatch.setattr(network.firewall, "is_own_change", look)
    network.forward(Dnat("tcp", None, 8080, alice.ip, 80))
    watched.wait(1)


def test_flush_is_repaired_at_once_and_the_repair_is_not_taken_for_a_change(host: Host, network: Lab) -> None:
    guest = network.guest()
    watched = Watched(host, network.firewall, repair=True)
    try:
        for count in range(1, 6):
            host.run("nft flush ruleset")
            watched.wait(count)
            assert host.call(network.firewall.intact)
        with server(host.world, 80):
            assert ask(guest.ns, host.world_ip, 80)
        assert watched.seen == 5
    finally:
        watched.close()


def test_audit_finds_what_the_messages_did_not_tell(host: Host, network: Lab) -> None:
    watched = Watched(host, network.firewall, audit_s=0.1, repair=True)
    try:
        with contextlib.suppress(AttributeError):
            watched._monitor._read = lambda packet: None  # type: ignore[method-assign]
        host.run("nft flush ruleset")
        watched.wait(1)
        assert host.call(network.firewall.intact)
    finally:
        watched.close()


# -- helpers


@contextlib.contextmanager
def echo(ns, port: int) -> Iterator[None]:  # type: ignore[no-untyped-def]
    import socket

    def listening() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("0.0.0.0", port))
        sock.listen()
        return sock

    listener = ns.call(listening)

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _peer = listener.accept()
            with connection:
                while received := connection.recv(100):
                    connection.sendall(received)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(NOTICED_S)
    listener.close()


def _exchange(sock) -> None:  # type: ignore[no-untyped-def]
    word = os.urandom(8)
    sock.sendall(word)
    assert sock.recv(100) == word


def _udp_listener(port: int):  # type: ignore[no-untyped-def]
    import socket

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    return sock
