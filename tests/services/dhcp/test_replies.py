"""What is in a reply, row by row, and where it goes."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.services.dhcp.messages import (
    CLIENT_ID_BYTES_MAX,
    DISCOVER,
    INFORM,
    OPT_CLIENT_ID,
    OPT_LEASE_S,
    OPT_PARAMETERS,
    OPT_RELAY,
    OPT_ROUTER,
    OPT_ROUTES,
    OPT_SERVER_ID,
    OPT_SIZE_MAX,
    OPT_T1,
    OPT_T2,
    REQUEST,
)
from arcbox_net.services.dhcp.replies import BROADCAST_MAC
from tests.services.dhcp.site import GATEWAY, MAC_A, MAC_B, Site, ip, request, settings, u32


def test_d1_the_ack_carries_the_network() -> None:
    site = Site(mtu=1400, search=("a.internal", "b.a.internal"))
    options = site.lease().message.options
    assert options[1] == bytes([255, 255, 255, 0])
    assert options[3] == options[6] == options[OPT_SERVER_ID] == GATEWAY.packed
    assert options[15] == b"net1.internal" and options[26] == (1400).to_bytes(2, "big")
    assert options[28] == bytes([192, 168, 64, 255])
    assert options[119] == b"\x01a\x08internal\0\x01b\xc0\0"
    assert (options[OPT_LEASE_S], options[OPT_T1], options[OPT_T2]) == (u32(3600), u32(1800), u32(3150))


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


def test_d16_a_forged_option_82_is_not_echoed() -> None:
    offer = Site().send(request(DISCOVER, options={OPT_RELAY: b"\x01\x01x"}), port="vm1")
    assert offer is not None and OPT_RELAY not in offer.message.options


def test_d16_a_parameter_list_of_255_entries_is_answered_once_each() -> None:
    site = Site()
    offer = site.send(request(DISCOVER, options={OPT_PARAMETERS: bytes(range(1, 255)) + b"\x06"}))
    assert offer is not None and offer.message.options[6] == GATEWAY.packed


def test_d16_many_parameter_lists_do_not_grow_the_server() -> None:
    site = Site()
    for number in range(1000):
        site.send(request(DISCOVER, options={OPT_PARAMETERS: number.to_bytes(2, "big")}))
    assert len(site.server._replies._blocks) <= 256


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


@pytest.mark.parametrize(
    "client_id", [b"", bytes(CLIENT_ID_BYTES_MAX)], ids=["no-client-id", "longest-client-id"]
)
@pytest.mark.parametrize("asked", [0, 100, 576, 600, 1500, 65535])
def test_d18_a_reply_is_no_larger_than_the_client_takes(asked: int, client_id: bytes) -> None:
    site = Site(options={number: bytes((number,)) * 60 for number in range(200, 240)})
    options = {OPT_SIZE_MAX: asked.to_bytes(2, "big"), OPT_CLIENT_ID: client_id}
    offer = site.send(request(DISCOVER, options=options))
    assert offer is not None
    limit = min(max(asked, 576), site.settings.mtu) - 28
    assert limit - 62 <= len(offer.reply.payload) <= limit
    assert offer.message.options[1] and offer.message.options[OPT_LEASE_S]


def test_d19_option_121_comes_from_the_configuration_with_the_default_route_in_it() -> None:
    routes = ((IPv4Network("10.8.0.0/13"), ip(9)),)
    evil = {OPT_ROUTES: b"\x00\x0a\x00\x00\x01"}
    ack = Site(routes=routes).lease(options=evil)
    assert ack.message.options[OPT_ROUTES] == b"\x0d\x0a\x08" + ip(9).packed + b"\x00" + GATEWAY.packed
    assert OPT_ROUTES not in Site().lease(options=evil).message.options
    closed = Site(routes=routes, router=False).lease().message.options
    assert closed[OPT_ROUTES] == b"\x0d\x0a\x08" + ip(9).packed and OPT_ROUTER not in closed


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
