"""Names and MACs of guest ports."""

from types import SimpleNamespace

import msgspec
import pytest

from arcbox_net.addresses import bridge_mac
from arcbox_net.config import NetConfig
from arcbox_net.config_ports import PAIRS_MAX, PATH_BYTES_MAX, UID_MAX
from arcbox_net.errors import ConfigError, PortExists
from arcbox_net.network.guest_port import PortRequest, Socket
from arcbox_net.network.ports import PortTable
from arcbox_net.recipes.site import Layout

LAYOUT = Layout("bridge", "none", "br0", None, None, False)


@pytest.fixture
def table():
    return PortTable(SimpleNamespace(network="dev", config=NetConfig()), LAYOUT)


@pytest.fixture
def attached(table):
    port = table.plan(PortRequest("tap"), "guest0", table.choose_mac(None, "guest0"), None)
    table.add(port)
    return port


def test_no_port_gets_the_bridges_own_mac(table):
    assert table.choose_mac(None, "bridge") != bridge_mac("dev")
    with pytest.raises(ConfigError, match="bridge"):
        table.choose_mac(bridge_mac("dev").upper(), "vm1")


def test_made_up_name_is_none_that_a_forward_waits_for(table, attached):
    assert table.choose_name(None) == "guest1"
    assert table.choose_name(None, {"guest1", "guest2"}) == "guest3"
    assert table.choose_name("guest1", {"guest1"}) == "guest1", "asked for by name, it is meant"


def test_tap_is_planned_as_asked(table):
    plan = table.plan(
        PortRequest("tap", queues=4, vnet_hdr=False, owner_uid=0), "vm", "02:00:00:00:00:01", None
    ).plan
    assert (plan.queues, plan.vnet_hdr, plan.owner_uid) == (4, False, 0)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (PortRequest("tap", queues=0), "queues"),
        (PortRequest("tap", queues=-1), "queues"),
        (PortRequest("tap", queues=10**30), "queues"),
        (PortRequest("tap", owner_uid=-1), "owner_uid"),
        (PortRequest("tap", owner_uid=UID_MAX), "owner_uid"),
        (PortRequest("tap", hostname="ä"), "hostname"),
        (PortRequest("tap", hostname="a\0b"), "hostname"),
        (PortRequest("pipe"), "kind"),
        (PortRequest("netns"), "netns"),
        (PortRequest("netns", netns="a", pid=1), "netns"),
        (PortRequest("netns", netns=""), "netns"),
        (PortRequest("netns", netns="a\0b"), "netns"),
        (PortRequest("netns", pid=0), "pid"),
        (PortRequest("netns", pid=1, ifname="a/b"), "ifname"),
        (PortRequest("netns", pid=1, ifname="sixteen-byte-name"), "ifname"),
        (PortRequest("netns", pid=1, ifname='e"accept'), "ifname"),
        (PortRequest("netns", pid=1, ifname="eth*"), "ifname"),
    ],
)
def test_bad_request_names_its_field(table, request_, field):
    with pytest.raises(ConfigError) as caught:
        table.plan(request_, "vm1", "02:00:00:00:00:01", None)
    assert caught.value.field == field


def restored(table, name, kind):
    row = {"kind": kind, "ifname": f"abx-{name}", "mac": "02:00:00:00:00:02", "ips": [], "hostname": None}
    row |= {"netns": "ns", "attached_ns": 0, "queues": 1, "persist": False}
    return table.restore(name, row)


@pytest.mark.parametrize(
    ("is_private", "others", "large"),
    [
        pytest.param(True, [], True, id="private"),
        pytest.param(True, ["netns"], True, id="beside-a-namespace"),
        pytest.param(True, ["netns", "tap"], False, id="beside-a-vm"),
        pytest.param(False, [], False, id="on-the-host"),
    ],
)
def test_large_frames_are_for_networks_in_which_nobody_has_to_cut_them(is_private, others, large):
    site = SimpleNamespace(network="dev", config=NetConfig(), is_private=is_private)
    table = PortTable(site, LAYOUT)
    for index, kind in enumerate(others):
        table.add(restored(table, f"other{index}", kind))
    assert restored(table, "guest", "netns").plan.large_frames is large


def at_socket(table, kind="stream", name="vm1", **fields):
    request = PortRequest(kind, socket=fields.pop("socket", "/run/vm1.sock"), **fields)
    return table.plan(request, name, table.choose_mac(None, name), None)


def test_guest_at_a_socket_is_behind_the_uplink_and_comes_back_from_its_row(table):
    port = at_socket(table, "dgram", remote="/run/guest.sock", owner_uid=1000)
    assert port.plan.ifname == "abx-ef260_up" and port.plan.port == "vm1"
    assert port.socket == Socket("/run/vm1.sock", remote="/run/guest.sock", owner_uid=1000)
    assert table.restore("vm1", port.to_row()) == port


STREAM = PortRequest("stream", name="vm1", socket="/run/vm1.sock", mac="02:00:00:00:00:01")
TAP = PortRequest("tap", name="vm1", queues=2, persist=True)
OWNED_TAP = PortRequest("tap", name="vm1", queues=2, persist=True, owner_uid=1000)


@pytest.mark.parametrize("request_", [STREAM, TAP, OWNED_TAP], ids=["stream", "tap", "owned-tap"])
def test_port_of_an_earlier_run_is_what_its_own_request_asks_for(table, request_):
    port = table.plan(request_, "vm1", request_.mac or table.choose_mac(None, "vm1"), None)
    assert table.is_as(table.restore("vm1", port.to_row()), request_)


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        (STREAM, {"mac": "02:00:00:00:00:02"}),
        (STREAM, {"ip": "10.7.0.9"}),
        (STREAM, {"hostname": "db"}),
        (STREAM, {"socket": "/run/vm2.sock"}),
        (STREAM, {"connect": True}),
        (STREAM, {"owner_uid": 1000}),
        (STREAM, {"kind": "vhost-user"}),
        (TAP, {"queues": 1}),
        (TAP, {"owner_uid": 1000}),
        (TAP, {"persist": False}),  # goes when whoever holds it ends
    ],
)
def test_port_of_an_earlier_run_is_not_what_another_request_asks_for(table, request_, change):
    port = table.plan(request_, "vm1", request_.mac or table.choose_mac(None, "vm1"), None)
    assert not table.is_as(port, msgspec.structs.replace(request_, **change))


def test_vhost_user_port_offers_as_many_queue_pairs_as_asked_or_configured(table):
    assert at_socket(table, "vhost-user", queues=PAIRS_MAX).socket.queues == PAIRS_MAX
    assert at_socket(table, "vhost-user").socket.queues == 1
    with pytest.raises(ConfigError, match=f"1 to {PAIRS_MAX}"):
        at_socket(table, "vhost-user", queues=PAIRS_MAX + 1)


def test_socket_path_is_absolute_and_one_the_kernel_takes(table):
    longest = "/" + "a" * (PATH_BYTES_MAX - 1)
    assert at_socket(table, socket=longest).socket.path == longest
    for path in ("vm1.sock", "", None, "/run/\0", longest + "a", "/" + "ä" * (PATH_BYTES_MAX // 2 + 1)):
        with pytest.raises(ConfigError, match="socket"):
            at_socket(table, socket=path)
    with pytest.raises(ConfigError, match="remote"):
        at_socket(table, "dgram", remote="guest.sock")
    with pytest.raises(ConfigError, match="remote"):
        at_socket(table, "stream", remote="/run/guest.sock")
    with pytest.raises(ConfigError, match="our own socket"):
        at_socket(table, "dgram", remote="/run/vm1.sock")


def test_two_ports_never_share_a_socket(table):
    table.add(at_socket(table, "dgram", remote="/run/guest.sock"))
    for path in ("/run/vm1.sock", "/run/guest.sock"):
        with pytest.raises(PortExists, match="vm1"):
            at_socket(table, name="vm2", socket=path)
