"""K4, K5: no space or a broken disk under the state, and no file descriptors left."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.errors import ArcboxNetError, StateError
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, udhcpc, wait_for_rest
from tests.support.netns import wait_until
from tests.support.peers import http_server, refused

pytestmark = [pytest.mark.fault, pytest.mark.slow]
GATEWAY = "192.168.64.1"


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Path]:
    """The state folder on a tmpfs of 256 KiB."""
    machine.state.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(machine.state)], check=True
    )
    try:
        yield machine.state
    finally:
        for pid in machine.network_pids():
            with contextlib.suppress(ProcessLookupError):
                import os
                import signal

                os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", str(machine.state)], check=True)


def fill(directory: Path) -> Path:
    """Take every free block of *directory*."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 512)
    return ballast


def api_error_when_full(network: NetworkManager, count: int = 400) -> StateError:
    """The error of the first durable change that does not fit; SQLite's log may have room for some."""
    for number in range(count):
        try:
            network.register_dns(f"n{number}.dev.internal", GATEWAY)
        except StateError as error:
            return error
    raise AssertionError("the disk is full, and every change was accepted")


def test_k4_full_disk_is_an_error_that_heals_without_restart(machine: Machine, small_disk: Path) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        known = machine.bare_guest(network, "known")
        late = machine.bare_guest(network, "late")
        lease = udhcpc(known)
        ballast = fill(small_disk)
        error = api_error_when_full(network)
        assert error.status == 507
        assert str(small_disk) in str(error.path)

        # D13: a known client keeps what it has, the guests' packets do not care.
        again = udhcpc(known, "-t", "5", check=False)
        assert not again or again["ip"] == lease["ip"]
        wait_for_echo(known, machine.world_ip)
        assert network.state == "running"

        ballast.unlink()
        network.register_dns("works.dev.internal", GATEWAY)
        assert udhcpc(late)["ip"] != lease["ip"]
        assert udhcpc(known)["ip"] == lease["ip"]


def test_k4_start_on_a_full_disk_fails_with_the_path_and_leaves_nothing(
    machine: Machine, small_disk: Path
) -> None:
    fill(small_disk)
    before = machine.snapshot()
    with pytest.raises(StateError, match=str(small_disk)):
        machine.call(NetworkManager(NetConfig(), name="dev").start)
    assert machine.snapshot() == before
    assert machine.network_pids() == []


def is_lost(network: NetworkManager) -> bool:
    """Whether a durable change fails: strace may have all threads of the network or none yet."""
    try:
        network.register_dns("lost.dev.internal", GATEWAY)
    except StateError:
        return True
    network.deregister_dns("lost.dev.internal")
    return False


def test_k4_disk_errors_stop_promises_and_not_the_network(machine: Machine, tmp_path: Path) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        guest = machine.bare_guest(network, "vm1")
        tracer = subprocess.Popen(
            [
                *["strace", "-f", "-q", "-e", "trace=fdatasync,fsync", "-o", str(tmp_path / "trace")],
                *["-e", "inject=fdatasync,fsync:error=EIO", "-p", str(network.pid)],
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: is_lost(network), message="a disk error")
            assert udhcpc(guest, "-t", "2", check=False) == {}  # D11: no ACK without a durable lease
            assert network.state == "running"
        finally:
            tracer.terminate()
            tracer.wait()
        network.register_dns("kept.dev.internal", GATEWAY)
        assert udhcpc(guest)["ip"] == guest.ip


def is_answering(network: NetworkManager) -> bool:
    """False while descriptors are still being given back."""
    try:
        return network.status().state == "running"
    except ArcboxNetError:
        return False


def test_k5_no_descriptors_left_is_no_spin_and_heals(machine: Machine) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        guest = machine.guest(network, "web")
        network.expose("8080:web:80")
        subprocess.run(["prlimit", f"--pid={network.pid}", "--nofile=64:64"], check=True)
        path = str(machine.runtime / "dev" / "api.sock")
        idle: list[socket.socket] = []
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.setblocking(False)
                with contextlib.suppress(OSError):
                    connection.connect(path)
                idle.append(connection)
            for _ in range(20):
                with contextlib.suppress(AssertionError):
                    refused(machine, "127.0.0.1", 8080, timeout=0.1)
            wait_for_rest(network.pid)
        with http_server(guest):
            wait_until(lambda: is_answering(network))
            # A flow that comes while descriptors are still being given back is reset, as it shall be.
            asked = "curl -sS --max-time 10 http://127.0.0.1:8080/"
            wait_until(lambda: machine.run(asked, check=False).returncode == 0)
