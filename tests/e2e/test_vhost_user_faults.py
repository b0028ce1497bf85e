"""What vhost-user guests of a running network do to each other: flood, take nothing, break rings, come and go."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbox_net import NetworkManager
from arcbox_net.addresses import bridge_mac
from arcbox_net.network.messages import PortInfo
from tests.support.machine import Machine
from tests.support.netns import COMMAND_TIMEOUT_S, wait_until
from tests.support.vhost_front_end import PythonGuest

PINGS = 30
ENOUGH = 10_000
UNREAD = 2_000


class Site:
    """A network with guests at vhost-user sockets."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.infos: dict[str, Any] = {}
        machine.cli("up dev")
        self.network = NetworkManager.connect("dev")

    def attach(self, name: str) -> dict[str, Any]:
        """What its front end needs to know."""
        path = self.folder / f"{name}.sock"
        port = self.network.attach_vhost_user(path, name=name)
        self.infos[name] = {
            "path": path,
            "mac": port.mac,
            "ip": str(port.ip),
            "gateway_mac": bridge_mac("dev"),
        }
        return self.infos[name]

    @contextlib.contextmanager
    def guest(self, name: str) -> Iterator[PythonGuest]:
        """It is there, and takes frames."""
        made = PythonGuest(**self.infos.get(name) or self.attach(name))
        try:
            made.listen()
            yield made
        finally:
            made.close()

    def port(self, name: str) -> PortInfo:
        return next(one for one in self.network.ports() if one.name == name)


@pytest.fixture
def site(machine: Machine, tmp_path: Path) -> Iterator[Site]:
    yield Site(machine, tmp_path)
    machine.cli("down dev")
    assert machine.ours() == {"links": [], "tables": []}


def test_g5_guest_that_floods_takes_no_answer_from_its_neighbour(site: Site) -> None:
    flooder = site.attach("flooder")
    argv = [sys.executable, "-m", "tests.support.vhost_front_end", *map(str, flooder.values())]
    with site.guest("neighbour") as neighbour, subprocess.Popen(argv, stdin=subprocess.PIPE) as flood:
        wait_until(lambda: site.port("flooder").tx_packets > ENOUGH)
        for number in range(PINGS):
            neighbour.ping(number)
        assert flood.poll() is None
        wait_until(lambda: site.port("flooder").tx_packets > 2 * ENOUGH)
        assert flood.stdin is not None
        flood.stdin.close()
        assert flood.wait(COMMAND_TIMEOUT_S) == 0


def test_g6_guest_that_takes_no_frames_loses_its_own_and_gets_the_next_when_it_does(site: Site) -> None:
    with site.guest("neighbour") as neighbour:
        slow = PythonGuest(**site.attach("slow"))
        site.machine.run(f"ip neigh replace {slow.ip} lladdr {slow.mac} dev abx-dev nud permanent")
        with site.machine.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:

            def send(text: bytes) -> None:
                sender.sendto(text, (slow.ip, 9))

            def has_lost() -> bool:
                for _ in range(UNREAD):
                    send(b"unread")
                return site.port("slow").drops.get("full", 0) > UNREAD // 2

            wait_until(has_lost)
            neighbour.ping(1)
            slow.listen()

            def gets() -> bool:
                send(b"wanted")
                return any(b"wanted" in bytes(one) for one in slow.frames())

            wait_until(gets)
        slow.close()


def test_v3_guest_that_breaks_a_ring_is_disconnected_and_its_neighbour_is_not(site: Site) -> None:
    with site.guest("neighbour") as neighbour:
        with site.guest("broken") as broken:
            broken.rings[1].offer(broken.rings[1].size)
            broken.send()
            wait_until(lambda: "ring 1 is broken (head)" in (site.port("broken").trouble or ""))
            neighbour.ping(1)
        with site.guest("broken") as again:
            again.ping(1)


def test_k15_front_end_that_comes_and_goes_a_hundred_times_gets_an_answer_each_time(site: Site) -> None:
    for number in range(100):
        with site.guest("restless") as guest:
            guest.ping(number)
        wait_until(lambda: site.port("restless").state == "down")


@pytest.mark.parametrize(
    "damage", ["link del {0}", "link set {0} name stray0", "link set {0} down;link set {0} up"]
)
def test_k9_guest_gets_answers_again_after_its_uplink_was_damaged(site: Site, damage: str) -> None:
    with site.guest("vm1") as guest:
        guest.ping(1)
        uplink = site.port("vm1").ifname
        for words in damage.format(uplink).split(";"):
            site.machine.run(f"ip {words}")
        wait_until(lambda: uplink in site.machine.links())
        guest.ping(2)
