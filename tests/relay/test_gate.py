"""What the gate does with each packet of a guest, seen at the TUN: dial, offer, answer or drop."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach

from tests.support import packets
from tests.support.egress import listening
from tests.support.gate import (
    GATEWAY4,
    GATEWAY6,
    HOST6,
    NO_HOST,
    NO_NET,
    PROHIBITED,
    REFUSED,
    SILENT,
    WORLD6,
    GateBed,
)
from tests.support.netns import WORLD_SUBNET, Host
from tests.support.packets import ICMP, IP, TCP, IPv6
from tests.support.relay import wait_until

pytestmark = pytest.mark.e2e
WORLD4 = Host.world_ip
GUEST = {WORLD4: packets.GUEST4, WORLD6: packets.GUEST6}
both_families = pytest.mark.parametrize("address", [WORLD4, WORLD6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def shared() -> Iterator[GateBed]:
    with GateBed() as running:
        yield running


@pytest.fixture
def bed(shared: GateBed) -> Iterator[GateBed]:
    """The shared bed, with nothing left over on its TUN."""
    assert shared.is_silent()
    yield shared


def is_reset(bed: GateBed, address: str, dport: int, acknowledged: int) -> None:
    """The next packet is the RST that a closed port sends."""
    answer = bed.receive()
    segment = answer[TCP]
    assert (answer.src, answer.dst) == (address, GUEST[WORLD6 if ":" in address else WORLD4])
    assert segment.flags == "RA"
    assert (segment.sport, segment.seq, segment.ack) == (dport, 0, acknowledged)


@both_families
def test_t5_the_syn_comes_back_only_when_the_destination_has_answered(bed: GateBed, address: str) -> None:
    with listening(bed.world, address) as (server, port):
        frame = bed.syn(address, port, options=[("MSS", 1460), ("WScale", 7)])
        assert bed.receive_frame() == frame
        served, _ = server.accept()
        served.close()


@both_families
def test_t4_a_destination_that_is_silent_is_answered_with_silence(bed: GateBed, address: str) -> None:
    bed.syn(address, SILENT)
    assert bed.is_silent()
    assert bed.relay.flows()[0]["state"] == "connecting"


@both_families
def test_t3_a_refused_dial_is_a_reset_that_acknowledges_the_syn(bed: GateBed, address: str) -> None:
    bed.syn(address, REFUSED, seq=0xFFFFFFFF)
    is_reset(bed, address, REFUSED, 0)


@both_families
def test_t3_a_refused_dial_with_data_in_its_syn_is_acknowledged_whole(bed: GateBed, address: str) -> None:
    packet = packets.ip(address) / TCP(sport=9, dport=REFUSED, flags="S", seq=7) / b"early"
    bed.send(packets.frame(packet))
    is_reset(bed, address, REFUSED, 13)


@pytest.mark.parametrize(
    ("port", "code4", "code6"),
    [(NO_HOST, 1, 3), (NO_NET, 0, 0), (PROHIBITED, 1, 1)],  # IPv4 knows no errno for 3/13
    ids=["host unreachable", "network unreachable", "prohibited"],
)
@both_families
def test_t4_an_unreachable_destination_is_an_icmp_error_that_quotes_the_syn(
    bed: GateBed, address: str, port: int, code4: int, code6: int
) -> None:
    frame = bed.syn(address, port)
    answer = bed.receive()
    if address == WORLD4:
        assert (answer[IP].src, answer[IP].dst) == (GATEWAY4, packets.GUEST4)
        assert (answer[ICMP].type, answer[ICMP].code) == (3, code4)
        quoted = bytes(answer[ICMP].payload)
    else:
        error = answer[ICMPv6DestUnreach]
        assert (answer[IPv6].src, answer[IPv6].dst) == (GATEWAY6, packets.GUEST6)
        assert error.code == code6
        quoted = bytes(error)[8:]
    assert quoted == frame[packets.HEADER_BYTES :]


def test_icmp_errors_to_a_guest_are_limited_to_a_hundred_a_second(bed: GateBed) -> None:
    dropped = bed.stat("drop_answer")
    failed = bed.stat("connect_failed")
    for i in range(250):
        bed.send(packets.frame(packets.ip(WORLD4, src="192.0.2.77") / TCP(sport=1 + i, dport=PROHIBITED)))
    bed.wait_for("connect_failed", failed + 250)
    sent = 250 - (bed.stat("drop_answer") - dropped)
    assert sent >= 100
    assert sent % 100 == 0 or sent < 250  # a window may have ended in the middle
    for _ in range(sent):
        assert bed.receive()[ICMP].type == 3


@both_families
def test_t6_a_syn_that_is_sent_again_while_the_dial_waits_dials_nothing(bed: GateBed, address: str) -> None:
    accepted, repeated = bed.stat("accepted"), bed.stat("syn_repeated")
    frame = bed.syn(address, SILENT)
    for _ in range(3):
        bed.send(frame)
    bed.wait_for("syn_repeated", repeated + 3)
    assert bed.stat("accepted") == accepted + 1
    assert bed.is_silent()


def test_t6_a_new_isn_takes_the_place_of_the_one_that_waits(bed: GateBed) -> None:
    """The dial that both wait for fails, and the RST is for the second."""
    bed.host.run(
        "nft -f -",
        stdin="table inet later { chain out { type filter hook output priority 0; tcp dport 7002 drop; }; }",
    )
    bed.syn(WORLD4, REFUSED, sport=5000, seq=100)
    bed.settle()
    replaced = bed.stat("syn_replaced")
    bed.syn(WORLD4, REFUSED, sport=5000, seq=900)
    bed.wait_for("syn_replaced", replaced + 1)
    bed.host.run("nft delete table inet later")
    is_reset(bed, WORLD4, REFUSED, 901)


@both_families
def test_t6_a_syn_of_a_connection_that_was_offered_goes_back_again(bed: GateBed, address: str) -> None:
    with listening(bed.world, address) as (server, port):
        first = bed.syn(address, port, sport=6000, seq=1)
        assert bed.receive_frame() == first
        accepted = bed.stat("accepted")
        bed.send(first)
        assert bed.receive_frame() == first
        other = bed.syn(address, port, sport=6000, seq=2)
        assert bed.receive_frame() == other
        assert bed.stat("accepted") == accepted
        server.accept()[0].close()


def test_a_reset_of_the_guest_gives_the_dial_up(bed: GateBed) -> None:
    bed.syn(WORLD4, SILENT, sport=7000)
    bed.settle()
    active = bed.stat("active")
    bed.send(packets.tcp(WORLD4, SILENT, sport=7000, flags="R"))
    bed.wait_for("active", active - 1)
    (flow,) = (flow for flow in bed.relay.flows() if flow["guest_port"] == 7000)
    assert (flow["state"], flow["reason"]) == ("closed", "reset")


@pytest.mark.parametrize(("sport", "dport"), [(0, 80), (80, 0), (0, 0)])
@both_families
def test_t8_port_0_is_dropped(bed: GateBed, address: str, sport: int, dport: int) -> None:
    before = bed.stat("drop_tcp_port")
    bed.send(packets.tcp(address, dport, sport=sport))
    bed.wait_for("drop_tcp_port", before + 1)
    assert bed.is_silent()


@pytest.mark.parametrize("flags", ["", "FPU", "SF", "SR", "SFR", "FSRPAU", "F", "P", "SU"])
def test_t24_flags_that_no_connection_begins_with_are_dropped(bed: GateBed, flags: str) -> None:
    before = bed.stat("drop_tcp_flags")
    bed.send(packets.tcp(WORLD4, REFUSED, flags=flags))
    bed.wait_for("drop_tcp_flags", before + 1)
    assert bed.is_silent()


def test_a_syn_with_ecn_is_a_syn(bed: GateBed) -> None:
    bed.syn(WORLD4, REFUSED, flags="SEC", seq=1)
    is_reset(bed, WORLD4, REFUSED, 2)


@both_families
def test_t25_a_bad_checksum_is_dropped(bed: GateBed, address: str) -> None:
    before = bed.stat("drop_checksum")
    bed.syn(address, REFUSED, chksum=1)
    bed.wait_for("drop_checksum", before + 1)
    assert bed.is_silent()


@both_families
def test_t28_a_segment_of_no_connection_is_reset(bed: GateBed, address: str) -> None:
    bed.send(packets.tcp(address, 80, sport=1, flags="PA", seq=5, ack=4711))
    segment = bed.receive()[TCP]
    assert (segment.flags, segment.seq) == ("R", 4711)


def test_t29_a_flood_brings_one_answer_for_a_packet_at_most(bed: GateBed) -> None:
    for i in range(200):
        bed.send(packets.tcp(WORLD4, 80, sport=1 + i, flags="A", ack=i))
        bed.send(packets.tcp(WORLD4, 80, sport=1 + i, flags="R"))
    answers = [bed.receive()[TCP].seq for _ in range(200)]
    assert answers == list(range(200))
    assert bed.is_silent()


@both_families
def test_a_segment_of_a_connection_that_the_kernel_has_goes_back_to_it(bed: GateBed, address: str) -> None:
    with listening(bed.world, address) as (server, port):
        bed.syn(address, port, sport=6100, seq=1)
        bed.receive_frame()
        returned = bed.stat("segment_returned")
        for flags, payload in (("A", b""), ("PA", b"data"), ("FA", b""), ("RA", b""), ("R", b"")):
            packet = packets.ip(address) / TCP(sport=6100, dport=port, flags=flags, seq=2, ack=9) / payload
            bed.send(packets.frame(packet))
            assert bed.receive_frame() == packets.frame(packet)
        assert bed.stat("segment_returned") == returned + 5
        server.accept()[0].close()


@both_families
def test_data_that_is_still_to_be_segmented_goes_back_as_it_came(bed: GateBed, address: str) -> None:
    l4_offset, gso_type = (20, 1) if address == WORLD4 else (40, 4)
    offload = {"flags": packets.NEEDS_CSUM, "gso_size": 1400, "csum_start": l4_offset, "csum_offset": 16}
    with listening(bed.world, address) as (server, port):
        bed.syn(address, port, sport=6200, seq=1)
        bed.receive_frame()
        packet = packets.ip(address) / TCP(sport=6200, dport=port, flags="PA", seq=2, ack=9) / bytes(20_000)
        frame = packets.frame(packet, gso_type=gso_type, **offload)
        bed.send(frame)
        assert bed.receive_frame() == frame
        for wrong in (5 - gso_type, 5):  # of the other version, of UDP
            dropped = bed.stat("drop_virtio")
            bed.send(packets.frame(packet, gso_type=wrong, **offload))
            bed.wait_for("drop_virtio", dropped + 1)
        server.accept()[0].close()
    assert bed.is_silent()


def test_a_segment_of_a_connection_that_is_still_dialled_is_dropped(bed: GateBed) -> None:
    bed.syn(WORLD4, SILENT, sport=7100)
    before = bed.stat("drop_tcp_segment")
    bed.send(packets.tcp(WORLD4, SILENT, sport=7100, flags="A"))
    bed.wait_for("drop_tcp_segment", before + 1)
    assert bed.is_silent()


@both_families
def test_data_in_a_syn_is_left_out_of_what_comes_back(bed: GateBed, address: str) -> None:
    with listening(bed.world, address) as (_, port):
        packet = packets.ip(address) / TCP(sport=9000, dport=port, flags="S", seq=5) / b"early data"
        bed.send(packets.frame(packet))
        returned = bed.receive()
        assert bytes(returned[TCP].payload) == b""
        assert (returned[TCP].seq, returned[TCP].sport) == (5, 9000)


HOST_ITSELF = [
    pytest.param("127.0.0.1", id="loopback"),
    pytest.param("127.8.8.8", id="loopback alias"),
    pytest.param("::1", id="loopback over ipv6"),
    pytest.param(Host.host_ip, id="own address"),
    pytest.param(HOST6, id="own address over ipv6"),
]


@pytest.mark.parametrize("address", HOST_ITSELF)
def test_h1_the_host_itself_looks_closed_even_where_it_listens(bed: GateBed, address: str) -> None:
    wildcard = "::" if ":" in address else "0.0.0.0"
    refused = bed.stat("refused_host")
    with listening(bed.host, wildcard) as (server, port):
        bed.syn(address, port, seq=1)
        is_reset(bed, address, port, 2)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert bed.stat("refused_host") == refused + 1


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "::7f00:1", "ff02::1", "fe80::1"]
)
def test_h1_what_no_packet_is_routed_to_is_answered_with_silence(bed: GateBed, address: str) -> None:
    before = bed.stat("drop_destination")
    bed.syn(address, 80)
    bed.wait_for("drop_destination", before + 1)
    assert bed.is_silent()


def test_h1_loopback_behind_a_mapped_address_is_dropped(bed: GateBed) -> None:
    before = bed.stat("drop_address")
    bed.syn("::ffff:127.0.0.1", 80)
    bed.wait_for("drop_address", before + 1)
    assert bed.is_silent()


def test_h1_an_address_of_the_host_that_nobody_told_of_is_found_by_the_dial(bed: GateBed) -> None:
    bed.host.run("ip addr add 198.51.100.9/32 dev lo")
    refused = bed.stat("refused_host")
    with listening(bed.host, "198.51.100.9") as (_, port):
        bed.syn("198.51.100.9", port, seq=1)
        is_reset(bed, "198.51.100.9", port, 2)
    assert bed.stat("refused_host") == refused + 1
    bed.host.run("ip addr del 198.51.100.9/32 dev lo")


def test_h1_a_second_address_of_a_subnet_is_found_by_the_dial(bed: GateBed) -> None:
    address = f"{WORLD_SUBNET}.99"
    bed.host.run(f"ip addr add {address}/24 dev {bed.host.uplink}")
    refused = bed.stat("refused_host")
    with listening(bed.host, address) as (_, port):
        bed.syn(address, port, seq=1)
        is_reset(bed, address, port, 2)
    assert bed.stat("refused_host") == refused + 1
    bed.host.run(f"ip addr del {address}/24 dev {bed.host.uplink}")


def test_a_published_port_of_the_host_is_reached_and_its_neighbour_is_not(bed: GateBed) -> None:
    with listening(bed.host, "0.0.0.0") as (_, port):
        for published in (bed.host.host_ip, "0.0.0.0"):
            bed.relay.set_hairpin([(published, port)])
            frame = bed.syn(bed.host.host_ip, port)
            assert bed.receive_frame() == frame
            bed.syn(bed.host.host_ip, port + 1, seq=1)
            is_reset(bed, bed.host.host_ip, port + 1, 2)
        bed.relay.set_hairpin([], udp=[(bed.host.host_ip, port)])
        bed.syn(bed.host.host_ip, port, seq=1)
        is_reset(bed, bed.host.host_ip, port, 2)
        bed.relay.set_hairpin([("127.0.0.1", port), ("0.0.0.0", port)])
        bed.syn("127.0.0.1", port, seq=1)
        is_reset(bed, "127.0.0.1", port, 2)
    bed.relay.set_hairpin([])


def test_the_dial_timeout_is_silent_and_is_told_in_the_list() -> None:
    with GateBed(connect_timeout_ms=50) as bed:
        bed.syn(WORLD4, SILENT, sport=1234)
        bed.wait_for("connect_timeout", 1)
        assert bed.stat("active") == 0
        assert bed.is_silent()
        (flow,) = bed.relay.flows()
        assert (flow["guest"], flow["guest_port"]) == (packets.GUEST4, 1234)
        assert (flow["peer"], flow["peer_port"]) == (WORLD4, SILENT)
        assert (flow["state"], flow["reason"]) == ("closed", "connect timeout")


def test_an_offer_that_the_guest_does_not_take_ends_with_a_reset_of_the_destination() -> None:
    with GateBed(offer_timeout_ms=50) as bed, listening(bed.world, WORLD4) as (server, port):
        bed.syn(WORLD4, port)
        bed.receive_frame()
        served, _ = server.accept()
        with served, pytest.raises(ConnectionResetError):
            served.recv(1)
        bed.wait_for("abandoned", 1)
        assert bed.stat("active") == 0
        assert bed.relay.flows()[0]["reason"] == "abandoned"


def test_k14_a_host_without_source_ports_resets_the_one_past_them_and_no_other() -> None:
    with GateBed() as bed:
        bed.host.sysctl("net.ipv4.ip_local_port_range", "40000 40001")
        for i in range(2):
            bed.syn(WORLD4, SILENT, sport=100 + i)
        bed.syn(WORLD4, SILENT, sport=200, seq=1)
        is_reset(bed, WORLD4, SILENT, 2)
        assert bed.relay.flows()[0]["reason"] == os.strerror(errno.EADDRNOTAVAIL).lower()
        assert bed.stat("active") == 2


def test_g2_flows_hold_at_most_nine_tenths_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with GateBed() as bed:
        for i in range(45):
            bed.syn(WORLD4, SILENT, sport=100 + i)
        bed.syn(WORLD4, SILENT, seq=1)
        is_reset(bed, WORLD4, SILENT, 2)
        assert (bed.stat("refused_limit"), bed.stat("active")) == (1, 45)


def test_dials_are_limited_for_a_guest_and_in_all() -> None:
    with GateBed(dials_max=6, dials_per_guest_max=3) as bed:
        for i in range(4):
            bed.syn(WORLD4, SILENT, sport=100 + i)
        bed.wait_for("drop_dials", 1)
        assert bed.stat("active") == 3
        for i, dropped in enumerate((1, 1, 1, 2)):
            other = f"192.0.2.{10 + i}"
            bed.send(packets.frame(packets.ip(WORLD4, src=other) / TCP(sport=1, dport=SILENT, flags="S")))
            bed.settle()
            assert bed.stat("drop_dials") == dropped
        assert bed.stat("active") == 6
        assert bed.is_silent()
        bed.send(packets.tcp(WORLD4, SILENT, sport=100, flags="R"))
        later = packets.ip(WORLD4, src="192.0.2.20") / TCP(sport=1, dport=SILENT, flags="S")
        bed.send(packets.frame(later))
        bed.wait_for("accepted", 7)


def test_n24_guests_that_dial_all_they_may_leave_dials_for_one_that_comes_later() -> None:
    with GateBed(dials_max=16, dials_per_guest_max=8) as bed:
        for address in range(3):
            for i in range(8):
                packet = packets.ip(WORLD6, src=f"fd00:db8:1::a{address}") / TCP(sport=100 + i, dport=SILENT)
                bed.send(packets.frame(packet))
        bed.settle()
        assert bed.stat("drop_dials") > 0
        bed.syn(WORLD4, REFUSED, seq=1)
        is_reset(bed, WORLD4, REFUSED, 2)


def test_flows_are_limited_for_a_guest_and_in_all_and_the_one_past_it_is_reset() -> None:
    with GateBed(flows_max=4, flows_per_guest_max=3) as bed:
        for i in range(3):
            bed.syn(WORLD4, SILENT, sport=100 + i)
        bed.syn(WORLD4, SILENT, sport=200, seq=1)
        is_reset(bed, WORLD4, SILENT, 2)
        assert (bed.stat("refused_guest"), bed.stat("active")) == (1, 3)
        for other in ("192.0.2.3", "192.0.2.4"):
            bed.send(packets.frame(packets.ip(WORLD4, src=other) / TCP(sport=1, dport=SILENT, flags="S")))
        assert bed.receive()[IP].dst == "192.0.2.4"
        assert (bed.stat("refused_limit"), bed.stat("active")) == (1, 4)


def test_a_guest_with_many_ipv6_addresses_is_one_guest_by_its_flow_label() -> None:
    with GateBed(flows_max=16, flows_per_guest_max=3) as bed:

        def dial(source: int, label: int) -> None:
            head = packets.ip(WORLD6, src=f"fd00:db8:1::{source:x}", fl=label)
            bed.send(packets.frame(head / TCP(sport=1000, dport=SILENT, flags="S")))
            bed.settle()

        for source in range(16, 20):
            dial(source, 0xA0007)  # the upper bits are the guest's own
        assert bed.receive()[IPv6].dst == "fd00:db8:1::13"
        assert (bed.stat("refused_guest"), bed.stat("active")) == (1, 3)
        dial(20, 8)
        dial(21, 0xB0000)  # without a label the address counts
        dial(22, 0xB0000)
        assert (bed.stat("refused_guest"), bed.stat("active")) == (1, 6)


def test_an_offer_that_nobody_takes_is_listed_as_connecting_and_ends_with_the_relay() -> None:
    with GateBed() as bed, listening(bed.world, WORLD4) as (server, port):
        bed.syn(WORLD4, port)
        bed.receive_frame()
        served, _ = server.accept()
        (flow,) = bed.relay.flows()
        assert flow["state"] == "connecting"
        bed.relay.stop()
        with pytest.raises(ConnectionResetError):
            served.recv(1)
        served.close()
        assert bed.relay.stats()["active"] == 0
        assert bed.relay.flows() == []


def test_the_list_of_ended_flows_keeps_the_last_ones() -> None:
    with GateBed(closed_flows_max=5) as bed:
        for i in range(8):
            bed.syn(WORLD4, REFUSED, sport=100 + i)
            bed.receive()
        assert [flow["guest_port"] for flow in bed.relay.flows()] == [107, 106, 105, 104, 103]


def test_a_tun_that_takes_nothing_costs_the_packet_and_nothing_else() -> None:
    with GateBed() as bed:
        bed.tun.shutdown(socket.SHUT_RD)
        bed.syn(WORLD4, REFUSED)
        wait_until(lambda: bed.stat("drop_write") == 1, "the RST was dropped")
        bed.syn(WORLD4, REFUSED)
        wait_until(lambda: bed.stat("drop_write") == 2, "the next one too")
