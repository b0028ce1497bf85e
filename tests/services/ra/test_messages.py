"""The codec of router discovery, read and written by scapy."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
)

from arcbox_net.services.ra.messages import (
    OPTIONS_MAX,
    SEARCH_BYTES_MAX,
    Advertisement,
    DropReason,
    Solicitation,
    encode_search,
    parse_solicitation,
)

SUBNET = IPv6Network("fd12:3456:789a::/64")
GUEST = IPv6Address("fe80::b2:bdff:fedc:fc02")
NOBODY = IPv6Address("::")
MAC = "02:b2:bd:dc:fc:02"
BARE = bytes(ICMPv6ND_RS(cksum=0))
WITH_MAC = bytes(ICMPv6ND_RS(cksum=0) / ICMPv6NDOptSrcLLAddr(lladdr=MAC))
NONCE = bytes.fromhex("0e01000000000000")  # RFC 3971; an option we do not know


def parse(packet: bytes, source: IPv6Address = GUEST, hop_limit: int = 255) -> Solicitation | DropReason:
    return parse_solicitation(packet, source, hop_limit, SUBNET)


@pytest.mark.parametrize(
    ("packet", "source"),
    [
        (BARE, NOBODY),
        (BARE, GUEST),
        (WITH_MAC, GUEST),
        (BARE + NONCE, NOBODY),
        (WITH_MAC + NONCE, IPv6Address("fd12:3456:789a::7")),
        (BARE + NONCE * OPTIONS_MAX, GUEST),
    ],
)
def test_what_guests_send_is_understood(packet: bytes, source: IPv6Address) -> None:
    assert parse(packet, source) == Solicitation(source)


@pytest.mark.parametrize(
    ("packet", "source", "hop_limit", "reason"),
    [
        pytest.param(BARE, GUEST, 254, DropReason.HOP_LIMIT, id="forwarded"),
        pytest.param(BARE, GUEST, 0, DropReason.HOP_LIMIT, id="no-hop-limit"),
        pytest.param(b"", GUEST, 255, DropReason.SHORT, id="empty"),
        pytest.param(BARE[:7], GUEST, 255, DropReason.SHORT, id="seven-bytes"),
        pytest.param(b"\x86" + BARE[1:], GUEST, 255, DropReason.TYPE, id="an-advertisement"),
        pytest.param(b"\x85\x01" + BARE[2:], GUEST, 255, DropReason.CODE, id="code-1"),
        pytest.param(BARE + b"\x0e\x00" + bytes(6), GUEST, 255, DropReason.OPTION, id="option-length-0"),
        pytest.param(BARE + b"\x0e", GUEST, 255, DropReason.OPTION, id="half-an-option-header"),
        pytest.param(BARE + b"\x0e\x02" + bytes(6), GUEST, 255, DropReason.OPTION, id="option-past-the-end"),
        pytest.param(BARE + NONCE + b"\x0e\xff", GUEST, 255, DropReason.OPTION, id="second-past-the-end"),
        pytest.param(BARE + NONCE * (OPTIONS_MAX + 1), GUEST, 255, DropReason.OPTION, id="too-many-options"),
        pytest.param(WITH_MAC, NOBODY, 255, DropReason.SOURCE, id="mac-without-address"),
        pytest.param(BARE, IPv6Address("2001:db8::1"), 255, DropReason.SOURCE, id="source-elsewhere"),
        pytest.param(BARE, IPv6Address("ff02::1"), 255, DropReason.SOURCE, id="source-multicast"),
        pytest.param(BARE, IPv6Address("::1"), 255, DropReason.SOURCE, id="source-loopback"),
    ],
)
def test_what_is_wrong_is_dropped_by_reason(
    packet: bytes, source: IPv6Address, hop_limit: int, reason: DropReason
) -> None:
    assert parse(packet, source, hop_limit) is reason


@given(st.binary(max_size=200), st.sampled_from([GUEST, NOBODY]))
def test_no_packet_raises(packet: bytes, source: IPv6Address) -> None:
    assert isinstance(parse(b"\x85\0" + packet, source), Solicitation | DropReason)


def advertisement(**fields: object) -> Advertisement:
    values: dict[str, object] = {
        "router_s": 1800,
        "mac": bytes.fromhex(MAC.replace(":", "")),
        "mtu": 1400,
        "prefix": SUBNET,
        "prefix_valid_s": 86400,
        "prefix_preferred_s": 3600,
        "dns": (IPv6Address("fd12:3456:789a::1"), IPv6Address("fd12:3456:789a::2")),
        "search": ("dev.internal", "corp.example."),
        "dns_s": 900,
    }
    return Advertisement(**{**values, **fields})  # type: ignore[arg-type]


def test_scapy_reads_every_field_of_an_advertisement() -> None:
    found = ICMPv6ND_RA(advertisement().encode())
    assert (found.type, found.code, found.chlim, found.M, found.O) == (134, 0, 64, 0, 0)
    assert (found.routerlifetime, found.reachabletime, found.retranstimer) == (1800, 0, 0)
    assert found[ICMPv6NDOptSrcLLAddr].lladdr == MAC
    assert found[ICMPv6NDOptMTU].mtu == 1400
    prefix = found[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd12:3456:789a::", 64, 1, 1)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (86400, 3600)
    dns = found[ICMPv6NDOptRDNSS]
    assert (dns.lifetime, dns.dns) == (900, ["fd12:3456:789a::1", "fd12:3456:789a::2"])
    search = found[ICMPv6NDOptDNSSL]
    assert (search.lifetime, search.searchlist) == (900, ["dev.internal.", "corp.example."])


def test_an_advertisement_without_dns_has_no_option_for_it() -> None:
    found = ICMPv6ND_RA(advertisement(dns=(), search=()).encode())
    assert ICMPv6NDOptRDNSS not in found and ICMPv6NDOptDNSSL not in found
    assert len(advertisement(dns=(), search=()).encode()) == 16 + 8 + 8 + 32


def test_every_option_fills_whole_units_of_eight_bytes() -> None:
    for length in range(1, 20):
        packet = advertisement(search=("x" * length,)).encode()
        at = 16
        while at < len(packet):
            assert packet[at + 1] > 0
            at += packet[at + 1] * 8
        assert at == len(packet)


def test_a_search_list_is_cut_between_names_at_its_limit() -> None:
    label = "a" * 48  # a name of 50 bytes
    names = [label] * (SEARCH_BYTES_MAX // 50)
    assert len(encode_search(names)) == SEARCH_BYTES_MAX
    assert encode_search([*names, label]) == encode_search(names)
    assert len(advertisement(search=tuple(names)).encode()) <= 1232
