"""Egress engine: guests at sockets leave by an interface of the host, with an address that nobody else has."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from arcbox_net import NetConfig
from arcbox_net.config import Egress
from tests.e2e.test_sockets import GATEWAY, serve_hello, stream
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.guest import COMMAND_TIMEOUT_S, Guest
from tests.support.machine import Machine, each_bridge_nf
from tests.support.netns import wait_until
from tests.support.peers import http_server

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
EXTERNAL = "203.0.113.9"
FORWARD = "-p 0.0.0.0:8080:vm1:80"


def test_guest_leaves_by_the_engine_with_an_address_of_its_own_and_is_reached_there(
    world: Machine, tmp_path: Path
) -> None:
    options = f"--egress engine --uplink {world.uplink} --external-ip {EXTERNAL} {FORWARD}"
    world.cli(f"up dev {options}")
    path = tmp_path / "vm1.sock"
    info = world.cli_json("attach", "dev", "vm1", "--stream", str(path))
    with Guest(stream(path, info["mac"])) as guest:
        lease = guest.lease()
        assert (lease["ip"], lease["router"], lease["dns"]) == (info["ip"], GATEWAY, GATEWAY)
        assert world.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == EXTERNAL
        guest.run("wget -q -O /dev/null http://web.test/bytes/4000000")
        echo = f"ping -c 1 -W 5 {world.world_ip}"
        wait_until(lambda: guest.status(echo)[0] == 0, timeout=COMMAND_TIMEOUT_S)
        serve_hello(guest)
        asked = world.world.run(f"curl -sS --max-time 30 http://{EXTERNAL}:8080/").stdout
        assert asked == "hello\n"
        flows = world.cli_json("flows dev")
        assert {flow["guest"] for flow in flows} == {info["ip"]}
        assert any(flow["peer"] == world.world_ip and flow["peer_port"] == 80 for flow in flows)
        world.run(f"ip link set {world.uplink} down")
        world.run(f"ip link set {world.uplink} up")
        world.run(f"ip route replace default via {world.world_ip} dev {world.uplink}")
        wait_until(lambda: guest.status(echo)[0] == 0, timeout=COMMAND_TIMEOUT_S)
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--egress engine", "--uplink"),
        ("--uplink up0", "go together"),
        ("--egress engine --uplink none0 --external-ip 203.0.113.9", "none0"),
        ("--egress engine --uplink tap:up0 --external-ip 203.0.113.9", "ip tuntap add dev up0 mode tap"),
        ("--egress engine --uplink up0 --external-ip 203.0.113.2", "this host's own"),
        ("--egress engine --uplink up0 --external-ip 198.51.100.9", "198.51.100.9/24"),
    ],
)
def test_what_the_engine_cannot_have_is_refused_before_anything_is_made(
    world: Machine, words: str, said: str
) -> None:
    done = world.cli(f"up dev {words}", check=False)
    assert done.returncode != 0 and said in done.stderr
    assert world.ours() == {"links": [], "tables": []}


def test_the_engine_follows_its_uplinks_mtu_and_counts(machine: Machine) -> None:
    config = NetConfig(egress=Egress.ENGINE, uplink=machine.uplink, external_ip=EXTERNAL)
    with machine.network(config) as network:
        guest = machine.guest(network)
        large = ("-M", "do", "-s", "1400")
        wait_for_echo(guest, machine.world_ip, *large)
        machine.run(f"ip link set {machine.uplink} mtu 1300")

        def is_told() -> bool:
            refused = guest.run(["ping", "-c", "1", "-W", "1", *large, machine.world_ip], check=False)
            return "mtu" in refused.stdout + refused.stderr

        wait_until(is_told)
        machine.run(f"ip link set {machine.uplink} mtu 1500")

        def passes() -> bool:
            guest.run("ip route flush cache")
            return is_echoed(guest, machine.world_ip, *large)

        wait_until(passes)
        wait_until(lambda: network.stats()["engine"]["forward"] >= 4)
        assert network.stats()["engine"]["too_big"] >= 1
        shown = machine.cli(f"show {network.name}").stdout
        assert f"{EXTERNAL} on {machine.uplink}, by {machine.world_ip}" in shown and " too big" in shown


def test_the_network_answers_while_the_last_guest_comes_and_goes(machine: Machine) -> None:
    config = NetConfig(egress=Egress.ENGINE, uplink=machine.uplink, external_ip=EXTERNAL)
    with machine.network(config) as network, machine.namespace("guest") as guest:

        def come_and_go() -> None:
            for _ in range(10):
                network.attach_netns(guest.path, name="vm1")
                network.detach("vm1")

        coming = threading.Thread(target=come_and_go)
        coming.start()
        while coming.is_alive():
            assert network.status().state == "running"
            network.flows()
            network.stats()
        coming.join()


@each_bridge_nf
@pytest.mark.parametrize("isolated", ["", "--isolated"], ids=["together", "isolated"])
def test_guests_on_kernel_devices_leave_by_the_engine_and_are_reached_there(
    world: Machine, bridge_nf: int, isolated: str
) -> None:
    world.bridge_netfilter(bridge_nf)
    world.cli(f"up dev {isolated} --egress engine --uplink {world.uplink} --external-ip {EXTERNAL} {FORWARD}")
    one, two = world.namespace("one"), world.namespace("two")
    for name, guest in (("vm1", one), ("vm2", two)):
        world.cli("attach", "dev", name, "--netns", guest.path)
    info = {port["name"]: port for port in world.cli_json("show dev")["ports"]}
    with http_server(one, 80):
        asked = world.world.run(f"curl -sS --max-time 30 http://{EXTERNAL}:8080/", check=False)
        assert asked.returncode == 0, asked.stderr  # before the guest itself said a word
        hairpin = f"curl -sS --max-time {3 if isolated else 30} http://{EXTERNAL}:8080/"
        assert (two.run(hairpin, check=False).returncode == 0) == (not isolated)
    with http_server(world.world, 8000):
        one.run(f"curl -sS --max-time 30 http://{world.world_ip}:8000/")
    wait_for_echo(one, world.world_ip)
    if isolated:
        assert not is_echoed(two, info["vm1"]["ip"])
    else:
        wait_for_echo(two, info["vm1"]["ip"])
    assert "ttl=63" in wait_for_echo(one, world.world_ip, "-t", "64")
    assert not is_echoed(one, "169.254.169.254")
    flows = world.cli_json("flows dev")
    assert {flow["guest"] for flow in flows} >= {info["vm1"]["ip"]}
    world.cli("detach dev vm1")
    world.cli("detach dev vm2")
    wait_until(lambda: [link for link in world.ours()["links"] if "_" in link] == [])
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}
