"""Ethernet and ARP headers, beside scapy's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from arcbox_net.wire._testing_headers import arp, ethernet

octets = st.binary(min_size=6, max_size=6)
addresses = st.integers(0, 0xFFFFFFFF).map(lambda number: str(ipaddress.IPv4Address(number)))
REQUEST = bytes(ARP(op=1, hwsrc="02:00:00:00:00:01", psrc="192.0.2.1", pdst="192.0.2.2"))


def changed(raw: bytes, at: int, *octets: int) -> bytes:
    return raw[:at] + bytes(octets) + raw[at + len(octets) :]


def test_a_frame_shorter_than_its_header_is_none() -> None:
    assert ethernet(bytes(13)) is None
    assert ethernet(bytes(14)) is not None


@pytest.mark.parametrize(
    ("frame", "ethertype", "tagged"),
    [
        pytest.param(Ether(type=0x0800), 0x0800, False, id="ipv4"),
        pytest.param(Ether() / Dot1Q(vlan=5), 0x8100, True, id="802.1Q"),
        pytest.param(Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6), 0x88A8, True, id="802.1ad"),
        pytest.param(Ether(type=0x9100), 0x9100, True, id="old QinQ"),
        pytest.param(Ether(type=0x8101), 0x8101, False, id="one past 802.1Q"),
        pytest.param(Ether(type=0x0026), 0x0026, False, id="802.3 length"),
    ],
)
def test_a_tag_is_told_from_a_packet(frame: Ether, ethertype: int, tagged: bool) -> None:
    found = ethernet(bytes(frame))
    assert found is not None
    assert (found["type"], found["is_vlan"]) == (ethertype, tagged)


@given(source=octets, destination=octets)
def test_a_group_address_has_the_lowest_bit_of_its_first_octet(source: bytes, destination: bytes) -> None:
    found = ethernet(destination + source + b"\x08\x00")
    assert found is not None
    assert found["source_is_group"] == bool(source[0] & 1)
    assert found["destination_is_group"] == bool(destination[0] & 1)


@given(op=st.sampled_from([1, 2]), sender=octets, target=octets, psrc=addresses, pdst=addresses)
def test_arp_is_read_as_scapy_writes_it(op: int, sender: bytes, target: bytes, psrc: str, pdst: str) -> None:
    raw = bytes(ARP(op=op, hwsrc=sender.hex(":"), hwdst=target.hex(":"), psrc=psrc, pdst=pdst))
    assert arp(raw + b"padding") == {
        "operation": op,
        "sender_mac": sender,
        "sender": ipaddress.ip_address(psrc).packed,
        "target_mac": target,
        "target": ipaddress.ip_address(pdst).packed,
    }


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(REQUEST[:27], id="short"),
        pytest.param(changed(REQUEST, 0, 0, 6), id="not Ethernet"),
        pytest.param(changed(REQUEST, 2, 0x86, 0xDD), id="not IPv4"),
        pytest.param(changed(REQUEST, 4, 5), id="hlen 5"),
        pytest.param(changed(REQUEST, 4, 7), id="hlen 7"),
        pytest.param(changed(REQUEST, 5, 3), id="plen 3"),
        pytest.param(changed(REQUEST, 5, 16), id="plen 16"),
        pytest.param(changed(REQUEST, 6, 0, 0), id="operation 0"),
        pytest.param(changed(REQUEST, 6, 0, 3), id="RARP"),
        pytest.param(changed(REQUEST, 6, 1, 1), id="operation 257"),
    ],
)
def test_arp_that_is_not_about_ipv4_on_ethernet_is_none(raw: bytes) -> None:
    """L3"""
    assert arp(raw) is None
