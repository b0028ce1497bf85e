"""An ordinary user's network at its limits: without descriptors, and with a guest that wants all flows."""

from __future__ import annotations

import contextlib
import resource
import socket
from ipaddress import ip_address
from pathlib import Path

from tests.support.machine import resident_bytes, wait_for_rest
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.peers import connect, is_closed, refused
from tests.support.rootless import WORLD6, Rootless, RunningGuest
from tests.support.user import CLI

ROOM = 64  # descriptors that are left when the limit is set
FLOWS_MAX = 16_000
ATTEMPTS = 32  # the source port chooses the thread, and one of them may be full before the others


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def limit_of_descriptors(pid: int) -> int:
    """The soft limit."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    raise AssertionError(f"no limit of open files of {pid}")


def still_works(connection: socket.socket) -> bool:
    connection.settimeout(PATIENCE_S)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    return connection.recv(12) == b"HTTP/1.0 200"


def connect_many(site: Rootless, guest: RunningGuest, count: int) -> list[socket.socket]:
    """Those of *count* connections that are not refused."""
    made: list[socket.socket] = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            made.append(connect(guest, site.world_ip, 80))
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
    assert is_closed(guest, site.world_ip, 80)
    wait_for_rest(pid, 0.3)  # it waits, and does not spin
    assert still_works(old)
    for connection in made:
        connection.close()
    site.user.run(f"prlimit --pid {pid} --nofile={soft}:")
    wait_until(lambda: refused(guest, site.world_ip, 80) is None)
    old.close()


def test_g2_sixteen_thousand_flows_or_what_descriptors_allow_live_side_by_side(site: Rootless) -> None:
    """From four guests, as each may have a quarter. The relay needs two descriptors and a kilobyte for each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    flows = min(FLOWS_MAX, hard * 85 // 100 // 2)  # the relay stops at 90 %
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # both ends are in this process
        site.up()
        guests = [site.guest(f"web{index}") for index in range(4)]
        pid = site.network_pid()
        listener = stack.enter_context(site.world.call(lambda: socket.create_server(("", 9001), backlog=128)))
        listener.settimeout(PATIENCE_S)
        pairs = [connect_pair(stack, site, guest, listener) for guest in guests]
        descriptors, rss = open_descriptors(pid), resident_bytes(pid)
        pairs += [connect_pair(stack, site, guest, listener) for guest in guests for _ in range(flows // 4)]
        grown = resident_bytes(pid) - rss
        assert open_descriptors(pid) >= descriptors + 2 * (flows - 4)
        assert grown <= flows * 1024, f"{grown / flows:.0f} bytes a flow"
        for client, served in (pairs[0], pairs[flows // 2], pairs[-1]):
            client.sendall(b"there")
            assert served.recv(5) == b"there"
            served.sendall(b"and back")
            assert client.recv(8) == b"and back"
    wait_until(lambda: open_descriptors(pid) <= descriptors, message="descriptors are given back")


def connect_pair(
    stack: contextlib.ExitStack, site: Rootless, guest: RunningGuest, listener: socket.socket
) -> tuple[socket.socket, socket.socket]:
    """A guest's connection, and the server's end of it."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(ConnectionRefusedError):
            client = stack.enter_context(connect(guest, site.world_ip, 9001))
            return client, stack.enter_context(listener.accept()[0])
    raise AssertionError(f"{ATTEMPTS} times refused")


def test_g5_a_guest_with_many_ipv6_addresses_has_the_share_of_one(site: Rootless) -> None:
    site.user.run(["prlimit", "--nofile=1024:1024", str(CLI), "up", "dev"])
    greedy, modest = site.guest("greedy"), site.guest("modest")
    for guest in (greedy, modest):
        guest.ip6()
        wait_until(lambda who=guest: "default" in who.run("ip -6 route").stdout)
    first = greedy.ip6()
    more = [str(ip_address(first) + step) for step in (0x1000, 0x2000, 0x3000)]
    for address in more:
        greedy.run(f"ip -6 addr add {address}/64 dev eth0 nodad")
    with contextlib.ExitStack() as stack:
        made = 0
        for source in (first, *more):
            for _ in range(256):
                with contextlib.suppress(OSError):
                    connection = connect(greedy, WORLD6, 80, source=source)
                    stack.callback(connection.close)
                    made += 1
        assert 100 < made < 1024 / 3
        for connection in (connect(modest, WORLD6, 80) for _ in range(100)):
            stack.callback(connection.close)


def test_g5_one_guest_at_its_limit_leaves_another_its_share(site: Rootless) -> None:
    site.user.run(["prlimit", "--nofile=1024:1024", str(CLI), "up", "dev"])
    greedy, modest = site.guest("greedy"), site.guest("modest")
    made = connect_many(site, greedy, 1024)
    assert 100 < len(made) < 1024 / 3
    theirs = connect_many(site, modest, 100)
    assert len(theirs) == 100
    for connection in (*made, *theirs):
        connection.close()
