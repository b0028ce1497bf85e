"""Reservations of the configuration from one start to the next."""

import asyncio
from ipaddress import IPv4Interface

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.config_dhcp import DhcpConfig, Reservation
from arcbox_net.errors import AddressInUse
from arcbox_net.network.addressing import Addressing
from arcbox_net.network.state import State
from arcbox_net.recipes.site import Layout
from arcbox_net.services.dhcp.link import InterfaceLink

GATEWAY = IPv4Interface("192.168.64.1/24")
LAYOUT = Layout("nat", "masquerade", "abx-dev", GATEWAY, GATEWAY.ip, True)
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
TEN, ELEVEN = "192.168.64.10", "192.168.64.11"


@pytest.fixture
def state(tmp_path):
    opened = State.open(tmp_path / "dev.db")
    yield opened
    opened.close()


def start(state, *reservations, former=(), then=None):
    """`(ip, mac, state)` of all leases after a start with *reservations*; *then* is done before the end."""

    async def scenario():
        config = NetConfig(
            dhcp=DhcpConfig(
                enabled=False, reservations=tuple(Reservation(mac, ip) for mac, ip in reservations)
            )
        )
        addressing = Addressing(
            "dev", config, LAYOUT, state, "dev.internal", InterfaceLink("br0", GATEWAY.ip)
        )
        try:
            await addressing.start(
                lambda _: None, lambda *_: None, [Reservation(mac, ip) for mac, ip in former]
            )
            if then is not None:
                await then(addressing)
            return [(lease.ip, lease.mac, lease.state) for lease in addressing.view()]
        finally:
            await addressing.stop()

    return asyncio.run(scenario())


def test_reservation_that_left_the_configuration_is_over(state):
    start(state, (A, TEN), (B, ELEVEN))
    assert start(state, (A, TEN), former=[(A, TEN), (B, ELEVEN)]) == [(TEN, A, "reserved")]


def test_reserved_address_can_go_to_another_mac(state):
    start(state, (A, TEN))
    assert start(state, (B, TEN), former=[(A, TEN)]) == [(TEN, B, "reserved")]


def test_two_reservations_can_change_places(state):
    start(state, (A, TEN), (B, ELEVEN))
    after = start(state, (A, ELEVEN), (B, TEN), former=[(A, TEN), (B, ELEVEN)])
    assert after == [(TEN, B, "reserved"), (ELEVEN, A, "reserved")]


def test_reservation_made_by_the_api_stays(state):
    async def reserve(addressing):
        await addressing.reserve(B, ELEVEN, None)

    start(state, (A, TEN), then=reserve)
    assert start(state, former=[(A, TEN)]) == [(ELEVEN, B, "reserved")]


def test_reservation_of_an_address_that_another_has_says_what_to_do(state):
    async def reserve(addressing):
        await addressing.reserve(B, TEN, None)

    start(state, then=reserve)
    with pytest.raises(AddressInUse) as caught:
        start(state, (A, TEN))
    assert caught.value.message.startswith(f"reservation of {TEN} for {A}: ")
    assert f"arcbox-net lease release dev {TEN}" in caught.value.fix
