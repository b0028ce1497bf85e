"""ICMP, UDP and TCP headers beside scapy's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.wire._testing_headers import icmp, tcp, udp
from tests.support.packets import ICMP, TCP, UDP

port, number = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
FIN, SYN, RST, PSH, ACK, URG = (1 << bit for bit in range(6))


@pytest.mark.parametrize(("size", "read"), [(7, False), (8, True)])
def test_icmp_and_udp_headers_have_eight_bytes(size: int, read: bool) -> None:
    assert (icmp(bytes(size)) is not None) is read
    assert (udp(b"\0\1\0\2\0\x08\0\0"[:size]) is not None) is read


def test_an_icmp_error_is_no_query_and_a_reply_no_request() -> None:
    """I6, I7: what quotes a packet, and what an identifier belongs to."""
    found = {}
    for kind in range(256):
        read = icmp(bytes(ICMP(type=kind))[:8].ljust(8, b"\0"))
        assert read is not None
        found[kind] = read
    assert {kind for kind, read in found.items() if read["is_error"]} == {3, 4, 5, 11, 12}
    assert {kind for kind, read in found.items() if read["is_query"]} == {0, 8, 13, 14}
    assert {kind for kind, read in found.items() if read["is_request"]} == {8, 13}
    assert {kind for kind, read in found.items() if read["is_error6"]} == set(range(128))
    assert {kind for kind, read in found.items() if read["is_query6"]} == {128, 129}


@given(ident=port, mtu=port, code=st.integers(0, 255))
def test_icmp_fields_are_read_as_scapy_writes_them(ident: int, mtu: int, code: int) -> None:
    echo = icmp(bytes(ICMP(type=8, code=code, id=ident)))
    needed = icmp(bytes(ICMP(type=3, code=4, nexthopmtu=mtu)))
    assert echo is not None and needed is not None
    assert (echo["type"], echo["code"], echo["identifier"]) == (8, code, ident)
    assert (needed["code"], needed["mtu"]) == (4, mtu)


@given(sport=port, dport=port, payload=st.binary(max_size=20))
def test_udp_is_read_as_scapy_writes_it(sport: int, dport: int, payload: bytes) -> None:
    raw = bytes(UDP(sport=sport, dport=dport) / payload)
    assert udp(raw + b"padding") == {"source_port": sport, "destination_port": dport, "length": len(raw)}


@pytest.mark.parametrize(("length", "read"), [(7, False), (8, True), (12, True), (13, False)])
def test_a_udp_length_covers_its_header_and_no_more_than_there_is(length: int, read: bool) -> None:
    assert (udp(bytes(UDP(len=length)) + b"four") is not None) is read


@given(
    ports=st.tuples(port, port), numbers=st.tuples(number, number), flags=st.integers(0, 255), window=port,
    words=st.integers(0, 10),
)  # fmt: skip
def test_tcp_is_read_as_scapy_writes_it(
    ports: tuple[int, int], numbers: tuple[int, int], flags: int, window: int, words: int
) -> None:
    (sport, dport), (seq, ack) = ports, numbers
    raw = bytes(
        TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, window=window, dataofs=5 + words)
    )
    found = tcp(raw + bytes(4 * words) + b"payload")
    assert found is not None
    del found["flags_ok"]
    assert found == {
        "source_port": sport,
        "destination_port": dport,
        "sequence": seq,
        "acknowledgment": ack,
        "header_size": 20 + 4 * words,
        "flags": flags,
        "window": window,
    }


@pytest.mark.parametrize(
    ("data_offset", "size", "read"),
    [
        (4, 60, False),
        (5, 19, False),
        (5, 20, True),
        (6, 23, False),
        (6, 24, True),
        (15, 59, False),
        (15, 60, True),
    ],
)
def test_a_tcp_header_lies_within_the_segment(data_offset: int, size: int, read: bool) -> None:
    """T23"""
    raw = bytes(TCP(dataofs=data_offset)) + bytes(40)
    assert (tcp(raw[:size]) is not None) is read


@pytest.mark.parametrize(
    "flags", [0, FIN | PSH | URG, 0x3F, SYN | FIN, SYN | FIN | ACK, SYN | RST, SYN | RST | ACK, FIN, PSH, URG]
)
@pytest.mark.parametrize("ecn", [0, 0x40, 0x80, 0xC0])
def test_flags_of_scanners_are_refused(flags: int, ecn: int) -> None:
    """T24"""
    assert _flags_ok(flags | ecn) is False


def test_flags_of_a_tcp_are_taken() -> None:
    """T24: each that a connection begins, goes on or ends with, pushed, urgent or neither."""
    for kind, extra, ecn in itertools.product(
        (SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK), (0, PSH, URG, PSH | URG), (0, 0x40, 0xC0)
    ):
        assert _flags_ok(kind | extra | ecn)


def _flags_ok(flags: int) -> bool:
    found = tcp(bytes(TCP(flags=flags)))
    assert found is not None
    return bool(found["flags_ok"])
