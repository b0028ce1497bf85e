"""K1: the network process is killed at random moments of DHCP, `up` and `down`; what was promised holds.

ABX_FAULT_ROUNDS sets the number of kills (200 in CI, else 40), ABX_FAULT_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arcbox_net import NetworkManager
from tests.support.dhcp_client import ManyClients
from tests.support.machine import CLI, Machine, is_running, kill9
from tests.support.netns import COMMAND_TIMEOUT_S, PATIENCE_S, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("ABX_FAULT_ROUNDS", "200" if os.environ.get("CI") else "40"))
SEED = int(os.environ.get("ABX_FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
CLIENTS = 100
FIRST_TRY_S = 0.2  # twice as long after each that had no answer
NETWORK = """
[networks.dev]
subnet = "192.168.64.0/24"
anti_spoof = false
forwards = ["0.0.0.0:8080:vm1:80", "127.0.0.1:8081:vm1:80"]
[networks.dev.dhcp]
addresses_per_port_max = 250
"""


class History:
    """Which client was acknowledged which address: what a restart must not forget or contradict."""

    def __init__(self) -> None:
        self.acknowledged: dict[IPv4Address, bytes] = {}
        self.times = 0

    def record(self, mac: bytes, address: IPv4Address) -> None:
        self.times += 1
        holder = self.acknowledged.setdefault(address, mac)
        assert holder == mac, f"{address} was acknowledged to {holder.hex(':')} and to {mac.hex(':')}"

    def check(self, manager: NetworkManager) -> None:
        leases = [lease for lease in manager.leases() if lease.state == "bound"]
        addresses = [lease.ip for lease in leases]
        assert len(addresses) == len(set(addresses))
        held = {lease.ip: lease.mac for lease in leases}
        lost = {
            str(address): mac.hex(":")
            for address, mac in self.acknowledged.items()
            if held.get(str(address)) != mac.hex(":")
        }
        assert not lost, f"acknowledged leases that are gone or another's: {lost}"


class Crowd:
    """Clients that ask for addresses one after the other until told to stop."""

    def __init__(self, machine: Machine, history: History, rng: random.Random) -> None:
        self.history = history
        self._rng = rng
        self._guest = machine.namespace("crowd")
        self.failure: BaseException | None = None

    @property
    def path(self) -> str:
        return self._guest.path

    def ask_until(self, ending: threading.Event) -> None:
        clients = ManyClients(self._guest, self._rng)
        timeout = FIRST_TRY_S
        try:
            while not ending.is_set():
                mac = b"\x02\x00\x00\x00\x01" + bytes([self._rng.randrange(CLIENTS)])
                address = clients.acquire(mac, timeout=timeout)
                if address is not None:
                    self.history.record(mac, address)
                timeout = min(2 * timeout, 5.0) if address is None else FIRST_TRY_S
        except BaseException as error:
            self.failure = error
        finally:
            clients.close()


def kill_during_dhcp(machine: Machine, crowd: Crowd, rng: random.Random) -> None:
    ending = threading.Event()
    asking = threading.Thread(target=crowd.ask_until, args=(ending,))
    known = crowd.history.times
    asking.start()
    try:
        if rng.random() < 0.5:
            wait_until(lambda: crowd.history.times > known or crowd.failure, message="an acknowledgement")
        time.sleep(rng.uniform(0.0, 0.15))
        kill9(machine.network_pids()[0])
    finally:
        ending.set()
        asking.join()
    if crowd.failure is not None:
        raise crowd.failure


def kill_during_up(machine: Machine, crowd: Crowd, rng: random.Random) -> None:
    if rng.random() < 0.5:
        machine.cli("down dev")
    else:
        kill9(machine.network_pids()[0])
    _kill_during(machine, ["up", "dev", "-f", str(machine.directory / "net.toml")], rng.uniform(0.0, 0.4))


def kill_during_down(machine: Machine, crowd: Crowd, rng: random.Random) -> None:
    _kill_during(machine, ["down", "dev"], rng.uniform(0.0, 0.15))


def _kill_during(machine: Machine, words: list[str], delay: float) -> None:
    """Run a verb, and kill the network process *delay* seconds after both run."""
    verb = machine.popen([str(CLI), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not (pids := machine.network_pids()) and verb.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    for pid in pids:
        kill9(pid)
    verb.wait(timeout=COMMAND_TIMEOUT_S)
    for pid in machine.network_pids():  # started while we looked
        kill9(pid)


KILLS: list[Callable[[Machine, Crowd, random.Random], None]] = [
    *[kill_during_dhcp] * 5,
    *[kill_during_up] * 3,
    *[kill_during_down] * 2,
]


def test_k1_random_kills_lose_no_lease_and_leave_no_orphan(machine: Machine, tmp_path: Path) -> None:
    print(f"ABX_FAULT_SEED={SEED} ABX_FAULT_ROUNDS={ROUNDS}")
    rng = random.Random(SEED)
    (tmp_path / "net.toml").write_text(NETWORK)
    before = machine.snapshot()
    history = History()
    crowd = Crowd(machine, history, rng)
    for number in range(ROUNDS):
        _restart(machine, crowd, history)
        kill = rng.choice(KILLS)
        try:
            kill(machine, crowd, rng)
        except AssertionError as error:
            raise AssertionError(
                f"round {number}, {kill.__name__}, ABX_FAULT_SEED={SEED}: {error}"
            ) from error
    _restart(machine, crowd, history)
    machine.cli("down dev")
    assert machine.snapshot() == before
    assert machine.network_pids() == []
    assert len(history.acknowledged) > min(ROUNDS, CLIENTS) // 4  # the test had something to lose


def _restart(machine: Machine, crowd: Crowd, history: History) -> None:
    """`up` after whatever happened: it runs, knows every acknowledged lease, and the kernel holds only it."""
    machine.cli("up", "dev", "-f", str(machine.directory / "net.toml"))
    manager = NetworkManager.connect("dev")
    assert manager.status().state == "running"
    history.check(manager)
    ports = manager.ports()
    if not ports:
        manager.attach_netns(crowd.path, name="vm1", configure=False)
        ports = manager.ports()
    links = sorted(machine.ours()["links"])
    assert links == sorted(["abx-dev", *[port.ifname for port in ports]])
    assert set(machine.ours()["tables"]) == {"abx_dev", "abxguard_dev"}
    assert [info.rule for info in manager.forwards()] == [
        "0.0.0.0:8080:vm1:80/tcp",
        "127.0.0.1:8081:vm1:80/tcp",
    ]


def test_k1_killed_then_down_leaves_nothing(machine: Machine) -> None:
    rng = random.Random(SEED)
    before = machine.snapshot()
    for _ in range(max(3, ROUNDS // 20)):
        _kill_during(machine, ["up", "dev"], rng.uniform(0.0, 0.4))
        machine.cli("down dev", check=False)
        wait_until(lambda: machine.ours() == {"links": [], "tables": []}, message="nothing of ours is left")
        assert machine.snapshot() == before
        assert not [pid for pid in machine.network_pids() if is_running(pid)]
