"""Guests at unix sockets: QEMU over stream, dgram and vhost-user gets what a guest on a TAP gets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from arcbox_net import NetworkManager
from tests.support.guest import COMMAND_TIMEOUT_S, NIC, Guest, vhost_user
from tests.support.machine import CLI, Machine, kill9
from tests.support.netns import wait_until
from tests.support.rootless import Rootless

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
GATEWAY = "192.168.64.1"


def stream(path: Path, mac: str) -> list[str]:
    return _card(f"stream,id=n,server=off,addr.type=unix,addr.path={path}", mac)


def listening_stream(path: Path, mac: str) -> list[str]:
    return _card(f"stream,id=n,server=on,addr.type=unix,addr.path={path}", mac)


def dgram(path: Path, mac: str) -> list[str]:
    own = f"local.type=unix,local.path={path}.guest"
    return _card(f"dgram,id=n,{own},remote.type=unix,remote.path={path}", mac)


FLAGS: dict[str, Callable[[Path, str], list[str]]] = {
    "stream": stream,
    "dgram": dgram,
    "vhost-user": vhost_user,
}


def _card(netdev: str, mac: str) -> list[str]:
    return ["-netdev", netdev, "-device", f"{NIC},netdev=n,mac={mac}"]


def state_of(machine: Machine, port: str) -> str:
    return str(next(item["state"] for item in machine.cli_json("show dev")["ports"] if item["name"] == port))


def serve_hello(guest: Guest) -> None:
    guest.run("echo hello >/www/index.html && httpd -h /www")


def has_ipv6(guest: Guest) -> bool:
    """Whether its global address is there, and known to be nobody else's."""
    shown = guest.run("ip -6 addr show dev eth0")
    return "scope global" in shown and "tentative" not in shown


@pytest.mark.parametrize("kind", FLAGS)
def test_vm_at_a_socket_gets_online_and_is_reachable_through_a_forward(
    world: Machine, tmp_path: Path, kind: str
) -> None:
    world.cli("up dev -p 8080:vm1:80")
    path = tmp_path / "vm1.sock"
    info = world.cli_json("attach", "dev", "vm1", f"--{kind}", str(path))
    assert (info["kind"], info["socket"], info["state"]) == (kind, str(path), "down")
    with Guest(FLAGS[kind](path, info["mac"]), hostname="box") as guest:
        lease = guest.lease()
        assert (lease["ip"], lease["router"], lease["dns"]) == (info["ip"], GATEWAY, GATEWAY)
        assert state_of(world, "vm1") == "up"
        assert world.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
        guest.run("wget -q -O /dev/null http://web.test/bytes/4000000")
        serve_hello(guest)
        assert world.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout == "hello\n"
        wait_until(lambda: world.cli_json("show dev")["ports"][0]["rx_bytes"] > 4_000_000)
        assert 4_000_000 > world.cli_json("show dev")["ports"][0]["tx_bytes"] > 0
    wait_until(lambda: state_of(world, "vm1") == "down")
    world.cli("detach dev vm1")
    assert not path.exists()
    wait_until(lambda: info["ifname"] not in world.links(), message="the uplink goes with its last guest")
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_three_kinds_of_port_talk_to_each_other_and_out(world: Machine, tmp_path: Path) -> None:
    world.cli("up dev")
    network = NetworkManager.connect("dev")
    with contextlib.ExitStack() as running:
        tap = world.guest(network, "kernel")
        guests = []
        for name, kind in (("first", "stream"), ("second", "dgram")):
            path = tmp_path / f"{name}.sock"
            info = world.cli_json("attach", "dev", name, f"--{kind}", str(path))
            guests.append(running.enter_context(Guest(FLAGS[kind](path, info["mac"]), hostname=name)))
        addresses = [guest.lease()["ip"] for guest in guests]
        for guest in guests:
            serve_hello(guest)
            assert guest.run(f"wget -q -O - http://{world.world_ip}/").strip() == world.host_ip
            wait_until(lambda guest=guest: has_ipv6(guest), timeout=COMMAND_TIMEOUT_S)  # its name has it too
        first, second = guests
        assert first.run("wget -q -O - http://second/") == "hello\n"
        assert second.run("wget -q -O - http://first/") == "hello\n"
        for address in addresses:
            assert tap.run(f"curl -sS --max-time 30 http://{address}/").stdout == "hello\n"
        tap.popen(["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"])
        wait_until(lambda: ":80" in tap.run("ss -Hltn").stdout)
        assert "localhost" in first.run("wget -q -O - http://kernel/hosts")
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_l8_isolated_guests_at_sockets_reach_neither_each_other_nor_guests_of_the_kernel(
    world: Machine, tmp_path: Path
) -> None:
    world.cli("up dev --isolated")
    tap = world.guest(NetworkManager.connect("dev"), "kernel")
    with contextlib.ExitStack() as running:
        guests = []
        for name in ("first", "second"):
            path = tmp_path / f"{name}.sock"
            info = world.cli_json("attach", "dev", name, "--stream", str(path))
            guests.append(running.enter_context(Guest(stream(path, info["mac"]), hostname=name)))
        first, second = guests
        first.lease()
        assert first.run(f"wget -q -O - http://{world.world_ip}/").strip() == world.host_ip
        for address in (second.lease()["ip"], tap.ip):
            status, _ = first.status(f"ping -c 2 -W 1 {address}")
            assert status != 0, address


def test_k15_killed_vm_is_started_again_and_has_the_port_address_and_forward_that_it_had(
    world: Machine, tmp_path: Path
) -> None:
    world.cli("up dev -p 8080:vm1:80")
    path = tmp_path / "vm1.sock"
    info = world.cli_json("attach", "dev", "vm1", "--stream", str(path))
    for _ in range(2):
        with Guest(stream(path, info["mac"])) as guest:
            assert guest.lease()["ip"] == info["ip"]
            serve_hello(guest)
            assert world.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout == "hello\n"
        wait_until(lambda: state_of(world, "vm1") == "down")


def test_q8_after_a_kill_of_the_network_process_up_finds_the_guest_again(
    world: Machine, tmp_path: Path
) -> None:
    world.cli("up dev -p 8080:vm1:80")
    path = tmp_path / "vm1.sock"
    mac = "02:00:00:00:00:77"
    with Guest(listening_stream(path, mac), dhcp=False) as guest:
        info = world.cli_json("attach", "dev", "vm1", "--stream", str(path), "--connect", "--mac", mac)
        wait_until(lambda: state_of(world, "vm1") == "up")
        guest.run("udhcpc -i eth0 -n -q -t 20 -T 1 -s /udhcpc.script")
        serve_hello(guest)
        pid = NetworkManager.connect("dev").pid
        assert pid is not None
        kill9(pid)
        world.cli("up dev -p 8080:vm1:80")
        wait_until(lambda: state_of(world, "vm1") == "up")
        assert world.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout == "hello\n"
        assert guest.run(f"wget -q -O - http://{world.world_ip}/").strip() == world.host_ip
        assert world.cli_json("show dev")["ports"][0]["ip"] == info["ip"]
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_k9_deleted_and_renamed_uplink_is_made_again_while_the_guest_runs(
    world: Machine, tmp_path: Path
) -> None:
    world.cli("up dev")
    path = tmp_path / "vm1.sock"
    info = world.cli_json("attach", "dev", "vm1", "--stream", str(path))
    uplink = info["ifname"]
    with Guest(stream(path, info["mac"])) as guest:
        guest.lease()
        for damage in (f"ip link del {uplink}", f"ip link set {uplink} name stray0", "ip link del abx-dev"):
            before = world.links()[uplink]["ifindex"] if "del " + uplink in damage else None
            world.run(damage)

            def is_back(before: int | None = before) -> bool:
                links = world.links()
                made = links.get(uplink, {})
                return "stray0" not in links and made.get("master") == "abx-dev" and made["ifindex"] != before

            wait_until(is_back, timeout=90.0)  # a network repairs so often a minute
            assert guest.run(f"wget -q -O - http://{world.world_ip}/").strip() == world.host_ip


@pytest.mark.parametrize("kind", FLAGS)
def test_run_boots_a_vm_via_a_socket_without_privilege(site: Rootless, kind: str) -> None:
    site.up()
    words = [str(CLI), "run", "dev", "--via", kind, "--"]
    with Guest([], prefix=site.user.argv(words)) as guest:
        assert guest.lease()["router"] == GATEWAY
        assert site.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == site.host_ip
        (port,) = site.user.cli_json("show dev")["ports"]
        assert (port["kind"], port["state"]) == (kind, "up")
    wait_until(lambda: site.user.cli_json("show dev")["ports"] == [])
