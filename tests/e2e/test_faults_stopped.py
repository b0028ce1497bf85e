"""K3: a network's process is stopped for a while, and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from arcbox_net import NetConfig
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine
from tests.support.netns import PATIENCE_S
from tests.support.peers import http_server, listening, refused

pytestmark = [pytest.mark.fault]
FLOWS = 20


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_k3_guests_go_on_while_the_network_process_is_stopped(machine: Machine) -> None:
    """What the kernel does goes on; what the process does is late, and no flow of its is lost."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(machine.network(NetConfig(), name="dev"))
        guest, other = machine.guest(network, "vm1"), machine.guest(network, "vm2")
        network.expose("0.0.0.0:8080:vm1:80")
        network.expose("127.0.0.1:9090:vm1:90")
        stack.enter_context(http_server(guest))
        listener = stack.enter_context(listening(guest, 90))
        flows = []
        for _ in range(FLOWS):
            client = machine.call(lambda: socket.create_connection(("127.0.0.1", 9090), timeout=PATIENCE_S))
            served, _ = listener.accept()
            flows.append((stack.enter_context(client), stack.enter_context(served)))
        leases = network.leases()
        with stopped(network.pid):
            wait_for_echo(guest, machine.world_ip)
            wait_for_echo(other, guest.ip)
            assert refused(machine.world, machine.host_ip, 8080) is None
            for client, _ in flows:
                client.sendall(b"x")
        for client, served in flows:
            served.settimeout(PATIENCE_S)
            assert served.recv(1) == b"x"
            served.sendall(b"y")
            assert client.recv(1) == b"y"
        assert network.leases() == leases
        assert {port.name: port.state for port in network.ports()} == {"vm1": "up", "vm2": "up"}
