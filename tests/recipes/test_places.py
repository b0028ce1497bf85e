"""Which networks live in a namespace of their own, and how their guests' packets leave."""

from __future__ import annotations

import pytest

from arcbox_net.config import Egress, NetConfig, NetworkMode
from arcbox_net.errors import ArcboxNetError, PermissionDenied, Unsupported
from arcbox_net.recipes import is_private
from arcbox_net.recipes.nat import choose_egress


@pytest.mark.parametrize(
    ("asked", "has_power", "chosen"),
    [
        (Egress.AUTO, True, Egress.MASQUERADE),
        (Egress.AUTO, False, Egress.RELAY),
        (Egress.MASQUERADE, True, Egress.MASQUERADE),
        (Egress.ENGINE, True, Egress.ENGINE),
        (Egress.RELAY, True, Egress.RELAY),
        (Egress.RELAY, False, Egress.RELAY),
    ],
)
def test_way_out_is_what_was_asked_for_or_what_the_powers_allow(
    asked: Egress, has_power: bool, chosen: Egress
) -> None:
    assert choose_egress(asked, has_power=has_power) is chosen
    engine = {"uplink": "eth0", "external_ip": "203.0.113.9"} if asked is Egress.ENGINE else {}
    config = NetConfig(mode=NetworkMode.NAT, egress=asked, **engine)
    assert is_private(config, has_power=has_power) is (chosen is Egress.RELAY)


@pytest.mark.parametrize("asked", [Egress.MASQUERADE, Egress.ENGINE])
def test_way_out_of_the_hosts_without_power_is_an_error_that_says_what_needs_none(asked: Egress) -> None:
    with pytest.raises(PermissionDenied) as raised:
        choose_egress(asked, has_power=False)
    assert "CAP_NET_ADMIN" in raised.value.message
    assert "auto" in (raised.value.fix or "")


@pytest.mark.parametrize("has_power", [True, False])
def test_way_out_that_nat_does_not_have_is_refused(has_power: bool) -> None:
    with pytest.raises(Unsupported):
        choose_egress(Egress.NONE, has_power=has_power)


@pytest.mark.parametrize("has_power", [True, False])
def test_host_only_network_is_private_exactly_without_power(has_power: bool) -> None:
    assert is_private(NetConfig(mode=NetworkMode.HOST_ONLY), has_power=has_power) is not has_power


def test_bridge_network_is_the_hosts_own_and_needs_power() -> None:
    config = NetConfig(mode=NetworkMode.BRIDGE, bridge="br0")
    assert not is_private(config, has_power=True)
    with pytest.raises(ArcboxNetError, match="CAP_NET_ADMIN"):
        is_private(config, has_power=False)
