"""An ordinary user's network at its limits: without descriptors, and with a guest that wants all flows."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.support.machine import cpu_share
from tests.support.netns import wait_until
from tests.support.peers import connect, refused
from tests.support.rootless import Rootless, RunningGuest
from tests.support.user import CLI

ROOM = 64  # descriptors that are left when the limit is set


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def limit_of_descriptors(pid: int) -> int:
    """The soft limit."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    raise AssertionError(f"no limit of open files of {pid}")


def still_works(connection: socket.socket) -> bool:
    connection.settimeout(10)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    return connection.recv(12) == b"HTTP/1.0 200"


def connect_many(site: Rootless, guest: RunningGuest, count: int) -> list[socket.socket]:
    """Those of *count* connections that are not refused."""
    made: list[socket.socket] = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            made.append(connect(guest, site.world_ip, 80, timeout=2))
    return made


def test_k5_without_descriptors_new_flows_are_refused_and_old_ones_live(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    pid = site.network_pid()
    old = connect(guest, site.world_ip, 80)
    soft = limit_of_descriptors(pid)
    site.user.run(f"prlimit --pid {pid} --nofile={open_descriptors(pid) + ROOM}:")
    made = connect_many(site, guest, 2 * ROOM)
    assert len(made) < 2 * ROOM
    assert refused(guest, site.world_ip, 80, timeout=2) is not None
    assert cpu_share(pid) < 0.3  # it waits, and does not spin
    assert still_works(old)
    for connection in made:
        connection.close()
    site.user.run(f"prlimit --pid {pid} --nofile={soft}:")
    wait_until(lambda: refused(guest, site.world_ip, 80, timeout=2) is None, timeout=20)
    old.close()


def test_g2_a_thousand_flows_live_side_by_side_and_go_again(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    pid = site.network_pid()
    wait_until(lambda: refused(guest, site.world_ip, 80) is None)
    before = open_descriptors(pid)
    made = connect_many(site, guest, 1000)
    assert len(made) == 1000
    assert still_works(made[0]) and still_works(made[-1])
    for connection in made:
        connection.close()
    wait_until(lambda: open_descriptors(pid) <= before + 16, timeout=30, message="descriptors are given back")


def test_g5_one_guest_at_its_limit_leaves_another_its_share(site: Rootless) -> None:
    site.user.run(["prlimit", "--nofile=1024:1024", str(CLI), "up", "dev"])
    greedy, modest = site.guest("greedy"), site.guest("modest")
    made = connect_many(site, greedy, 1024)
    assert 100 < len(made) < 1024 / 3
    theirs = connect_many(site, modest, 100)
    assert len(theirs) == 100
    for connection in (*made, *theirs):
        connection.close()
