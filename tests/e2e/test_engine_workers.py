"""Egress engine with two workers: it is the first one's, and guests of the other leave by it as well."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from arcbox_net import NetworkManager
from tests.support.datapath import transfer
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine
from tests.support.netns import Namespace
from tests.support.peers import http_server
from tests.support.plugged import PluggedGuest

EXTERNAL = "203.0.113.9"
BYTES = 4 << 20


def fetched(namespace: Namespace, url: str) -> str:
    return namespace.run(f"curl -sS --max-time 30 {url}").stdout.strip()


def test_guests_of_both_workers_leave_by_the_engine_are_reached_there_and_reach_each_other(
    world: Machine, tmp_path: Path
) -> None:
    world.cli(f"up dev --workers 2 --egress engine --uplink {world.uplink} --external-ip {EXTERNAL}")
    network = NetworkManager.connect("dev")
    with contextlib.ExitStack() as running:
        guests: list[Namespace] = []
        for name in ("a", "b"):  # a port goes to the worker with the fewest
            info = world.cli_json("attach", "dev", name, "--stream", str(tmp_path / name))
            guest = running.enter_context(PluggedGuest(name, info, "192.168.64.1"))
            guest.plug()
            guests.append(guest)
        guests.append(world.guest(network, "kernel"))
        for number, guest in enumerate(guests):
            wait_for_echo(guest, world.world_ip)
            assert fetched(guest, f"http://{world.world_ip}/") == EXTERNAL
            transfer(guest, world.world, world.world_ip, BYTES)
            guest.run(f"curl -sS --max-time 30 -o /dev/null http://{world.world_ip}/bytes/{BYTES}")
            running.enter_context(http_server(guest, 80))
            network.expose(f"0.0.0.0:{8080 + number}:{('a', 'b', 'kernel')[number]}:80")
            assert fetched(world.world, f"http://{EXTERNAL}:{8080 + number}/") == world.world_ip
        for one, number in itertools.product(guests, range(len(guests))):
            assert guests[number] is one or fetched(one, f"http://{EXTERNAL}:{8080 + number}/") == EXTERNAL
        ips = {port.ip for port in network.ports()}
        assert {flow.guest for flow in network.flows()} == ips
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}
