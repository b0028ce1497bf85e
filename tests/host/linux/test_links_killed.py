"""K2: killed while making a link, at every step. The next process finds what is there, and can make it again."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

import pytest

from arcbox_net.host.linux import tap
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.links import Links
from tests.host.linux.crash import Crash, crash_at
from tests.host.linux.plans import bridge_plan, tap_plan, veth_plan
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, pytest.mark.fault, netns.requires_root]
STEPS_MAX = 60
VETH = veth_plan(address=IPv4Interface("192.168.64.9/24"), gateway=IPv4Address("192.168.64.1"))


def ours(host: Host) -> set[str]:
    return {ifname for ifname in host.links() if ifname.startswith("abx-")}


def killed_at_each_step(host: Host, monkeypatch: pytest.MonkeyPatch, make: Callable[[Links], None]) -> int:
    """Kill *make* at step 0, 1, … until it gets through; each time everything is found, and then removed."""
    for step in range(STEPS_MAX):
        with Links(host.path) as links, monkeypatch.context() as patched:
            crash_at(step, patched)
            # A killed process cleans nothing up.
            patched.setattr(Kernel, "remove", lambda self, ifname: False)
            patched.setattr(tap, "close_all", lambda fds: [os.close(fd) for fd in fds])
            try:
                make(links)
                return step
            except Crash:
                pass
        with Links(host.path) as fresh:
            assert {link.ifname for link in fresh.owned("t1")} == ours(host), f"killed at step {step}"
            make(fresh)
            assert {link.network for link in fresh.owned()} == {"t1"}
            for link in fresh.owned("t1"):
                assert fresh.remove(link.ifname)
            assert ours(host) == set()
    raise AssertionError("it never got through")


def test_k2_killed_while_making_a_bridge(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        killed_at_each_step(host, monkeypatch, lambda links: links.apply_bridge(bridge_plan()) and None) > 3
    )


def test_k2_killed_while_making_a_persistent_tap(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(links: Links) -> None:
        links.apply_bridge(bridge_plan())
        links.create_tap(tap_plan(persist=True))

    assert killed_at_each_step(host, monkeypatch, make) > 8


def test_k2_killed_while_making_a_veth(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = host.namespace("guest")
    fd = guest.open()

    def make(links: Links) -> None:
        links.apply_bridge(bridge_plan())
        for link in links.owned("t1"):  # as reconcile does with a port that it has no row of
            if link.ifname == VETH.ifname:
                links.remove(link.ifname)
        links.create_veth(VETH, fd)
        assert guest.json("ip -j route show default")

    assert killed_at_each_step(host, monkeypatch, make) > 10
    os.close(fd)
