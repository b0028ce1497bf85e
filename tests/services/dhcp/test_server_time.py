"""Who gets an address when they are few, and for how long."""

from __future__ import annotations

import pytest

from arcbox_net.services.dhcp.messages import (
    DECLINE,
    DISCOVER,
    OPT_LEASE_S,
    OPT_T1,
    OPT_T2,
    RELEASE,
    REQUEST,
    DropReason,
)
from arcbox_net.services.dhcp.records import Clock
from tests.services.dhcp.site import MAC_A, MAC_B, Site, ip, mac, request, u32

YEAR_S = 365 * 86400.0


def test_d14_an_exhausted_pool_is_silent_and_evicts_nobody() -> None:
    site = Site(pool=(ip(2), ip(4)))
    held = [site.lease(mac(n)).ip for n in range(3)]
    assert site.send(request(DISCOVER)) is None and site.drop is DropReason.POOL_EXHAUSTED
    assert [site.disk[address].is_bound(site.now) for address in held] == [True] * 3


def test_d14_the_address_that_ended_first_is_reused_first() -> None:
    site = Site(pool=(ip(2), ip(4)))
    for number in (0, 1, 2):
        site.lease(mac(number))
        site.wait(100)
    site.send(request(REQUEST, chaddr=mac(0), ciaddr=int(ip(2))))
    site.wait(3600 - 100)
    assert site.lease(mac(7)).ip == ip(3)
    assert site.disk[ip(3)].mac == mac(7)


def test_d14_an_address_rests_ten_seconds_after_its_end_before_another_gets_it() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.lease()
    site.wait(3609)
    assert site.send(request(DISCOVER, chaddr=MAC_B)) is None
    site.wait(1)
    assert site.lease(MAC_B).ip == ip(2)


def test_d14_a_client_that_comes_back_gets_its_ended_address() -> None:
    site = Site()
    site.lease()
    site.wait(4000)
    assert site.lease(MAC_B).ip == ip(3)
    assert site.lease(MAC_A).ip == ip(2)


def test_d14_one_guest_port_gets_four_addresses() -> None:
    site = Site()
    for number in range(4):
        site.lease(client_id=bytes((0, number)), port="vm1")
    assert site.send(request(DISCOVER, client_id=b"\0x"), port="vm1") is None
    assert site.drop is DropReason.PORT_LIMIT
    assert site.send(request(REQUEST, client_id=b"\0x", ciaddr=int(ip(9))), port="vm1") is None
    assert site.drop is DropReason.PORT_LIMIT
    site.lease(MAC_B, port="vm2")
    site.send(request(RELEASE, client_id=b"\0\x01", ciaddr=int(ip(3))), port="vm1")
    site.lease(client_id=b"\0x", port="vm1")


def test_d14_declining_does_not_get_a_guest_more_addresses() -> None:
    site = Site(pool=(ip(2), ip(100)))
    for _ in range(4):
        offer = site.send(request(DISCOVER), port="vm1")
        assert offer is not None
        site.send(request(DECLINE, wanted=offer.ip), port="vm1")
    assert site.send(request(DISCOVER), port="vm1") is None and site.drop is DropReason.PORT_LIMIT


def test_d14_offers_count_and_lapse() -> None:
    site = Site()
    for number in range(4):
        assert site.send(request(DISCOVER, client_id=bytes((0, number))), port="vm1") is not None
    assert site.send(request(DISCOVER, client_id=b"\0x"), port="vm1") is None
    site.wait(31)
    assert site.send(request(DISCOVER, client_id=b"\0x"), port="vm1") is not None


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, 3600), (0, 120), (1, 120), (119, 120), (120, 120), (5000, 5000), (7200, 7200), (7201, 7200),
     (0x7FFFFFFF, 7200), (0xFFFFFFFE, 7200), (0xFFFFFFFF, 7200)],
)  # fmt: skip
def test_d15_the_asked_lease_time_is_clamped(asked: int | None, given: int) -> None:
    site = Site(max_lease_s=7200)
    ack = site.lease(options={} if asked is None else {OPT_LEASE_S: u32(asked)})
    assert ack.lease_s == given
    assert ack.message.options[OPT_T1] == u32(given // 2) and ack.message.options[OPT_T2] == u32(
        given * 7 // 8
    )
    assert site.disk[ip(2)].expires_s(site.now) == given


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S, 3600.0, -3600.0])
def test_d15_setting_the_wall_clock_neither_ends_nor_prolongs_a_lease(jump: float) -> None:
    site = Site()
    site.lease()
    site.now = Clock(site.now.wall + jump, site.now.mono, site.now.boot)
    assert site.disk[ip(2)].is_bound(site.now) and site.wait(0) == []
    again = site.restart()
    assert again.table.view(again.now)[0].expires_s(again.now) == 3600
    assert [lease.ip for lease in site.wait(3601)] == [ip(2)]


@pytest.mark.parametrize(("jump", "left"), [(0.0, 3600.0), (-YEAR_S, 3600.0), (600.0, 3000.0)])
def test_d15_after_a_reboot_the_wall_clock_counts_up_to_a_whole_lease(jump: float, left: float) -> None:
    site = Site()
    site.lease()
    again = site.restart(rebooted=True, wall_jump=jump)
    assert again.table.view(again.now)[0].expires_s(again.now) == pytest.approx(left)


def test_d15_a_lease_that_seems_over_after_a_reboot_is_still_kept_for_its_client() -> None:
    site = Site()
    site.lease()
    again = site.restart(rebooted=True, wall_jump=YEAR_S)
    assert again.lease(MAC_B).ip == ip(3)
    assert again.lease(MAC_A).ip == ip(2)
