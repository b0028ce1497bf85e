"""Guests at unix sockets: QEMU over stream, dgram and vhost-user gets what a guest on a TAP gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guest import NIC, Guest
from tests.support.machine import Machine
from tests.support.netns import wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
GATEWAY = "192.168.64.1"


def stream(path: Path | str, mac: str) -> list[str]:
    netdev = f"stream,id=n,server=off,addr.type=unix,addr.path={path}"
    return ["-netdev", netdev, "-device", f"{NIC},netdev=n,mac={mac}"]


def state_of(machine: Machine, port: str) -> str:
    return next(item["state"] for item in machine.cli_json("show dev")["ports"] if item["name"] == port)


def test_vm_over_a_stream_socket_gets_online_and_is_reachable_through_a_forward(
    world: Machine, tmp_path: Path
) -> None:
    world.cli("up dev -p 8080:vm1:80")
    path = tmp_path / "vm1.sock"
    info = world.cli_json("attach", "dev", "vm1", "--stream", str(path))
    assert (info["kind"], info["socket"], info["state"]) == ("stream", str(path), "down")
    with Guest(stream(path, info["mac"]), hostname="box") as guest:
        lease = guest.lease()
        assert (lease["ip"], lease["router"], lease["dns"]) == (info["ip"], GATEWAY, GATEWAY)
        assert state_of(world, "vm1") == "up"
        assert world.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
        guest.run("echo hello >/www/index.html && httpd -h /www")
        assert world.run("curl -sS --max-time 20 http://127.0.0.1:8080/").stdout == "hello\n"
        shown = world.cli_json("show dev")["ports"][0]
        assert shown["rx_bytes"] > 0 and shown["tx_packets"] > 0
    wait_until(lambda: state_of(world, "vm1") == "down")
    world.cli("detach dev vm1")
    assert not path.exists()
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}
