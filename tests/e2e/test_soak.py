"""G7: mixed work with a fault now and then, for ABX_SOAK_S seconds; nothing grows and nobody complains.

Without ABX_SOAK_S there are a dozen faults. `make soak` takes half an hour.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arcbox_net import DnsConfig, NetConfig, NetworkManager
from arcbox_net.paths import log_file
from tests.support.dig import dig
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.machine import Machine, NetnsGuest, is_running, resident_bytes, udhcpc
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.peers import http_server

SOAK_S = int(os.environ.get("ABX_SOAK_S", "0"))
FAULT_EVERY_S = 30.0
NOISE_BYTES = 1 << 20
GROWTH_BYTES_PER_MIN = 1024
WORK = 3  # rounds of it between two faults of a short run
FAULTS = (
    6  # two of them damage the kernel's state: of five in a minute the network would believe that they go on
)
GATEWAY = "192.168.64.1"
REPAIRED_S = 90.0  # a network repairs so often a minute
pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1200 + 3 * SOAK_S)]


class Soak:
    """A network with two guests at work. `seed` repeats what it asks for."""

    def __init__(self, machine: Machine, network: NetworkManager, seed: int) -> None:
        self.machine = machine
        self.network = network
        self.web: NetnsGuest = machine.guest(network, "web")
        self.client = machine.bare_guest(network, "client")
        self.lease = udhcpc(self.client)
        self._rng = random.Random(seed)
        network.expose("0.0.0.0:8080:web:80")
        network.expose("127.0.0.1:8081:web:80")

    def work(self) -> None:
        """A little of everything that guests and programs do."""
        assert udhcpc(self.client)["ip"] == self.lease["ip"]
        name = f"n{self._rng.randrange(1 << 30)}"
        dig(self.client, GATEWAY, f"{name}.test")
        self.client.run(f"curl -sS --max-time 30 -o /dev/null http://{self.machine.world_ip}/bytes/1000000")
        self.machine.run("curl -sS --max-time 30 -o /dev/null http://127.0.0.1:8081/bytes/1000000")
        self.machine.world.run(f"curl -sS --max-time 30 http://{self.machine.host_ip}:8080/")
        self.network.register_dns(name, GATEWAY)
        self.network.expose(f"127.0.0.1:9000-9050:web:{9000}-{9050}")
        with self.network.attach_tap("tap"):
            assert len(self.network.ports()) == 3
        self.network.unexpose(f"127.0.0.1:9000-9050:web:{9000}-{9050}")
        self.network.deregister_dns(name)
        self.network.stats()

    def online(self) -> bool:
        """Whether both guests reach the outside."""
        return all(is_echoed(guest, self.machine.world_ip) for guest in (self.web, self.client))

    def faults(self) -> Iterator[Callable[[], object]]:
        """One after the other, for ever."""
        bridge = self.network.status().bridge
        run = self.machine.run
        damages = [
            lambda: run("nft flush ruleset"),
            lambda: run(f"ip link del {bridge}"),
            lambda: run(f"ip link set {bridge} down"),
            lambda: run(f"ip addr flush dev {bridge}"),
            lambda: run(f"ip link set {self.network.ports()[0].ifname} nomaster"),
        ]
        for damage in itertools.cycle(damages):
            yield from (damage, self.stop_for_a_moment, self.come_and_go)

    def stop_for_a_moment(self) -> None:
        pid = self.network.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_for_echo(self.web, self.machine.world_ip)
        os.kill(pid, signal.SIGCONT)

    def come_and_go(self) -> None:
        """Connections to the API and to a forward that end at once, or with RST."""
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as idle:
                idle.connect(str(self.machine.runtime / "dev" / "api.sock"))
            with contextlib.suppress(ConnectionError):
                self.machine.call(lambda: socket.create_connection(("127.0.0.1", 8081), PATIENCE_S)).close()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_g7_work_and_faults_leave_no_memory_no_descriptor_and_no_complaint_behind(
    machine: Machine, world: Machine, tmp_path: Path
) -> None:
    config = NetConfig(dns=DnsConfig(upstreams=(machine.world_ip,)))
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(machine.network(config, name="dev"))
        soak = Soak(machine, network, seed=7)
        stack.enter_context(http_server(soak.web))
        pid = network.pid
        assert pid is not None

        def round_of(fault: Callable[[], object]) -> None:
            until = time.monotonic() + FAULT_EVERY_S
            for number in itertools.count(1):
                soak.work()
                if (time.monotonic() >= until) if SOAK_S else number >= WORK:
                    break
            fault()
            wait_until(soak.online, timeout=REPAIRED_S, message="guests are online again")

        faults = soak.faults()
        for _ in range(FAULTS):  # imports, pools and caches are what they will be
            round_of(next(faults))
        open_then = descriptors(pid)

        def outgrown() -> float:
            """Work and faults; the bytes that the process has grown by beyond what it may."""
            start, resident_then = time.monotonic(), resident_bytes(pid)
            for number in itertools.count(1):
                round_of(next(faults))
                if number >= FAULTS and time.monotonic() - start >= SOAK_S:
                    break
            may = NOISE_BYTES + GROWTH_BYTES_PER_MIN * (time.monotonic() - start) / 60
            return resident_bytes(pid) - resident_then - may

        over = outgrown()
        wait_until(lambda: descriptors(pid) <= open_then, message=f"{open_then} descriptors as before")
        assert over <= 0 or outgrown() <= 0, f"{over} bytes more than it may, and again"
        assert is_running(pid)
        said = log_file("dev").read_text()
        assert "Traceback" not in said and " ERROR " not in said, said[-4000:]
