"""The codec: against scapy, against a table of what is malformed, and against whatever Hypothesis thinks of."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from arcbox_net.services.dhcp.messages import (
    BOOTREPLY,
    BOOTREQUEST,
    CLIENT_ID_BYTES_MAX,
    DISCOVER,
    OPT_CLIENT_ID,
    OPT_DOMAIN,
    OPT_HOSTNAME,
    OPT_OVERLOAD,
    DropReason,
    Message,
    build,
    decode_routes,
    decode_search,
    encode_option,
    parse,
    routes_payload,
    search_payload,
)
from arcbox_net.services.dhcp.server import MESSAGE_BYTES_MAX
from tests.services.dhcp.site import MAC_A, Site, request

TYPE = b"\x35\x01\x01"


def raw(options: bytes, *, sname: bytes = b"", file: bytes = b"") -> bytes:
    """A DISCOVER's header and exactly *options*."""
    header = bytearray(request(DISCOVER)[:240])
    header[44:108] = sname.ljust(64, b"\0")
    header[108:236] = file.ljust(128, b"\0")
    return bytes(header) + options


def patched(offset: int, value: bytes) -> bytes:
    payload = bytearray(request(DISCOVER))
    payload[offset : offset + len(value)] = value
    return bytes(payload)


MALFORMED = [
    pytest.param(b"", DropReason.SHORT, id="empty"),
    pytest.param(request(DISCOVER)[:239], DropReason.SHORT, id="one-byte-short-of-the-cookie"),
    pytest.param(raw(b""), DropReason.NO_END, id="no-options"),
    pytest.param(patched(236, b"\0\0\0\0"), DropReason.COOKIE, id="bootp-without-cookie"),
    pytest.param(patched(236, b"\x63\x82\x53\x64"), DropReason.COOKIE, id="cookie-off-by-one"),
    pytest.param(patched(0, b"\x02"), DropReason.NOT_REQUEST, id="op-2-from-a-guest"),
    pytest.param(patched(0, b"\x00"), DropReason.NOT_REQUEST, id="op-0"),
    pytest.param(patched(1, b"\x20"), DropReason.HARDWARE, id="htype-infiniband"),
    pytest.param(patched(2, b"\x00"), DropReason.HARDWARE, id="hlen-0"),
    pytest.param(patched(2, b"\x08"), DropReason.HARDWARE, id="hlen-8"),
    pytest.param(patched(2, b"\x10"), DropReason.HARDWARE, id="hlen-16"),
    pytest.param(patched(2, b"\x11"), DropReason.HARDWARE, id="hlen-17"),
    pytest.param(patched(2, b"\xff"), DropReason.HARDWARE, id="hlen-255"),
    pytest.param(patched(28, b"\xff\xff\xff\xff\xff\xff"), DropReason.HARDWARE, id="chaddr-broadcast"),
    pytest.param(patched(28, b"\x01\x00\x5e\x00\x00\x01"), DropReason.HARDWARE, id="chaddr-multicast"),
    pytest.param(patched(28, b"\0" * 6), DropReason.HARDWARE, id="chaddr-zero"),
    pytest.param(raw(TYPE), DropReason.NO_END, id="no-end"),
    pytest.param(raw(TYPE + b"\0" * 100), DropReason.NO_END, id="only-padding-after"),
    pytest.param(raw(TYPE + b"\x0c"), DropReason.OPTION_OVERRUN, id="code-without-length"),
    pytest.param(raw(TYPE + b"\x0c\x05abcd"), DropReason.OPTION_OVERRUN, id="length-one-past-end"),
    pytest.param(raw(TYPE + b"\x0c\xff\xff"), DropReason.OPTION_OVERRUN, id="length-255-at-the-end"),
    pytest.param(raw(b"\xff"), DropReason.NO_TYPE, id="53-missing"),
    pytest.param(raw(b"\x35\x00\xff"), DropReason.NO_TYPE, id="53-empty"),
    pytest.param(raw(b"\x35\x01\x00\xff"), DropReason.BAD_TYPE, id="53-is-0"),
    pytest.param(raw(b"\x35\x01\x09\xff"), DropReason.BAD_TYPE, id="53-is-9"),
    pytest.param(raw(b"\x35\x01\xff\xff"), DropReason.BAD_TYPE, id="53-is-255"),
    pytest.param(raw(b"\x35\x02\x01\x01\xff"), DropReason.BAD_TYPE, id="53-of-two-bytes"),
    pytest.param(raw(TYPE + b"\x35\x01\x03\xff"), DropReason.BAD_TYPE, id="53-twice"),
    pytest.param(raw(b"\x35\x01\x02\xff"), DropReason.SERVER_MESSAGE, id="offer"),
    pytest.param(raw(b"\x35\x01\x05\xff"), DropReason.SERVER_MESSAGE, id="ack"),
    pytest.param(raw(TYPE + b"\x32\x03\x01\x02\x03\xff"), DropReason.OPTION_SIZE, id="50-of-three-bytes"),
    pytest.param(
        raw(TYPE + b"\x33\x05\x01\x02\x03\x04\x05\xff"), DropReason.OPTION_SIZE, id="51-of-five-bytes"
    ),
    pytest.param(raw(TYPE + b"\x36\x01\x01\xff"), DropReason.OPTION_SIZE, id="54-of-one-byte"),
    pytest.param(raw(TYPE + b"\x39\x01\x01\xff"), DropReason.OPTION_SIZE, id="57-of-one-byte"),
    pytest.param(raw(TYPE + b"\x34\x01\x00\xff"), DropReason.OPTION_SIZE, id="52-is-0"),
    pytest.param(raw(TYPE + b"\x34\x01\x04\xff"), DropReason.OPTION_SIZE, id="52-is-4"),
    pytest.param(raw(TYPE + b"\x34\x02\x01\x01\xff"), DropReason.OPTION_SIZE, id="52-of-two-bytes"),
    pytest.param(
        raw(TYPE + encode_option(OPT_CLIENT_ID, bytes(CLIENT_ID_BYTES_MAX + 1)) + b"\xff"),
        DropReason.OPTION_SIZE,
        id="61-that-no-reply-can-echo",
    ),
    pytest.param(raw(TYPE + b"\x34\x01\x01\xff"), DropReason.NO_END, id="52-file-without-end"),
    pytest.param(
        raw(TYPE + b"\x34\x01\x01\xff", file=b"\x0c\x7f"), DropReason.OPTION_OVERRUN, id="52-file-overrun"
    ),
    pytest.param(
        raw(TYPE + b"\x34\x01\x02\xff", sname=b"\x0c\x3f"), DropReason.OPTION_OVERRUN, id="52-sname-overrun"
    ),
]


@pytest.mark.parametrize(("payload", "reason"), MALFORMED)
def test_d16_malformed_is_dropped_with_its_reason(payload: bytes, reason: DropReason) -> None:
    assert parse(payload) is reason
    site = Site()
    assert site.send(payload, source=MAC_A) is None
    assert site.drop is reason and site.server.drops == {reason: 1}


def test_d16_an_empty_option_is_as_if_absent() -> None:
    message = parse(raw(TYPE + b"\x0c\x00\x3d\x00\xff"))
    assert isinstance(message, Message) and set(message.options) == {53}


def test_d16_parts_of_a_long_option_are_joined() -> None:
    message = parse(raw(TYPE + b"\x0c\x02ab" + b"\x0f\x01x" + b"\x0c\x02cd\xff"))
    assert isinstance(message, Message) and message.options[OPT_HOSTNAME] == b"abcd"
    long = bytes(range(256)) * 2
    message = parse(raw(TYPE + encode_option(OPT_DOMAIN, long) + b"\xff"))
    assert isinstance(message, Message) and message.options[OPT_DOMAIN] == long


def test_d16_overload_reads_file_then_sname_once() -> None:
    message = parse(
        raw(
            TYPE + b"\x0c\x01a\x34\x01\x03\xff",
            file=b"\x0c\x01b\x34\x01\x02\xff\x0c\x01X",
            sname=b"\x0c\x01c\xff",
        )
    )
    assert isinstance(message, Message)
    assert message.options[OPT_HOSTNAME] == b"abc" and message.options[OPT_OVERLOAD] == b"\x03"


def test_d16_without_overload_sname_and_file_are_not_options() -> None:
    message = parse(raw(TYPE + b"\xff", file=b"\x0c\x01b\xff", sname=b"\x0c\x01c\xff"))
    assert isinstance(message, Message) and OPT_HOSTNAME not in message.options


def test_d16_a_type_hidden_in_the_file_field_is_still_checked() -> None:
    assert parse(raw(b"\x34\x01\x01\xff", file=b"\x35\x01\x05\xff")) is DropReason.SERVER_MESSAGE


@given(st.binary(max_size=700))
def test_d16_no_bytes_raise(options: bytes) -> None:
    for payload in (options, raw(options), raw(TYPE + options), raw(TYPE + b"\x34\x01\x03" + options)):
        assert isinstance(parse(payload), Message | DropReason)


@given(st.integers(0, 299), st.binary(min_size=1, max_size=8), st.booleans())
def test_d16_no_corrupted_request_makes_the_server_raise(offset: int, noise: bytes, cut: bool) -> None:
    payload = bytearray(request(DISCOVER, options={55: b"\x01\x03", 12: b"vm", 57: b"\x05\xdc", 52: b"\x03"}))
    payload[offset : offset + len(noise)] = noise
    site = Site()
    source = bytes(payload[28:34])
    site.send(bytes(payload[:offset] if cut else payload), source=source.ljust(6, b"\0"))
    assert sum(site.server.drops.values()) + sum(site.server.received.values()) == 1 or site.drop is not None


def test_a_message_of_the_largest_size_is_read() -> None:
    payload = raw(TYPE + b"\0" * (MESSAGE_BYTES_MAX - 240 - 4) + b"\xff")
    assert len(payload) == MESSAGE_BYTES_MAX
    assert Site().send(payload) is not None
    site = Site()
    assert site.send(payload + b"\0") is None and site.drop is DropReason.LONG


addresses = st.integers(0, 0xFFFFFFFF)
unicast_macs = st.binary(min_size=6, max_size=6).map(lambda b: bytes([b[0] & 0xFE | 2]) + b[1:])


@given(
    addresses, st.integers(0, 0xFFFF), addresses, addresses, unicast_macs, st.text("abcxyz-09", min_size=1)
)
def test_what_we_build_scapy_reads(
    xid: int, flags: int, ciaddr: int, yiaddr: int, chaddr: bytes, hostname: str
) -> None:
    name = hostname.encode()[:255]
    payload = build(
        b"\x35\x01\x05" + encode_option(12, name) + encode_option(3, b"\x0a\0\0\x01"),
        op=BOOTREPLY,
        xid=xid,
        chaddr=chaddr,
        flags=flags,
        ciaddr=ciaddr,
        yiaddr=yiaddr,
    )
    bootp = BOOTP(payload)
    assert (bootp.op, bootp.xid, int(bootp.flags), bootp.htype, bootp.hlen) == (2, xid, flags, 1, 6)
    assert (bootp.ciaddr, bootp.yiaddr) == (str(IPv4Address(ciaddr)), str(IPv4Address(yiaddr)))
    assert bootp.chaddr == chaddr.ljust(16, b"\0")
    options = [option for option in bootp[DHCP].options if option != "pad"]
    assert options == [("message-type", 5), ("hostname", name), ("router", "10.0.0.1"), "end"]


@given(addresses, addresses, unicast_macs, st.binary(min_size=2, max_size=255), st.integers(0, 0xFFFFFFFF))
def test_what_scapy_builds_we_read(
    xid: int, ciaddr: int, chaddr: bytes, client_id: bytes, lease_s: int
) -> None:
    payload = bytes(
        BOOTP(op=1, xid=xid, ciaddr=str(IPv4Address(ciaddr)), chaddr=chaddr, flags=0x8000)
        / DHCP(
            options=[
                ("message-type", "request"),
                ("client_id", client_id),
                ("lease_time", lease_s),
                ("requested_addr", "10.9.8.7"),
                ("param_req_list", [1, 3, 6, 15]),
                "end",
            ]
        )
    )
    message = parse(payload)
    assert isinstance(message, Message)
    assert (message.op, message.kind, message.xid, message.flags) == (BOOTREQUEST, 3, xid, 0x8000)
    assert (message.ciaddr, message.chaddr) == (ciaddr, chaddr)
    assert message.options[61] == client_id and message.options[55] == b"\x01\x03\x06\x0f"
    assert message.address(51) == lease_s and message.address(50) == int(IPv4Address("10.9.8.7"))


labels = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True)
domains = st.lists(st.lists(labels, min_size=1, max_size=4).map(".".join), max_size=12)


@given(domains)
def test_search_lists_survive_their_compression(names: list[str]) -> None:
    assert decode_search(search_payload(names)) == names


@given(st.lists(st.tuples(addresses, st.integers(0, 32), addresses), max_size=20))
def test_routes_survive_their_compression(found: list[tuple[int, int, int]]) -> None:
    routes = [
        (IPv4Network((address, prefix), strict=False), IPv4Address(router))
        for address, prefix, router in found
    ]
    assert decode_routes(routes_payload(routes)) == routes


@given(st.binary(max_size=300))
def test_a_client_reads_any_search_list_and_routes(payload: bytes) -> None:
    decode_search(payload)
    decode_routes(payload)


def test_a_search_list_that_points_at_itself_ends() -> None:
    assert decode_search(b"\xc0\x00") == [] and decode_search(b"\x01a\xc0\x00") == []
