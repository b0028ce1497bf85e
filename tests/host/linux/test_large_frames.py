"""Frames of more than 64 KiB between veth guests and the bridge, as long as every port takes them."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from arcbox_net.host.linux import tap
from arcbox_net.host.linux.links import Links
from arcbox_net.host.plan import LARGE_FRAME_BYTES, VethPlan
from tests.host.linux.plans import bridge_plan, tap_plan, veth_plan
from tests.support import netns
from tests.support.netns import Host, Namespace, wait_until

pytestmark = [pytest.mark.e2e, netns.requires_root]

GATEWAY, GUEST = "192.168.64.1", "192.168.64.9"
USUAL_FRAME_BYTES = 65_550  # IPv4's largest packet behind an Ethernet header
BULK = bytes(32 << 20)
KERNEL = tuple(int(word) for word in os.uname().release.replace("-", ".").split(".")[:2])


def attach(host: Host, links: Links, plan: VethPlan) -> Namespace:
    guest = host.namespace("guest")
    fd = guest.open()
    links.create_veth(plan, fd)
    os.close(fd)
    guest.run(f"ip addr add {GUEST}/24 dev eth0")
    return guest


def largest_frame(host: Host, ifname: str, sender: Namespace, receiver: Namespace, address: str) -> int:
    """Of the frames that cross *ifname* while *sender* sends much to *receiver*, as far as they are seen."""
    everything = socket.htons(0x0003)  # ETH_P_ALL
    with (
        host.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything)) as tapped,
        receiver.call(lambda: socket.create_server((address, 0))) as server,
        sender.call(lambda: socket.create_connection(server.getsockname(), timeout=30)) as source,
        server.accept()[0] as sink,
    ):
        tapped.bind((ifname, 0))
        sending = threading.Thread(target=source.sendall, args=(BULK,))
        sending.start()
        left, largest = len(BULK), 0
        while left:
            left -= len(sink.recv(1 << 20))
            largest = max(largest, _largest_seen(tapped))
        sending.join()
    return largest


def _largest_seen(tapped: socket.socket) -> int:
    largest = 0
    try:
        while True:
            largest = max(largest, tapped.recv_into(bytearray(1), 0, socket.MSG_TRUNC | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return largest


@pytest.mark.skipif(KERNEL < (6, 3), reason="BIG TCP over IPv4 came with Linux 6.3")
def test_a_veth_that_may_sends_and_gets_large_frames(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    guest = attach(host, links, plan := veth_plan(large_frames=True))

    def has_large(sender: Namespace, receiver: Namespace, address: str) -> bool:
        largest = largest_frame(host, plan.ifname, sender, receiver, address)
        assert largest <= LARGE_FRAME_BYTES
        return largest > USUAL_FRAME_BYTES

    # How much goes at once depends on how fast it has gone until then.
    wait_until(lambda: has_large(guest, host, GATEWAY))
    wait_until(lambda: has_large(host, guest, GUEST))


def test_a_veth_sends_no_large_frames_unless_planned(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    guest = attach(host, links, plan := veth_plan())
    assert 0 < largest_frame(host, plan.ifname, guest, host, GATEWAY) <= USUAL_FRAME_BYTES
    assert 0 < largest_frame(host, plan.ifname, host, guest, GUEST) <= USUAL_FRAME_BYTES


@pytest.mark.parametrize("tap_first", [True, False])
def test_a_bridge_with_a_tap_sends_no_large_frames(host: Host, links: Links, tap_first: bool) -> None:
    links.apply_bridge(bridge_plan())
    fds = links.create_tap(tap_plan(index=2)) if tap_first else []
    guest = attach(host, links, plan := veth_plan(large_frames=True))
    fds += [] if tap_first else links.create_tap(tap_plan(index=2))
    assert 0 < largest_frame(host, plan.ifname, host, guest, GUEST) <= USUAL_FRAME_BYTES
    tap.close_all(fds)
