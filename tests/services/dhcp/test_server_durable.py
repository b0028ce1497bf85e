"""What the server answers while the disk is slow, refuses, or was all that is left."""

from __future__ import annotations

from arcbox_net.services.dhcp.messages import (
    ACK,
    DISCOVER,
    OPT_T1,
    RELEASE,
    REQUEST,
    DropReason,
)
from tests.services.dhcp.site import MAC_A, MAC_B, SERVER_ID, Site, ip, request, u32


def test_d11_a_request_repeated_while_the_first_is_not_durable_waits_as_well() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    payload = request(REQUEST, wanted=offer.ip, server_id=SERVER_ID)
    first = site.server.handle(payload, MAC_A, None, site.now)
    second = site.server.handle(payload, MAC_A, None, site.now)
    assert first.changes and second.changes


def test_d11_ack_only_after_durable() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    decision = site.server.handle(
        request(REQUEST, wanted=offer.ip, server_id=SERVER_ID), MAC_A, None, site.now
    )
    assert decision.reply is not None and decision.changes[0].lease is not None
    assert decision.changes[0].lease.ip == offer.ip, "the reply comes with what has to be durable first"


def test_d12_a_binding_under_way_is_not_offered_to_another() -> None:
    site = Site(pool=(ip(2), ip(2)))
    offer = site.send(request(DISCOVER))
    assert offer is not None
    site.server.handle(request(REQUEST, wanted=ip(2), server_id=SERVER_ID), MAC_A, None, site.now)
    assert site.send(request(DISCOVER, chaddr=MAC_B)) is None


def test_d12_leases_of_before_a_restart_are_not_given_away() -> None:
    site = Site()
    site.lease(MAC_B)
    again = site.restart()
    assert again.lease(MAC_A).ip == ip(3)
    assert again.lease(MAC_B).ip == ip(2)


def test_d13_without_space_a_renewal_gets_what_is_left_of_its_durable_lease() -> None:
    site = Site()
    site.lease()
    site.wait(1000)
    site.refuse = True
    ack = site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert ack is not None and ack.kind == ACK and ack.ip == ip(2) and ack.lease_s == 2600
    assert ack.message.options[OPT_T1] == u32(1300)
    site.wait(2601)
    assert site.send(request(REQUEST, ciaddr=int(ip(2)))) is None


def test_d13_without_space_a_new_client_hears_nothing_and_its_address_stays_free() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.refuse = True
    site.send(request(DISCOVER))
    assert site.send(request(REQUEST, wanted=ip(2), server_id=SERVER_ID)) is None
    assert site.server.drops[DropReason.NOT_DURABLE] == 1
    site.refuse = False
    assert site.lease(MAC_B).ip == ip(2)


def test_d13_space_brings_the_service_back_without_a_restart() -> None:
    site = Site()
    site.refuse = True
    site.send(request(DISCOVER))
    site.send(request(REQUEST, wanted=ip(2), server_id=SERVER_ID))
    site.refuse = False
    assert site.lease().ip in (ip(2), ip(3))
    assert len([lease for lease in site.disk.values() if lease.is_bound(site.now)]) == 1


def test_d13_a_release_that_is_not_durable_leaves_the_lease() -> None:
    site = Site()
    site.lease()
    site.refuse = True
    site.send(request(RELEASE, ciaddr=int(ip(2)), server_id=SERVER_ID))
    site.refuse = False
    assert [lease.ip for lease in site.table.view(site.now)] == [ip(2)]
