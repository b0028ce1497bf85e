"""QEMU's guest in its own memory: two pairs of queues, online over vhost-user, and let in again when it comes back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.guest import Guest, vhost_user
from tests.support.machine import Machine
from tests.support.netns import wait_until
from tests.support.peers import body_of

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
GATEWAY = "192.168.64.1"
BODY = 8_000_000


def attach(world: Machine, path: Path) -> str:
    """Attach vm1 there; its MAC."""
    world.cli("up dev -p 8080:vm1:80")
    info = world.cli_json("attach", "dev", "vm1", "--vhost-user", str(path), "--queues", "2")
    assert (info["kind"], info["state"]) == ("vhost-user", "down")
    return str(info["mac"])


def fetch(guest: Guest, cpu: int = 0) -> str:
    """The digest of what the guest downloads on one of its CPUs, each of which has a pair of queues of its own."""
    command = f"taskset {1 << cpu} wget -q -O - http://web.test/bytes/{BODY} | sha256sum"
    return guest.run(command).split()[0]


def test_vm_with_two_pairs_of_queues_gets_online_over_vhost_user(world: Machine, tmp_path: Path) -> None:
    path = tmp_path / "vm1.sock"
    mac = attach(world, path)
    with Guest(vhost_user(path, mac, pairs=2)) as guest:
        assert guest.lease()["router"] == GATEWAY
        assert guest.run("ls /sys/class/net/eth0/queues").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]
        assert world.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
        for cpu in range(2):
            assert fetch(guest, cpu) == hashlib.sha256(body_of(BODY)).hexdigest()
        guest.run(f"dd if=/dev/urandom of=/www/body bs=1000 count={BODY // 1000} && httpd -h /www")
        digest = guest.run("sha256sum </www/body").split()[0]
        world.run(
            ["curl", "-sS", "--max-time", "60", "-o", str(tmp_path / "body"), "http://127.0.0.1:8080/body"]
        )
        assert hashlib.sha256((tmp_path / "body").read_bytes()).hexdigest() == digest
    wait_until(lambda: world.cli_json("show dev")["ports"][0]["state"] == "down")
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_k15_vm_that_is_killed_reset_or_boots_again_gets_online_each_time(
    world: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "vm1.sock"
    mac = attach(world, path)
    for _ in range(2):  # the first is killed by the end of its block, inside a download
        with Guest(vhost_user(path, mac, pairs=2)) as guest:
            address = guest.lease()["ip"]
            # The driver lets go of the device, and takes it again, twice.
            for _ in range(2):
                guest.run(
                    "cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 >unbind && echo virtio0 >bind"
                )
                guest.run(f"ip link set eth0 up && ip addr add {address}/24 dev eth0")
                guest.run(f"ip route add default via {GATEWAY}")
                assert fetch(guest) == hashlib.sha256(body_of(BODY)).hexdigest()
            guest.send("wget -q -O /dev/null http://web.test/bytes/400000000 &")
            rx = world.cli_json("show dev")["ports"][0]["tx_packets"]
            wait_until(lambda: world.cli_json("show dev")["ports"][0]["tx_packets"] > rx)  # noqa: B023
    world.cli("down dev")
