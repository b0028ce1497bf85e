"""The lease table as programs use it: allocate, reserve, release, and what the disk gave back."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import pytest

from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError, PoolExhausted
from arcbox_net.services.dhcp.messages import DISCOVER, REQUEST
from arcbox_net.services.dhcp.records import ALLOCATED, BOUND, OFFERED, POOL, RELEASED, RESERVED, Lease
from tests.services.dhcp.site import MAC_A, MAC_B, SERVER_ID, Site, ip, mac, request


def allocate(site: Site, holder: str = "api", **more: object) -> IPv4Address:
    change = site.table.allocate(holder, now=site.now, **more)  # type: ignore[arg-type]
    assert site.commit(change)
    return change.ip


def test_programs_and_guests_share_one_pool() -> None:
    site = Site(pool=(ip(2), ip(4)))
    assert allocate(site) == ip(2)
    assert site.lease().ip == ip(3)
    assert allocate(site) == ip(4)
    with pytest.raises(PoolExhausted) as caught:
        site.table.allocate("api", now=site.now)
    assert caught.value.size == 3
    assert site.send(request(DISCOVER, chaddr=MAC_B)) is None


def test_an_asked_address_is_given_or_its_holder_named() -> None:
    site = Site()
    assert allocate(site, ip=ip(200)) == ip(200), "inside the subnet, outside the pool"
    with pytest.raises(AddressInUse) as caught:
        site.table.allocate("other", ip=ip(200), now=site.now)
    assert caught.value.holder == "api" and caught.value.address == "192.168.64.200"
    site.lease()
    with pytest.raises(AddressInUse, match="02:00:00:00:00:0a"):
        site.table.allocate("other", ip=ip(2), now=site.now)
    with pytest.raises(AddressInUse, match="the gateway"):
        site.table.allocate("other", ip=ip(1), now=site.now)


@pytest.mark.parametrize("wrong", ["192.168.64.0", "192.168.64.255", "10.0.0.1"])
def test_an_address_that_no_guest_can_have_is_refused(wrong: str) -> None:
    site = Site()
    with pytest.raises(ConfigError):
        site.table.allocate("api", ip=IPv4Address(wrong), now=site.now)
    with pytest.raises(ConfigError):
        site.table.reserve(MAC_A, IPv4Address(wrong), None, site.now)


def test_a_released_address_is_free_again() -> None:
    site = Site(pool=(ip(2), ip(2)))
    allocate(site)
    assert site.table.available == 0
    site.commit(site.table.release(ip(2), site.now))
    assert site.table.available == 1 and site.disk == {}
    with pytest.raises(AddressNotFound):
        site.table.release(ip(2), site.now)
    assert site.lease().ip == ip(2)


def test_a_port_gets_its_address_again_after_a_crash() -> None:
    site = Site()
    first = allocate(site, "port vm1", mac=MAC_A, hostname="vm1", port="vm1")
    again = site.restart()
    assert allocate(again) != first
    assert allocate(again, "port vm1", mac=MAC_A, hostname="vm1", port="vm1") == first
    assert again.disk[first].port == "vm1"


def test_a_port_keeps_what_its_mac_got_by_dhcp() -> None:
    site = Site()
    site.lease(MAC_B)
    assert site.lease(MAC_A, client_id=b"\xffx").ip == ip(3)
    assert allocate(site, "port vm1", mac=MAC_A, port="vm1") == ip(3)
    assert site.disk[ip(3)].kind == ALLOCATED and site.disk[ip(3)].is_bound(site.now)
    assert site.lease(MAC_A, client_id=b"\xffother", port="vm1").ip == ip(3)


def test_what_a_port_had_is_kept_for_its_mac_while_there_are_others() -> None:
    site = Site(pool=(ip(2), ip(3)))
    had = allocate(site, "port:vm1", mac=MAC_A, port="vm1")
    site.commit(site.table.release(had, site.now))
    assert site.table.available == 2
    assert allocate(site, "port:vm2", mac=MAC_B, port="vm2") != had
    assert allocate(site, "port:renamed", mac=MAC_A, port="renamed") == had
    site.commit(site.table.release(had, site.now))
    assert allocate(site) == had, "nothing else is free"


def test_a_port_with_another_address_than_before_frees_the_old_one() -> None:
    site = Site()
    allocate(site, "port vm1", mac=MAC_A)
    assert allocate(site, "port vm1", mac=MAC_A, ip=ip(7)) == ip(7)
    assert set(site.disk) == {ip(7)} and site.lease().ip == ip(7)


def test_a_mac_that_another_holder_has_is_refused() -> None:
    site = Site()
    allocate(site, "port vm1", mac=MAC_A)
    with pytest.raises(AddressInUse, match="port vm1"):
        site.table.allocate("port vm2", mac=MAC_A, now=site.now)
    with pytest.raises(AddressInUse, match="port vm1"):
        site.table.reserve(MAC_A, ip(7), None, site.now)


def test_attaching_a_reserved_mac_uses_the_reservation() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(8), "db", site.now))
    assert allocate(site, "port vm1", mac=MAC_A) == ip(8)
    assert site.disk[ip(8)].kind == RESERVED and site.disk[ip(8)].holder == "port vm1"
    with pytest.raises(AddressInUse):
        site.table.allocate("port vm1", mac=MAC_A, ip=ip(7), now=site.now)
    site.commit(site.table.release(ip(8), site.now))
    assert site.disk[ip(8)].kind == RESERVED and site.disk[ip(8)].holder is None, (
        "a release ends no reservation"
    )


def test_a_reservation_takes_over_the_binding_of_its_mac() -> None:
    site = Site()
    site.lease()
    site.commit(site.table.reserve(MAC_A, ip(2), "web", site.now))
    assert site.disk[ip(2)].is_bound(site.now) and site.disk[ip(2)].hostname == "web"
    with pytest.raises(AddressInUse):
        site.table.reserve(MAC_B, ip(2), None, site.now)


def test_a_reservation_can_be_moved_and_repeated() -> None:
    site = Site()
    for last in (5, 5, 6):
        site.commit(site.table.reserve(MAC_A, ip(last), None, site.now))
    assert set(site.disk) == {ip(6)} and site.lease().ip == ip(6)


def test_an_offered_address_can_be_reserved_and_is_then_refused_to_the_first() -> None:
    site = Site()
    site.send(request(DISCOVER))
    site.commit(site.table.reserve(MAC_B, ip(2), None, site.now))
    answer = site.send(request(REQUEST, wanted=ip(2), server_id=SERVER_ID))
    assert answer is not None and answer.kind == 6
    assert site.lease(MAC_B).ip == ip(2)


def test_the_end_of_a_reservation_leaves_a_bound_client_its_lease() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(5), "web", site.now))
    site.lease()
    site.commit(site.table.unreserve(ip(5), site.now))
    assert site.disk[ip(5)].kind == POOL and site.lease().ip == ip(5)
    with pytest.raises(AddressNotFound):
        site.table.unreserve(ip(5), site.now)
    site.commit(site.table.reserve(MAC_B, ip(6), None, site.now))
    site.commit(site.table.unreserve(ip(6), site.now))
    assert ip(6) not in site.disk


def test_a_listing_shows_what_has_an_owner_now() -> None:
    site = Site()
    allocate(site, ip=ip(9))
    site.commit(site.table.reserve(mac(8), ip(8), None, site.now))
    site.lease(mac(2))
    site.lease(mac(3))
    site.send(request(DISCOVER, chaddr=mac(4)))
    site.send(request(7, chaddr=mac(3), ciaddr=int(ip(3))))
    assert [(lease.ip, lease.status(site.now)) for lease in site.table.view(site.now)] == [
        (ip(2), BOUND),
        (ip(4), OFFERED),
        (ip(8), RESERVED),
        (ip(9), ALLOCATED),
    ]
    site.wait(3601)
    assert [lease.ip for lease in site.table.view(site.now)] == [ip(8), ip(9)]
    assert site.table.available == 8 - 2


def test_expiry_is_told_once_and_only_for_bound_clients() -> None:
    site = Site()
    site.lease(mac(2))
    site.lease(mac(3))
    site.send(request(7, chaddr=mac(3), ciaddr=int(ip(3))))
    assert site.wait(3599) == []
    assert [lease.ip for lease in site.wait(1)] == [ip(2)]
    assert site.wait(10_000) == []


def test_a_renewed_lease_does_not_end_when_the_first_would_have() -> None:
    site = Site()
    site.lease()
    site.wait(3000)
    site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert site.wait(1000) == [] and len(site.wait(2600)) == 1


def test_endless_renewals_do_not_grow_the_table() -> None:
    site = Site()
    site.lease()
    for _ in range(1000):
        site.wait(1)
        site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert len(site.table._ends) < 100
    assert len(site.wait(3600)) == 1


def test_leases_that_no_longer_fit_are_left_out() -> None:
    clock = Site().now
    bound = Lease(
        ip(20), identity=b"\x01" + MAC_A, mac=MAC_A, lease_s=60, expires_wall=clock.wall + 60,
        expires_mono=clock.mono + 60, boot=clock.boot,
    )  # fmt: skip
    foreign = dataclasses.replace(bound, ip=IPv4Address("10.0.0.5"), identity=b"x")
    gateway = dataclasses.replace(bound, ip=ip(1), identity=b"y")
    over = dataclasses.replace(bound, ip=ip(21), identity=b"z", expires_mono=clock.mono - 1)
    site = Site([bound, foreign, gateway, over])
    assert [lease.ip for lease in site.table.view(site.now)] == [ip(20)], "outside the pool, but still bound"


def test_of_two_rows_of_one_client_the_later_counts() -> None:
    site = Site()
    site.lease()
    old = dataclasses.replace(site.disk[ip(2)], ip=ip(5), state=RELEASED, expires_mono=site.now.mono - 50)
    again = Site([*site.disk.values(), old], clock=site.now)
    assert again.lease().ip == ip(2)
    assert again.table.holder(ip(5)) is None


def test_two_changes_under_way_and_the_first_fails() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    payload = request(REQUEST, wanted=offer.ip, server_id=SERVER_ID)
    first = site.server.handle(payload, MAC_A, None, site.now)
    second = site.server.handle(payload, MAC_A, None, site.now)
    site.table.failed(first.changes, site.now)
    assert site.send(request(DISCOVER, chaddr=MAC_B, wanted=ip(2))) is not None
    assert site.decision.reply is not None and site.table.view(site.now)[0].mac == MAC_A
    site.commit(*second.changes)
    assert site.disk[ip(2)].mac == MAC_A


def test_what_a_failed_write_may_have_left_is_written_again() -> None:
    site = Site()
    site.lease()
    site.commit(site.table.reserve(MAC_A, ip(5), None, site.now))
    site.refuse = True
    site.send(request(DISCOVER))
    site.send(request(REQUEST, wanted=ip(5), server_id=SERVER_ID))
    assert {change.ip for change in site.table.doubtful()} == {ip(2), ip(5)}
    assert site.table.doubtful()[0].lease == site.disk[ip(2)]
    site.refuse = False
    site.lease(MAC_B)
    assert site.table.doubtful() == []
