"""A network with three workers, and a guest on each of them."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbox_net import NetworkManager
from tests.support.datapath import transfer
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, kill9
from tests.support.netns import COMMAND_TIMEOUT_S, wait_until
from tests.support.plugged import PluggedGuest

pytestmark = pytest.mark.slow
GATEWAY = "192.168.64.1"
UP = "up dev --workers 3"
PINGS = 100
BYTES = 4 << 20
FLOOD = 2_000


def attach(world: Machine, name: str, folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = world.cli_json("attach", "dev", name, "--stream", str(folder / f"{name}.sock"))
    return info


@contextlib.contextmanager
def three_guests(world: Machine, folder: Path) -> Iterator[list[PluggedGuest]]:
    """One on each worker: a port goes to the worker with the fewest."""
    world.cli(UP)
    with contextlib.ExitStack() as running:
        guests = []
        for name in ("a", "b", "c"):
            guests.append(running.enter_context(PluggedGuest(name, attach(world, name, folder), GATEWAY)))
            guests[-1].plug()
        yield guests


def pinged(guest: PluggedGuest, address: str) -> int:
    """How many echo requests it took until PINGS were answered."""
    said = guest.run(f"ping -q -c {PINGS} -i 0.002 -w 60 {address}").stdout
    sent, answered = re.findall(r"(\d+) (?:packets transmitted|received)", said)
    assert int(answered) >= PINGS, said
    return int(sent)


def counted(world: Machine) -> dict[str, dict[str, int]]:
    return {port["name"]: port for port in world.cli_json("show dev")["ports"]}


def test_guests_of_three_workers_reach_each_other_and_out_and_are_counted(
    world: Machine, tmp_path: Path
) -> None:
    with three_guests(world, tmp_path) as guests:
        kernel = world.guest(NetworkManager.connect("dev"), "kernel")
        for guest in guests:
            wait_for_echo(guest, world.world_ip)
        sent = sum(pinged(one, other.ip) for one, other in itertools.permutations(guests, 2))
        transfer(guests[0], guests[1], guests[1].ip, BYTES)
        for guest in guests:
            sent += pinged(guest, kernel.ip)
            asked = guest.run(f"curl -sS --max-time 30 http://{world.world_ip}/").stdout
            assert asked.strip() == world.host_ip
        wait_until(lambda: counted(world)["b"]["rx_bytes"] > BYTES)
        # To and from two guests and the kernel's, there and back, and not twice.
        most = 8 * PINGS + (sent - 9 * PINGS) + BYTES // 1000
        for name in ("a", "b", "c"):
            for way in ("rx_packets", "tx_packets"):
                wait_until(lambda name=name, way=way: counted(world)[name][way] >= 5 * PINGS)
                assert counted(world)[name][way] < most, (name, way)
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_g5_flood_across_workers_breaks_no_connection_of_others(world: Machine, tmp_path: Path) -> None:
    with three_guests(world, tmp_path) as (flooder, other, target):
        flooder.popen(["ping", "-f", "-q", "-s", "1400", target.ip], stdout=subprocess.DEVNULL)
        wait_until(lambda: counted(world)["a"]["tx_packets"] > FLOOD)
        transfer(other, target, target.ip, BYTES)
        wait_for_echo(other, world.world_ip)
        before = counted(world)["a"]["tx_packets"]
        wait_until(lambda: counted(world)["a"]["tx_packets"] > before)


def test_guests_come_and_go_while_others_talk_across_workers(world: Machine, tmp_path: Path) -> None:
    with three_guests(world, tmp_path) as (one, other, _):
        talking = threading.Thread(target=transfer, args=(one, other, other.ip, 8 * BYTES))
        talking.start()
        for _ in range(6):
            info = attach(world, "d", tmp_path)
            with PluggedGuest("d", info, GATEWAY) as late:
                late.plug()
                wait_for_echo(late, one.ip)
            world.cli("detach dev d")
        talking.join(COMMAND_TIMEOUT_S)
        assert not talking.is_alive()
        assert counted(world)["b"]["rx_bytes"] > 8 * BYTES


def test_after_a_kill_and_a_loss_of_the_uplink_guests_of_all_workers_are_online_again(
    world: Machine, tmp_path: Path
) -> None:
    with three_guests(world, tmp_path) as guests:
        pid = NetworkManager.connect("dev").pid
        assert pid is not None
        kill9(pid)
        world.cli(UP)
        for guest in guests:
            guest.plug()
            wait_for_echo(guest, world.world_ip)
        (uplink,) = (
            one for one in world.json("ip -d -j link show type tun") if one["ifname"].endswith("_up")
        )
        assert uplink["linkinfo"]["info_data"]["numqueues"] == 3
        world.run(f"ip link del {uplink['ifname']}")
        for guest in guests:
            wait_for_echo(guest, world.world_ip)
            wait_for_echo(guests[0], guest.ip)
