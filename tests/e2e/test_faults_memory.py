"""K7: a network process that gets no more memory refuses what is new, and goes on."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.errors import ArcboxNetError
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, is_running, udhcpc, wait_for_rest
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.peers import http_server

pytestmark = [pytest.mark.fault]
FLOWS = 1000
RECORDS = 3000


@contextlib.contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """Let *pid* have no data beyond what it has: its next request of the kernel for some fails."""
    size = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmData" in line)
    limit = int(size.split()[1]) * 1024
    subprocess.run(["prlimit", f"--pid={pid}", f"--data={limit}:unlimited"], check=True)
    try:
        yield
    finally:
        subprocess.run(["prlimit", f"--pid={pid}", "--data=unlimited"], check=True)


def held_flows(machine: Machine) -> list[socket.socket]:
    """Connections to the forward, as many as it takes until one is refused."""

    def connect() -> list[socket.socket]:
        flows = []
        with contextlib.suppress(ConnectionResetError):
            for _ in range(FLOWS):
                flows.append(socket.create_connection(("127.0.0.1", 8080), timeout=PATIENCE_S))
                flows[-1].sendall(b"GET / HTTP/1.0")
        return flows

    return machine.call(connect)


def first_refusal(network: NetworkManager) -> Exception | None:
    """What the API says when it has no room for another record."""
    for number in range(RECORDS):
        try:
            network.register_dns(f"n{number}.{'x' * 60}.dev.internal", "192.168.64.9")
        except (ArcboxNetError, OSError) as error:
            return error
    return None


def test_k7_without_memory_the_network_refuses_what_is_new_and_goes_on(machine: Machine) -> None:
    """An end for want of memory is a kill like any other: K1."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(machine.network(NetConfig(), name="dev"))
        guest, late = machine.guest(network, "web"), machine.bare_guest(network, "late")
        network.expose("8080:web:80")
        stack.enter_context(http_server(guest))
        lease = udhcpc(late)
        with no_more_memory(network.pid):
            flows = held_flows(machine)
            assert first_refusal(network) is not None
            wait_for_echo(guest, machine.world_ip)
            wait_for_rest(network.pid)
            assert is_running(network.pid)
        for flow in flows:
            flow.close()
        asked = "curl -sS --max-time 10 http://127.0.0.1:8080/"
        wait_until(lambda: machine.run(asked, check=False).returncode == 0)
        assert udhcpc(late)["ip"] == lease["ip"]
        network.register_dns("again.dev.internal", lease["ip"])
