"""Frames against scapy, and the kernel's filter against the same rules."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from arcbox_net.services.dhcp.frames import arp_probe, arp_sender, filter_for
from tests.services.dhcp.site import GUEST, MAC_A, MAC_B, frame


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    arp_sender(data)


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
