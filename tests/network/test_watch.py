"""What of the kernel's notifications asks for what: our own state, other networks' and the host's."""

import asyncio
import errno
from ipaddress import IPv4Address, IPv4Interface
from types import SimpleNamespace

import pytest

from arcbox_net.host.linux.monitor import Event
from arcbox_net.host.plan import port_ifname, tun_ifname
from arcbox_net.network.watch import REPAIRS_MAX, Watch
from arcbox_net.recipes.site import Layout

LAYOUT = Layout(
    mode="nat",
    egress="masquerade",
    bridge="abx-dev",
    address=IPv4Interface("192.168.64.1/24"),
    router=IPv4Address("192.168.64.1"),
    owns_bridge=True,
)
KERNEL = SimpleNamespace(netns_fd=None, run=asyncio.to_thread)
OUR_PORT, OTHER_PORT = port_ifname("dev", 0), port_ifname("other", 0)


def asked_for(*events, failing=(), taken_out=False, netns_fd=None):
    """What a watch of network `dev` asks for when *events* happen; *taken_out*: a port is under no bridge."""
    asked = []

    def note(what):
        async def work():
            asked.append(what)
            if what in failing:
                raise RuntimeError("the kernel refuses")
            return taken_out

        return work

    async def watch():
        watch = Watch(
            SimpleNamespace(network="dev"),
            LAYOUT,
            note("repair"),
            note("ports"),
            note("surroundings"),
            bridge_came_up=lambda: asked.append("carrier"),
            kernel=SimpleNamespace(netns_fd=netns_fd, run=asyncio.to_thread),
        )
        for event in events:
            watch._on_link(event)
            if watch._task is not None:
                await watch._task

    asyncio.run(watch())
    return asked


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(Event("link-removed", "abx-dev"), ["repair"], id="bridge-deleted"),
        pytest.param(Event("link-renamed", "br7", old="abx-dev"), ["repair"], id="bridge-renamed"),
        pytest.param(Event("link-added", "abx-dev"), ["ports"], id="bridge-back"),
        pytest.param(Event("carrier-up", "abx-dev"), ["carrier"], id="bridge-came-up"),
        pytest.param(Event("carrier-up", OUR_PORT), [], id="port-came-up"),
        pytest.param(Event("master-changed", OUR_PORT, old="abx-dev"), ["ports"], id="port-left-bridge"),
        pytest.param(Event("master-changed", OUR_PORT, detail="abx-dev"), [], id="port-put-in"),
        pytest.param(Event("link-removed", OUR_PORT), ["ports"], id="port-gone"),
        pytest.param(Event("link-renamed", "tap7", old=OUR_PORT), ["ports"], id="port-renamed"),
        pytest.param(Event("mac-changed", OUR_PORT), ["ports"], id="port-with-another-mac"),
        pytest.param(Event("link-removed", tun_ifname(0)), ["repair"], id="door-gone"),
        pytest.param(Event("route-added", "eth0"), ["surroundings"], id="route-came"),
        pytest.param(Event("route-removed", "eth0"), ["surroundings"], id="route-went"),
        pytest.param(Event("address-removed", "eth0"), ["surroundings"], id="address-went"),
        pytest.param(Event("resync"), ["ports", "repair", "surroundings"], id="messages-lost"),
    ],
)
def test_k9_each_change_asks_for_its_own_work(event, expected):
    assert asked_for(event) == expected


@pytest.mark.parametrize("kind", ["route-added", "address-removed"])
def test_private_network_is_not_surrounded_by_what_is_inside(kind):
    assert asked_for(Event(kind, "abx-out_0"), netns_fd=7) == []


def test_k9_port_that_was_taken_out_of_its_bridge_is_repaired():
    event = Event("master-changed", OUR_PORT, old="abx-dev", detail="br0")
    assert asked_for(event, taken_out=True) == ["ports", "repair"]


def test_guests_of_another_network_use_up_no_repairs_of_this_one():
    coming = [Event("master-changed", OTHER_PORT, detail="abx-other")] * (REPAIRS_MAX + 1)
    going = [Event("link-removed", OTHER_PORT)] * (REPAIRS_MAX + 1)
    assert asked_for(*coming, *going) == []
    assert asked_for(*coming, Event("link-removed", "abx-dev")) == ["repair"]


def test_work_that_fails_takes_no_other_with_it():
    assert asked_for(Event("resync"), failing=("ports", "repair")) == ["ports", "repair", "surroundings"]


def test_k11_a_fight_is_given_up_for_a_while():
    assert asked_for(*[Event("link-removed", "abx-dev")] * 20) == ["repair"] * REPAIRS_MAX


@pytest.mark.parametrize("event", [Event("link-removed", "abx-dev"), Event("link-removed", OUR_PORT)])
def test_k9_work_that_failed_is_tried_again_without_another_event(event, monkeypatch):
    monkeypatch.setattr("arcbox_net.network.watch.AGAIN_S", 0.01)
    attempts = []

    async def fails_once():
        attempts.append(event)
        if len(attempts) == 1:
            raise OSError(errno.EMFILE, "no descriptor left")
        done.set()

    async def watch():
        watch = Watch(
            SimpleNamespace(network="dev"),
            LAYOUT,
            fails_once,
            fails_once,
            fails_once,
            bridge_came_up=lambda: None,
            kernel=KERNEL,
        )
        watch._on_link(event)
        await asyncio.wait_for(done.wait(), 30)

    done = asyncio.Event()
    asyncio.run(watch())
    assert len(attempts) == 2
