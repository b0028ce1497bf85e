"""What the server answers, row by row (RFC 2131 and what it grew), without a socket."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from arcbox_net.services.dhcp.messages import (
    ACK,
    DECLINE,
    DISCOVER,
    INFORM,
    NAK,
    OFFER,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_T1,
    RELEASE,
    REQUEST,
    DropReason,
)
from arcbox_net.services.dhcp.records import BOUND, DECLINED, RESERVED
from arcbox_net.services.dhcp.replies import BROADCAST_MAC
from tests.services.dhcp.site import GATEWAY, MAC_A, MAC_B, SERVER_ID, Site, ip, mac, request


def test_d1_discover_offer_request_ack() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None and offer.kind == OFFER and offer.ip == ip(2)
    assert not site.decision.changes, "an offer needs no durability"
    ack = site.send(request(REQUEST, wanted=offer.ip, server_id=SERVER_ID))
    assert ack is not None and ack.kind == ACK and ack.ip == ip(2)
    assert site.disk[ip(2)].mac == MAC_A and site.disk[ip(2)].state == BOUND


def test_d1_selecting_an_address_that_was_not_offered_is_refused() -> None:
    site = Site()
    site.lease(MAC_B)
    site.send(request(DISCOVER))
    answer = site.send(request(REQUEST, wanted=ip(2), server_id=SERVER_ID))
    assert answer is not None and answer.kind == NAK


def test_d1_an_offer_survives_a_restart_while_its_address_is_free() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    ack = site.restart().send(request(REQUEST, wanted=offer.ip, server_id=SERVER_ID))
    assert ack is not None and ack.kind == ACK


def test_d2_init_reboot_with_the_right_address_is_acknowledged() -> None:
    site = Site()
    site.lease()
    ack = site.send(request(REQUEST, wanted=ip(2)))
    assert ack is not None and ack.kind == ACK and ack.ip == ip(2)


@pytest.mark.parametrize("wanted", [IPv4Address("10.1.2.3"), ip(5)], ids=["wrong-net", "another-address"])
def test_d2_init_reboot_of_a_known_client_with_a_wrong_address_is_refused_by_broadcast(
    wanted: IPv4Address,
) -> None:
    site = Site()
    site.lease()
    nak = site.send(request(REQUEST, wanted=wanted))
    assert nak is not None and nak.kind == NAK
    assert nak.reply.mac == BROADCAST_MAC and nak.reply.ip == 0xFFFFFFFF and nak.message.yiaddr == 0


def test_d2_init_reboot_of_an_unknown_client_on_the_wrong_net_is_refused() -> None:
    nak = Site().send(request(REQUEST, wanted=IPv4Address("10.1.2.3")))
    assert nak is not None and nak.kind == NAK


def test_d2_init_reboot_of_an_unknown_client_is_not_answered() -> None:
    site = Site()
    assert site.send(request(REQUEST, wanted=ip(5))) is None
    assert site.drop is DropReason.UNKNOWN_CLIENT and not site.decision.changes


def test_d3_renewing_extends_the_lease_and_answers_to_its_address() -> None:
    site = Site()
    site.lease()
    site.wait(1800)
    ack = site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert ack is not None and ack.kind == ACK and ack.lease_s == 3600
    assert ack.message.ciaddr == ack.message.yiaddr == int(ip(2))
    assert (ack.reply.ip, ack.reply.mac) == (int(ip(2)), MAC_A)
    assert site.disk[ip(2)].expires_s(site.now) == 3600


def test_d3_renewing_anothers_address_is_refused() -> None:
    site = Site()
    site.lease(MAC_B)
    nak = site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert nak is not None and nak.kind == NAK
    assert site.disk[ip(2)].mac == MAC_B


def test_d4_rebinding_of_a_lease_that_was_lost_keeps_a_free_address() -> None:
    ack = Site().send(request(REQUEST, ciaddr=int(ip(7))))
    assert ack is not None and ack.kind == ACK and ack.ip == ip(7)


def test_d4_rebinding_from_another_network_is_refused() -> None:
    nak = Site().send(request(REQUEST, ciaddr=int(IPv4Address("10.0.0.9"))))
    assert nak is not None and nak.kind == NAK


@pytest.mark.parametrize(
    "wrong", [ip(0), ip(1), ip(255), ip(200)], ids=["network", "gateway", "broadcast", "no-pool"]
)
def test_d4_an_address_outside_the_pool_is_never_granted(wrong: IPv4Address) -> None:
    site = Site()
    for payload in (request(REQUEST, ciaddr=int(wrong)), request(REQUEST, wanted=wrong, server_id=SERVER_ID)):
        nak = site.send(payload)
        assert nak is not None and nak.kind == NAK
    assert site.disk == {}


def test_d5_release_is_not_answered_and_keeps_the_address_for_its_client() -> None:
    site = Site()
    site.lease()
    assert site.send(request(RELEASE, ciaddr=int(ip(2)), server_id=SERVER_ID)) is None
    assert not site.disk[ip(2)].is_bound(site.now)
    assert site.lease(MAC_B).ip == ip(3)
    assert site.lease(MAC_A).ip == ip(2)


def test_d5_a_guest_cannot_release_anothers_address() -> None:
    site = Site()
    site.lease(MAC_B)
    site.send(request(RELEASE, ciaddr=int(ip(2)), server_id=SERVER_ID))
    assert site.drop is DropReason.BAD_ADDRESS and site.disk[ip(2)].is_bound(site.now)


def test_d5_a_release_for_another_server_changes_nothing() -> None:
    site = Site()
    site.lease()
    site.send(request(RELEASE, ciaddr=int(ip(2)), server_id=ip(9).packed))
    assert site.drop is DropReason.OTHER_SERVER and site.disk[ip(2)].is_bound(site.now)


def test_d6_a_declined_address_is_put_away_for_ten_minutes() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.lease()
    assert site.send(request(DECLINE, wanted=ip(2), server_id=SERVER_ID)) is None
    assert site.disk[ip(2)].state == DECLINED
    site.wait(599)
    assert site.send(request(DISCOVER)) is None and site.drop is DropReason.POOL_EXHAUSTED
    site.wait(2)
    assert site.lease(MAC_B).ip == ip(2)


def test_d6_the_quarantine_survives_a_restart() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.lease()
    site.send(request(DECLINE, wanted=ip(2), server_id=SERVER_ID))
    again = site.restart()
    assert again.send(request(DISCOVER)) is None
    again.wait(601)
    assert again.lease().ip == ip(2)


def test_d6_an_offered_address_can_be_declined() -> None:
    site = Site()
    site.send(request(DISCOVER))
    site.send(request(DECLINE, wanted=ip(2), server_id=SERVER_ID))
    assert site.disk[ip(2)].state == DECLINED
    assert site.lease().ip == ip(3)


def test_d6_a_guest_cannot_decline_anothers_address() -> None:
    site = Site()
    site.lease(MAC_B)
    site.send(request(DECLINE, wanted=ip(2), server_id=SERVER_ID))
    assert site.drop is DropReason.BAD_ADDRESS and site.disk[ip(2)].state == BOUND


def test_d6_declining_a_reserved_address_is_counted_and_the_address_stays() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(5), None, site.now))
    site.lease()
    site.send(request(DECLINE, wanted=ip(5), server_id=SERVER_ID))
    assert site.drop is DropReason.DECLINED
    assert site.lease().ip == ip(5)


def test_d6_a_reused_address_is_probed_before_it_is_offered() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.lease(MAC_B)
    assert site.decision.probe == 0
    site.wait(3600 + 60)
    offer = site.send(request(DISCOVER))
    assert offer is not None and site.decision.probe == int(ip(2))
    changes = site.server.conflict(site.decision, site.now)
    site.commit(*changes)
    assert site.disk[ip(2)].state == DECLINED
    assert site.send(request(DISCOVER)) is None


def test_d7_inform_is_answered_without_a_lease_to_the_clients_own_address() -> None:
    site = Site()
    ack = site.send(request(INFORM, ciaddr=int(ip(77))))
    assert ack is not None and ack.kind == ACK and ack.message.yiaddr == 0
    assert (ack.reply.ip, ack.reply.mac, ack.message.ciaddr) == (int(ip(77)), MAC_A, int(ip(77)))
    assert OPT_LEASE_S not in ack.message.options and OPT_T1 not in ack.message.options
    assert ack.message.options[6] == GATEWAY.packed
    assert not site.decision.changes and site.table.view(site.now) == []


@pytest.mark.parametrize("ciaddr", [0, int(IPv4Address("8.8.8.8"))])
def test_d7_inform_from_elsewhere_is_not_answered(ciaddr: int) -> None:
    site = Site()
    assert site.send(request(INFORM, ciaddr=ciaddr)) is None and site.drop is DropReason.BAD_ADDRESS


def test_d8_choosing_another_server_withdraws_the_offer() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.send(request(DISCOVER))
    assert site.send(request(DISCOVER, chaddr=MAC_B)) is None
    assert site.send(request(REQUEST, wanted=ip(77), server_id=ip(99).packed)) is None
    assert site.drop is DropReason.OTHER_SERVER
    assert site.lease(MAC_B).ip == ip(2)


def test_d8_an_offer_lapses() -> None:
    site = Site(pool=(ip(2), ip(2)))
    site.send(request(DISCOVER))
    site.wait(31)
    assert site.lease(MAC_B).ip == ip(2)


def test_d9_a_repeated_request_gets_the_identical_ack() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    payload = request(REQUEST, wanted=offer.ip, server_id=SERVER_ID)
    first = site.send(payload)
    site.wait(3)
    second = site.send(payload)
    assert first is not None and second is not None and first.reply == second.reply


def test_d9_a_request_repeated_at_once_is_not_written_again() -> None:
    site = Site()
    site.lease()
    renewal = request(REQUEST, ciaddr=int(ip(2)))
    site.wait(0.5)
    assert site.send(renewal) is not None and not site.decision.changes
    assert site.send(request(REQUEST, ciaddr=int(ip(2)), options={OPT_HOSTNAME: b"new"})) is not None
    assert site.decision.changes, "a new name is a change"
    site.wait(1)
    assert site.send(renewal) is not None and site.decision.changes


def test_d9_a_repeated_discover_gets_the_same_address() -> None:
    site = Site()
    first = site.send(request(DISCOVER))
    site.wait(20)
    second = site.send(request(DISCOVER))
    site.wait(20)
    third = site.send(request(DISCOVER, xid=77))
    assert first is not None and second is not None and third is not None
    assert first.ip == second.ip == third.ip


def test_d10_identity_is_the_client_id_not_the_mac() -> None:
    site = Site()
    first = site.lease(client_id=b"\xffone")
    assert site.lease(MAC_B, client_id=b"\xffone").ip == first.ip


def test_d10_same_mac_with_another_client_id_is_another_client() -> None:
    site = Site()
    pxe = site.lease(client_id=b"\x00firmware")
    system = site.lease(client_id=b"\xffsystem")
    plain = site.lease()
    assert len({pxe.ip, system.ip, plain.ip}) == 3


def test_d10_match_mac_ignores_the_client_id() -> None:
    site = Site(match="mac")
    assert site.lease(client_id=b"\x00firmware").ip == site.lease(client_id=b"\xffsystem").ip


def test_d10_a_fixed_address_follows_the_mac_whatever_the_client_id() -> None:
    site = Site()
    site.commit(site.table.allocate("port vm1", mac=MAC_A, hostname="vm1", port="vm1", now=site.now))
    answers = [site.lease(client_id=client_id, port="vm1") for client_id in (b"\0pxe", b"\xffos", None)]
    assert {answer.ip for answer in answers} == {ip(2)}
    assert answers[0].message.options[OPT_HOSTNAME] == b"vm1"


def test_d10_a_guest_cannot_use_anothers_client_id() -> None:
    site = Site()
    victim = site.lease(MAC_B, client_id=b"\xffvictim", port="b")
    thief = site.lease(MAC_A, client_id=b"\xffvictim", port="a")
    assert thief.ip != victim.ip
    site.send(request(RELEASE, ciaddr=int(victim.ip), client_id=b"\xffvictim"), port="a")
    assert site.disk[victim.ip].is_bound(site.now)


def test_d16_more_than_any_client_sends_is_dropped() -> None:
    site = Site()
    assert site.send(request(DISCOVER) + bytes(3000)) is None and site.drop is DropReason.LONG


def test_d16_a_relay_behind_a_guest_port_is_dropped() -> None:
    site = Site()
    assert site.send(request(DISCOVER, giaddr=int(ip(200))), port="vm1") is None
    assert site.drop is DropReason.RELAYED
    assert site.send(request(DISCOVER, giaddr=0x08080808)) is None and site.drop is DropReason.RELAYED


def test_d16_another_machines_chaddr_is_dropped() -> None:
    site = Site()
    assert site.send(request(DISCOVER, chaddr=MAC_B), source=MAC_A) is None
    assert site.drop is DropReason.SPOOFED


def test_d16_a_request_without_any_address_is_dropped() -> None:
    site = Site()
    assert site.send(request(REQUEST)) is None and site.drop is DropReason.BAD_ADDRESS
    assert site.send(request(REQUEST, server_id=SERVER_ID)) is None and site.drop is DropReason.BAD_ADDRESS


def test_d19_messages_that_only_servers_send_are_dropped() -> None:
    site = Site()
    for kind in (OFFER, ACK, NAK):
        assert site.send(request(kind)) is None and site.drop is DropReason.SERVER_MESSAGE


def test_a_reservation_outside_the_pool_is_served() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(200), None, site.now))
    assert site.lease().ip == ip(200) and site.disk[ip(200)].kind == RESERVED
    nak = site.send(request(REQUEST, wanted=ip(2)))
    assert nak is not None and nak.kind == NAK


def test_moving_to_a_reservation_frees_the_pool_address() -> None:
    site = Site()
    site.lease()
    site.commit(site.table.reserve(MAC_A, ip(5), None, site.now))
    nak = site.send(request(REQUEST, ciaddr=int(ip(2))))
    assert nak is not None and nak.kind == NAK
    assert site.lease().ip == ip(5) and ip(2) not in site.disk


def test_twenty_requests_a_second_are_looked_at_for_each_guest() -> None:
    site = Site(requests_per_s=20)
    answered = sum(site.send(request(DISCOVER)) is not None for _ in range(100))
    assert answered == 40 and site.drop is DropReason.RATE
    assert site.send(request(DISCOVER, chaddr=MAC_B)) is not None
    site.wait(0.5)
    assert sum(site.send(request(DISCOVER)) is not None for _ in range(100)) == 10


def test_the_limit_is_the_ports_when_the_port_is_known() -> None:
    site = Site(requests_per_s=1)
    answered = [site.send(request(DISCOVER, chaddr=mac(n)), port="vm1") for n in range(10)]
    assert sum(answer is not None for answer in answered) == 2


def test_counters_tell_what_came_and_went() -> None:
    site = Site()
    site.server.answered(site.lease().reply)
    site.send(b"junk", source=MAC_A)
    stats = site.server.stats()
    assert (stats["rx_discover"], stats["rx_request"], stats["tx_ack"], stats["drop_short"]) == (1, 1, 1, 1)
