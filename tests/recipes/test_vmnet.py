"""Networks of macOS: what is made of a configuration, and what is refused before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Network

import pytest

from arcbox_net.config import Egress, HostAccess, NetConfig, NetworkMode
from arcbox_net.config_dhcp import DhcpConfig
from arcbox_net.config_dns import DnsConfig
from arcbox_net.errors import (
    ArcboxNetError,
    ConfigError,
    InterfaceNotFound,
    ServiceError,
    SubnetConflict,
    Unsupported,
)
from arcbox_net.recipes.site import Layout, NetworkSite
from arcbox_net.recipes.vmnet import AUTO_SUBNETS_MAX, VmnetRecipe, with_pool
from tests.support.vmnet import Standin

BUSY, NO_MEMORY = 1009, 1002


@pytest.fixture
def standin() -> Iterator[Standin]:
    standin = Standin()
    before = standin.running
    yield standin
    standin.reset()
    assert standin.running == before, "an interface was left running"


def opened(config: NetConfig, previous: Layout | None = None, *, privileged: bool = True) -> Layout:
    """What a network of *config* is, which ends again at once."""
    interface, layout = VmnetRecipe(lambda: privileged).open(
        NetworkSite(network="dev", config=config), previous
    )
    interface.stop()
    return layout


def test_a_nat_network_is_what_the_system_says(standin: Standin) -> None:
    layout = opened(NetConfig())
    assert layout.address == IPv4Interface("192.168.64.1/24") and layout.router == layout.gateway
    assert layout.subnet6 == IPv6Network("fd9b:5a14:ba57:e3d3::/64")
    assert (layout.mode, layout.egress, layout.bridge) == ("nat", "vmnet", "")
    assert Layout.from_json(layout.to_json()) == layout


def test_a_host_only_network_has_no_way_out(standin: Standin) -> None:
    assert opened(NetConfig(mode=NetworkMode.HOST_ONLY)).router is None


def test_a_bridge_network_has_no_addresses_of_ours(standin: Standin) -> None:
    layout = opened(NetConfig(mode=NetworkMode.BRIDGE, nic="en0"), privileged=False)
    assert layout.address is None and layout.address6 is None and layout.nic == "en0"


def test_a_restart_has_the_subnet_of_before(standin: Standin) -> None:
    before = opened(NetConfig(subnet="192.168.90.0/24"))
    assert opened(NetConfig(), before).subnet == IPv4Network("192.168.90.0/24")
    assert opened(NetConfig(mode=NetworkMode.HOST_ONLY), before).subnet == IPv4Network("10.0.0.0/24")


@pytest.mark.parametrize(
    ("subnet", "last", "pool"),
    [
        ("192.168.90.0/24", "192.168.90.9", ("192.168.90.10", "192.168.90.254")),
        ("192.168.90.0/28", "192.168.90.3", ("192.168.90.4", "192.168.90.14")),
        ("192.168.90.0/29", "192.168.90.2", ("192.168.90.3", "192.168.90.6")),
    ],
)
def test_the_systems_server_and_ours_share_no_address(
    standin: Standin, subnet: str, last: str, pool: tuple[str, str]
) -> None:
    config = NetConfig(subnet=subnet)
    interface, _ = VmnetRecipe(lambda: True).open(NetworkSite(network="dev", config=config), None)
    with interface:
        assert standin.asked("end_address") == last
    assert with_pool(config, IPv4Network(subnet)).dhcp.pool == pool


def test_a_pool_of_the_configuration_stays() -> None:
    config = NetConfig(dhcp=DhcpConfig(pool=("192.168.64.2", "192.168.64.5")))
    assert with_pool(config, IPv4Network("192.168.64.0/24")) == config


def test_no_subnet_is_tried_twice(standin: Standin) -> None:
    before = opened(NetConfig())
    standin.fail("vmnet_start_interface", BUSY, 1)
    assert opened(NetConfig(), before).subnet == IPv4Network("192.168.65.0/24")


def test_it_ends_to_look_for_a_subnet_at_some_time(standin: Standin) -> None:
    standin.fail("vmnet_start_interface", BUSY, AUTO_SUBNETS_MAX)
    with pytest.raises(SubnetConflict, match=r"192\.168\.79\.0/24"):
        opened(NetConfig())
    standin.fail("vmnet_start_interface", BUSY, AUTO_SUBNETS_MAX - 1)
    assert opened(NetConfig()).address is not None


def test_what_has_to_do_with_no_subnet_is_not_tried_again(standin: Standin) -> None:
    standin.fail("vmnet_start_interface", NO_MEMORY, 1)
    with pytest.raises(ArcboxNetError) as caught:
        opened(NetConfig())
    assert not isinstance(caught.value, ServiceError | SubnetConflict)


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        (NetConfig(egress=Egress.RELAY), Unsupported, "egress relay"),
        (NetConfig(host_access=(HostAccess("tcp", 80),)), Unsupported, "host_access"),
        (NetConfig(mode=NetworkMode.BRIDGE, bridge="br0"), Unsupported, "bridge"),
        (NetConfig(mode=NetworkMode.BRIDGE, nic="en7"), InterfaceNotFound, "en7"),
        (
            NetConfig(mode=NetworkMode.BRIDGE, nic="en0", dhcp=DhcpConfig(lease_s=300)),
            Unsupported,
            "dhcp.lease_s",
        ),
        (NetConfig(mode=NetworkMode.BRIDGE, nic="en0", dns=DnsConfig(enabled=True)), Unsupported, "dns.en"),
        (NetConfig(subnet="192.168.64.0/24", gateway="192.168.64.2"), Unsupported, "gateway"),
    ],
)
def test_what_macos_cannot_do_is_refused(
    standin: Standin, config: NetConfig, error: type[ArcboxNetError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        opened(config)
    assert caught.value.fix


def test_an_mtu_that_vmnet_has_not_is_refused(standin: Standin) -> None:
    with pytest.raises(ConfigError, match="MTU"):
        opened(NetConfig(mtu=600))
