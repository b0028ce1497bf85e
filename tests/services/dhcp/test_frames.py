"""Frames against scapy, and the kernel's filter against the same rules."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from arcbox_net.services.dhcp.frames import arp_probe, arp_sender, filter_for, unwrap, wrap
from tests.services.dhcp.site import MAC_A, MAC_B

GUEST, SERVER = "192.168.64.2", "192.168.64.1"


def frame(payload: bytes = b"hello", **changes: object) -> bytes:
    ip = IP(src=GUEST, dst=SERVER)
    udp = UDP(sport=68, dport=67)
    for name, value in changes.items():
        setattr(udp if name in ("dport", "len_udp") else ip, name.removesuffix("_udp"), value)
    return bytes(Ether(src="02:00:00:00:00:0a", dst="ff:ff:ff:ff:ff:ff") / ip / udp / Raw(payload))


def test_the_payload_and_its_sender_come_out() -> None:
    found = unwrap(frame())
    assert found is not None and found.payload == b"hello"
    assert (found.source_mac, found.source_ip) == (MAC_A, int(IPv4Address(GUEST)))


def test_ethernet_padding_is_no_payload() -> None:
    found = unwrap(frame() + b"\xa5" * 30)
    assert found is not None and found.payload == b"hello"


def test_ip_options_are_skipped() -> None:
    found = unwrap(frame(options=[b"\x94\x04\0\0"]))
    assert found is not None and found.payload == b"hello"


def test_a_checksum_left_to_the_device_is_no_reason_to_drop() -> None:
    assert unwrap(frame(chksum=0)) is not None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(frame()[:41], id="cut-in-the-udp-header"),
        pytest.param(frame()[:-1], id="shorter-than-its-ip-length"),
        pytest.param(frame(len=27), id="ip-length-below-the-headers"),
        pytest.param(frame(len=65535), id="ip-length-past-the-end"),
        pytest.param(frame(len_udp=7), id="udp-length-below-its-header"),
        pytest.param(frame(len_udp=100), id="udp-length-past-the-end"),
        pytest.param(frame(ihl=4), id="ihl-4"),
        pytest.param(frame(ihl=15), id="ihl-15"),
        pytest.param(frame(version=6), id="version-6"),
        pytest.param(frame(proto=6), id="tcp"),
        pytest.param(frame(flags="MF"), id="first-fragment"),
        pytest.param(frame(frag=1), id="later-fragment"),
        pytest.param(frame(dport=68), id="another-port"),
    ],
)
def test_what_is_no_whole_datagram_for_us_is_dropped(bad: bytes) -> None:
    assert unwrap(bad) is None


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    unwrap(data)
    unwrap(frame()[: len(data)] + data)
    arp_sender(data)


@given(st.binary(max_size=1500), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_both_checksums_are_what_scapy_computes(payload: bytes, src: int, dst: int) -> None:
    built = wrap(payload, src_mac=MAC_A, dst_mac=MAC_B, src_ip=src, dst_ip=dst)
    seen = Ether(built)
    assert (seen.src, seen.dst) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    assert (seen[IP].src, seen[IP].dst, seen[IP].ttl) == (str(IPv4Address(src)), str(IPv4Address(dst)), 64)
    assert (seen[UDP].sport, seen[UDP].dport) == (67, 68)
    again = Ether(built)
    del again[IP].chksum, again[UDP].chksum
    assert bytes(again) == built
    found = unwrap(built, dst_port=68)
    assert found is not None and found.payload == payload


def test_a_probe_asks_without_claiming_an_address() -> None:
    probe = Ether(arp_probe(MAC_A, int(IPv4Address(GUEST))))
    assert (probe.dst, probe.src) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:0a")
    assert (probe[ARP].op, probe[ARP].psrc, probe[ARP].pdst) == (1, "0.0.0.0", GUEST)
    assert arp_sender(bytes(probe)) is None, "a probe claims nothing"


def test_the_sender_of_an_arp_reply_is_read() -> None:
    reply = bytes(Ether() / ARP(op=2, hwsrc="02:00:00:00:00:0b", psrc=GUEST))
    assert arp_sender(reply) == (MAC_B, int(IPv4Address(GUEST)))
    assert arp_sender(reply[:30]) is None


def run_filter(
    program: tuple[tuple[int, int, int, int], ...], data: bytes, *, vlan: int = 0, pkttype: int = 0
) -> int:
    """The few instructions that the filter uses, as Documentation/networking/filter says."""
    a = x = at = 0
    ancillary = {0xFFFFF004: pkttype, 0xFFFFF030: vlan}
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x20:
            a = ancillary[k]
        elif code in (0x28, 0x30, 0x48, 0xB1):
            size = 2 if code in (0x28, 0x48) else 1
            where = k + (x if code == 0x48 else 0)
            if where + size > len(data):
                return 0
            value = int.from_bytes(data[where : where + size], "big")
            if code == 0xB1:
                x = (value & 0xF) * 4
            else:
                a = value
        elif code == 0x15:
            at += jt if a == k else jf
        elif code == 0x45:
            at += jt if a & k else jf
        else:
            assert code == 0x06
            return k


@pytest.mark.parametrize(
    ("data", "more", "passes"),
    [
        pytest.param(frame(), {}, True, id="dhcp"),
        pytest.param(frame(options=[b"\x94\x04\0\0"]), {}, True, id="with-ip-options"),
        pytest.param(frame(), {"pkttype": 1}, True, id="broadcast"),
        pytest.param(frame(), {"vlan": 1}, False, id="vlan-tagged"),
        pytest.param(frame(), {"pkttype": 3}, False, id="to-another-machine"),
        pytest.param(frame(dport=68), {}, False, id="to-a-client"),
        pytest.param(frame(proto=6), {}, False, id="tcp"),
        pytest.param(frame(flags="MF"), {}, False, id="fragment"),
        pytest.param(frame(flags="DF"), {}, True, id="dont-fragment"),
        pytest.param(bytes(Ether() / ARP()), {}, False, id="arp"),
        pytest.param(b"\0" * 12, {}, False, id="short"),
    ],
)
def test_d19_the_filter_passes_what_unwrap_reads(data: bytes, more: dict[str, int], passes: bool) -> None:
    assert bool(run_filter(filter_for(67), data, **more)) is passes
