"""What the server answers, row by row (RFC 2131 and what it grew), without a socket."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.services.dhcp.messages import (
    ACK,
    DECLINE,
    DISCOVER,
    INFORM,
    NAK,
    OFFER,
    OPT_CLIENT_ID,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_PARAMETERS,
    OPT_RELAY,
    OPT_ROUTER,
    OPT_ROUTES,
    OPT_SERVER_ID,
    OPT_SIZE_MAX,
    OPT_T1,
    OPT_T2,
    RELEASE,
    REQUEST,
    DropReason,
)
from arcbox_net.services.dhcp.records import BOUND, DECLINED, RESERVED, Clock
from arcbox_net.services.dhcp.server import BROADCAST_MAC, sanitise_hostname
from tests.services.dhcp.site import GATEWAY, MAC_A, MAC_B, SERVER_ID, Site, ip, mac, request, settings

YEAR_S = 365 * 86400.0


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


# D1 to D7: the exchanges


def test_d1_discover_offer_request_ack() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None and offer.kind == OFFER and offer.ip == ip(2)
    assert not site.decision.changes, "an offer needs no durability"
    ack = site.send(request(REQUEST, wanted=offer.ip, server_id=SERVER_ID))
    assert ack is not None and ack.kind == ACK and ack.ip == ip(2)
    assert site.disk[ip(2)].mac == MAC_A and site.disk[ip(2)].state == BOUND


def test_d1_the_ack_carries_the_network() -> None:
    site = Site(mtu=1400, search=("a.internal", "b.a.internal"))
    options = site.lease().message.options
    assert options[1] == bytes([255, 255, 255, 0])
    assert options[3] == options[6] == options[OPT_SERVER_ID] == GATEWAY.packed
    assert options[15] == b"net1.internal" and options[26] == (1400).to_bytes(2, "big")
    assert options[28] == bytes([192, 168, 64, 255])
    assert options[119] == b"\x01a\x08internal\0\x01b\xc0\0"
    assert (options[OPT_LEASE_S], options[OPT_T1], options[OPT_T2]) == (u32(3600), u32(1800), u32(3150))


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


# D8 to D10: who is answered, and how


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


def test_d11_a_request_repeated_while_the_first_is_not_durable_waits_as_well() -> None:
    site = Site()
    offer = site.send(request(DISCOVER))
    assert offer is not None
    payload = request(REQUEST, wanted=offer.ip, server_id=SERVER_ID)
    first = site.server.handle(payload, MAC_A, None, site.now)
    second = site.server.handle(payload, MAC_A, None, site.now)
    assert first.changes and second.changes


def test_d9_a_repeated_discover_gets_the_same_address() -> None:
    site = Site()
    first = site.send(request(DISCOVER))
    site.wait(20)
    second = site.send(request(DISCOVER))
    site.wait(20)
    third = site.send(request(DISCOVER, xid=77))
    assert first is not None and second is not None and third is not None
    assert first.ip == second.ip == third.ip


def test_d10_the_clients_fields_are_echoed() -> None:
    site = Site()
    offer = site.send(request(DISCOVER, xid=0xDEADBEEF, flags=0x8000, client_id=b"\xffabc"))
    assert offer is not None
    assert (offer.message.xid, offer.message.chaddr, offer.message.flags) == (0xDEADBEEF, MAC_A, 0x8000)
    assert offer.message.options[OPT_CLIENT_ID] == b"\xffabc"  # RFC 6842
    assert (offer.reply.mac, offer.reply.ip) == (BROADCAST_MAC, 0xFFFFFFFF)


def test_d10_without_the_broadcast_flag_the_answer_goes_to_the_client_alone() -> None:
    offer = Site().send(request(DISCOVER))
    assert offer is not None and (offer.reply.mac, offer.reply.ip) == (MAC_A, int(ip(2)))


def test_d10_a_nak_echoes_the_client_id() -> None:
    nak = Site().send(request(REQUEST, ciaddr=5, client_id=b"\x00me"))
    assert nak is not None and nak.message.options[OPT_CLIENT_ID] == b"\x00me"


def test_d10_a_relay_that_is_no_guest_is_answered_at_its_address() -> None:
    site = Site()
    offer = site.send(
        request(DISCOVER, giaddr=int(ip(200)), options={OPT_RELAY: b"\x01\x02ab"}), source=MAC_B
    )
    assert offer is not None and offer.message.giaddr == int(ip(200))
    assert offer.message.options[OPT_RELAY] == b"\x01\x02ab"
    assert (offer.reply.ip, offer.reply.mac, offer.reply.dst_port) == (int(ip(200)), MAC_B, 67)
    nak = site.send(request(REQUEST, ciaddr=5, giaddr=int(ip(200))), source=MAC_B)
    assert nak is not None and nak.message.flags == 0x8000 and nak.reply.ip == int(ip(200))


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


# D11 to D13: the disk


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


# D14, D15: pool and time


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


# D16 to D20: hostile guests


def test_d16_more_than_any_client_sends_is_dropped() -> None:
    site = Site()
    assert site.send(request(DISCOVER) + bytes(3000)) is None and site.drop is DropReason.LONG


def test_d16_a_forged_option_82_is_not_echoed() -> None:
    offer = Site().send(request(DISCOVER, options={OPT_RELAY: b"\x01\x01x"}), port="vm1")
    assert offer is not None and OPT_RELAY not in offer.message.options


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


def test_d16_a_parameter_list_of_255_entries_is_answered_once_each() -> None:
    site = Site()
    offer = site.send(request(DISCOVER, options={OPT_PARAMETERS: bytes(range(1, 255)) + b"\x06"}))
    assert offer is not None and offer.message.options[6] == GATEWAY.packed


def test_d16_many_parameter_lists_do_not_grow_the_server() -> None:
    site = Site()
    for number in range(1000):
        site.send(request(DISCOVER, options={OPT_PARAMETERS: number.to_bytes(2, "big")}))
    assert len(site.server._blocks) <= 256


def test_d17_nothing_of_the_request_but_the_echoed_fields_is_in_the_reply() -> None:
    payload = bytearray(request(DISCOVER, client_id=b"\xffid"))
    for start, end in ((8, 10), (20, 24), (44, 236)):  # secs, siaddr, sname and file
        payload[start:end] = b"\xa5" * (end - start)
    payload[3] = 9  # hops
    payload[34:44] = b"\xa5" * 10  # the rest of chaddr
    payload += b"\xa5" * 200  # after the end option
    site = Site()
    offer = site.send(bytes(payload))
    assert offer is not None and b"\xa5" not in offer.reply.payload


def test_d18_the_type_comes_first_the_end_has_no_length_and_the_rest_is_zero() -> None:
    site = Site()
    for answer in (
        site.lease(),
        site.send(request(REQUEST, ciaddr=5)),
        site.send(request(INFORM, ciaddr=int(ip(9)))),
    ):
        assert answer is not None
        payload = answer.reply.payload
        assert payload[240:242] == b"\x35\x01" and len(payload) >= 300
        offset = 240
        while payload[offset] != 255:
            offset += 2 + payload[offset + 1]
        assert not any(payload[offset + 1 :])


@pytest.mark.parametrize("asked", [0, 100, 576, 600, 1500, 65535])
def test_d18_a_reply_is_no_larger_than_the_client_takes(asked: int) -> None:
    site = Site(options={number: bytes((number,)) * 60 for number in range(200, 240)})
    offer = site.send(request(DISCOVER, options={OPT_SIZE_MAX: asked.to_bytes(2, "big")}))
    assert offer is not None
    limit = min(max(asked, 576), site.settings.mtu) - 28
    assert limit - 62 <= len(offer.reply.payload) <= limit
    assert offer.message.options[1] and offer.message.options[OPT_LEASE_S]


def test_d19_messages_that_only_servers_send_are_dropped() -> None:
    site = Site()
    for kind in (OFFER, ACK, NAK):
        assert site.send(request(kind)) is None and site.drop is DropReason.SERVER_MESSAGE


def test_d19_option_121_comes_from_the_configuration_with_the_default_route_in_it() -> None:
    routes = ((IPv4Network("10.8.0.0/13"), ip(9)),)
    evil = {OPT_ROUTES: b"\x00\x0a\x00\x00\x01"}
    ack = Site(routes=routes).lease(options=evil)
    assert ack.message.options[OPT_ROUTES] == b"\x0d\x0a\x08" + ip(9).packed + b"\x00" + GATEWAY.packed
    assert OPT_ROUTES not in Site().lease(options=evil).message.options
    closed = Site(routes=routes, router=False).lease().message.options
    assert closed[OPT_ROUTES] == b"\x0d\x0a\x08" + ip(9).packed and OPT_ROUTER not in closed


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"web-1", "web-1"),
        (b"Web-1.example.org", "web-1"),
        (b"web\0", "web"),
        (b"a" * 63, "a" * 63),
        (b"a" * 64, None),
        (b"a" * 255, None),
        (b"we\0b", None),
        (b"a/b", None),
        (b"a\nb", None),
        (b"a b", None),
        ("bücher".encode(), None),
        (b"-a", None),
        (b"a-", None),
        (b".", None),
        (b"\0", None),
        (b"../../etc/passwd", None),
        (b"localhost", None),
        (b"WPAD", None),
        (b"gateway", None),
        (b"host", None),
        (b"localhost.localdomain", None),
    ],
)
def test_d20_a_host_name_is_a_dns_label_or_nothing(sent: bytes, kept: str | None) -> None:
    site = Site()
    site.lease(options={OPT_HOSTNAME: sent})
    assert site.disk[ip(2)].hostname == kept == sanitise_hostname(sent)


def test_d20_a_given_name_is_not_replaced_by_the_clients() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(5), "db", site.now))
    ack = site.lease(options={OPT_HOSTNAME: b"other"})
    assert site.disk[ip(5)].hostname == "db" and ack.message.options[OPT_HOSTNAME] == b"db"


def test_d20_a_new_name_ends_the_old_one() -> None:
    site = Site()
    site.lease(options={OPT_HOSTNAME: b"old"})
    assert site.decision.changes[0].started and not site.decision.changes[0].ended
    site.wait(60)
    site.send(request(REQUEST, ciaddr=int(ip(2)), options={OPT_HOSTNAME: b"old"}))
    assert not site.decision.changes[0].started and not site.decision.changes[0].ended
    site.send(request(REQUEST, ciaddr=int(ip(2)), options={OPT_HOSTNAME: b"new"}))
    (change,) = site.decision.changes
    assert change.started and [lease.hostname for lease in change.ended] == ["old"]


# Options by configuration


def test_options_are_sent_in_the_order_asked_with_the_mask_first() -> None:
    offer = Site().send(request(DISCOVER, options={OPT_PARAMETERS: bytes([15, 6, 3])}))
    assert offer is not None
    assert list(offer.message.options) == [53, 54, 51, 58, 59, 1, 15, 6, 3]


def test_a_configured_option_is_sent_whether_asked_for_or_not_and_replaces_ours() -> None:
    site = Site(options={66: b"tftp.internal", 6: ip(53).packed})
    for parameters in (b"\x03", b"\x42\x06"):
        offer = site.send(request(DISCOVER, options={OPT_PARAMETERS: parameters}))
        assert offer is not None
        assert offer.message.options[66] == b"tftp.internal" and offer.message.options[6] == ip(53).packed


@pytest.mark.parametrize("number", [50, 51, 53, 54, 58, 59, 61, 82])
def test_an_option_that_the_server_computes_cannot_be_configured(number: int) -> None:
    with pytest.raises(ConfigError, match=f"dhcp.options {number}"):
        settings(options={number: b"x"})


def test_host_only_sends_no_router() -> None:
    assert OPT_ROUTER not in Site(router=False).lease().message.options


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


# Limits


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
