"""QEMU at socket ports: what it loads and sends arrives whole, whoever connects, at either MTU, and after its death."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net import DnsConfig, NetConfig
from arcbox_net.manager import SocketAttachment
from tests.support.guest import NIC, Guest
from tests.support.machine import Machine
from tests.support.netns import wait_until
from tests.support.peers import body_of

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
TRANSFER_BYTES = 8_000_000


def stream(port: SocketAttachment) -> list[str]:
    server = "on" if port.connects else "off"
    return card(port, f"stream,id=n,server={server},addr.type=unix,addr.path={port.socket}")


def dgram(port: SocketAttachment) -> list[str]:
    own = f"local.type=unix,local.path={port.socket}.guest"
    return card(port, f"dgram,id=n,{own},remote.type=unix,remote.path={port.socket}")


def card(port: SocketAttachment, netdev: str) -> list[str]:
    return ["-netdev", netdev, "-device", f"{NIC},netdev=n,mac={port.mac},host_mtu={port.mtu}"]


@contextlib.contextmanager
def online(port: SocketAttachment, network: list[str]) -> Iterator[Guest]:
    with Guest(network) as guest:
        lease = guest.lease()
        assert (lease["ip"], lease["mtu"]) == (str(port.ip), str(port.mtu))
        yield guest


def assert_carries(guest: Guest) -> None:
    """What the guest loads from the world, and sends there, is the same at both ends."""
    world = "http://web.test"
    digest = hashlib.sha256(body_of(TRANSFER_BYTES)).hexdigest()
    load = f"wget -q -O /tmp/body {world}/bytes/{TRANSFER_BYTES} && sha256sum /tmp/body"
    assert guest.run(load).split()[0] == digest
    guest.run("tr '\\000' x </tmp/body >/tmp/text && rm /tmp/body")  # busybox sends what is ahead of a zero
    sent = guest.run("sha256sum /tmp/text").split()[0]
    assert guest.run(f"wget -q -O - --post-file=/tmp/text {world}/").split()[0] == sent
    guest.run("rm /tmp/text")


@pytest.mark.parametrize(("mtu", "connect"), [(1500, True), (65520, False)])
def test_vm_over_a_stream_loads_and_sends_whole_bodies(
    world: Machine, tmp_path: Path, mtu: int, connect: bool
) -> None:
    config = NetConfig(mtu=mtu, dns=DnsConfig(upstreams=(world.world_ip,)))
    with world.network(config) as network:
        port = network.attach_stream(tmp_path / "vm1.sock", connect=connect)
        with online(port, stream(port)) as guest:
            assert_carries(guest)


def test_vm_over_datagrams_that_dies_is_let_in_again_with_its_address_k15(
    world: Machine, tmp_path: Path
) -> None:
    with world.network(NetConfig(dns=DnsConfig(upstreams=(world.world_ip,)))) as network:
        port = network.attach_dgram(tmp_path / "vm1.sock")
        with online(port, dgram(port)) as guest:
            assert_carries(guest)
        wait_until(lambda: [each.state for each in network.ports()] == ["down"])
        with online(port, dgram(port)) as guest:
            assert guest.run("wget -q -O - http://web.test/").strip() == world.host_ip
            assert [each.state for each in network.ports()] == ["up"]
