"""Who gets which frame: forwarding, flooding, learning and isolation (L2, L6, L8)."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from tests.support.switch import (
    BROADCAST,
    GATEWAY_MAC,
    NO_OFFLOAD,
    UPLINK,
    Segment,
    arp,
    ether,
    guest,
    ip_of,
    mac_of,
    tcp4,
)

KERNEL_GUEST = "02:00:00:00:00:77"


def test_known_unicast_goes_to_its_port_alone() -> None:
    assert Segment().reaches(0, tcp4(0, 1)) == {1}


def test_the_gateway_is_behind_the_uplink() -> None:
    assert Segment().reaches(0, ether(0, GATEWAY_MAC) / tcp4(0, 1).payload) == {UPLINK}


def test_broadcast_goes_to_all_but_its_sender() -> None:
    segment = Segment()
    assert segment.reaches(0, arp(0, ip_of(1))) == {1, 2, UPLINK}
    assert segment.reaches(UPLINK, Ether(src=GATEWAY_MAC, dst=BROADCAST) / Raw(bytes(46))) == {0, 1, 2}


def test_unknown_unicast_goes_to_the_uplink_and_not_to_guests() -> None:
    frame = Ether(src=mac_of(0), dst=KERNEL_GUEST) / tcp4(0, 1).payload
    assert Segment().reaches(0, frame) == {UPLINK}


def test_unknown_unicast_from_the_uplink_goes_nowhere() -> None:
    frame = Ether(src=GATEWAY_MAC, dst=KERNEL_GUEST) / tcp4(0, 1).payload
    assert Segment().reason(UPLINK, frame) == "nowhere"


def test_a_frame_to_its_own_port_goes_nowhere() -> None:
    assert Segment().reason(0, tcp4(0, 0)) == "nowhere"


def test_each_port_gets_its_frames_of_a_burst_in_their_order() -> None:
    frames = [tcp4(0, 1 + i % 2, size=i) for i in range(64)]
    found = Segment().send(0, *frames)
    assert found == {
        1: [bytes(frame) for frame in frames[0::2]],
        2: [bytes(frame) for frame in frames[1::2]],
    }


def test_what_lies_behind_the_head_arrives() -> None:
    assert Segment().reaches(0, tcp4(0, 1, size=1400)) == {1}


def test_frames_of_a_port_without_a_binding_are_dropped() -> None:
    segment = Segment(guests=[guest(0), guest(1)])
    assert segment.reason(2, tcp4(2, 1)) == "source_mac"
    segment.switch.unbind(segment.lab, 0)
    assert segment.reason(0, tcp4(0, 1)) == "source_mac"


def test_unbinding_what_is_not_bound_is_refused() -> None:
    segment = Segment(guests=[guest(0)])
    with pytest.raises(OSError):
        segment.switch.unbind(segment.lab, 2)


def test_the_binding_of_a_port_that_is_gone_is_not_its_successors() -> None:
    segment = Segment()
    segment.lab.set_port(1, generation=2)
    assert segment.reason(1, tcp4(1, 0)) == "source_mac"
    assert segment.reason(0, tcp4(0, 1)) == "nowhere"
    segment.lab.tick()
    segment.bind(2, guest(1))  # its addresses are free
    assert segment.reaches(0, tcp4(0, 1)) == {2}


def test_guests_on_the_bridge_are_learned() -> None:
    segment = Segment()
    segment.send(UPLINK, Ether(src=KERNEL_GUEST, dst=mac_of(0)) / tcp4(1, 0).payload)
    learned = [entry for entry in segment.switch.fdb(segment.lab, 0) if entry.age_s is not None]
    assert [(entry.mac, entry.port) for entry in learned] == [(KERNEL_GUEST, UPLINK)]


def test_l2_a_learned_address_is_not_stolen_and_is_free_when_it_has_aged() -> None:
    segment = Segment(guests=[PortBinding("trusted"), guest(1)])
    stolen = Ether(src=KERNEL_GUEST, dst=mac_of(1)) / tcp4(0, 1).payload
    assert segment.reaches(UPLINK, stolen) == {1}
    assert segment.reason(0, stolen) == "source_mac"
    segment.lab.tick(2990)
    assert segment.reason(0, stolen) == "source_mac"
    segment.lab.tick(30)
    assert segment.reaches(0, stolen) == {1}


def test_what_is_heard_before_the_first_tick_does_not_age_then() -> None:
    switch = Switch()
    lab = Lab(switch, 1)
    lab.now_ns = 3_600_000_000_000
    frame = NO_OFFLOAD + bytes(Ether(src=KERNEL_GUEST, dst=BROADCAST) / Raw(bytes(46)))
    lab.rx(0, [frame])  # not bound yet
    switch.bind(lab, 0, PortBinding("uplink"))
    lab.rx(0, [frame])
    lab.tick(20)
    assert [entry.mac for entry in switch.fdb(lab, 0)] == [KERNEL_GUEST]


def test_an_address_that_is_heard_does_not_age() -> None:
    segment = Segment(guests=[PortBinding("trusted"), guest(1)])
    frame = Ether(src=KERNEL_GUEST, dst=mac_of(1)) / tcp4(0, 1).payload
    for _ in range(3):
        segment.send(UPLINK, frame)
        segment.lab.tick(2000)
    assert segment.reason(0, frame) == "source_mac"


def test_a_binding_takes_a_learned_address() -> None:
    segment = Segment(guests=[guest(0), guest(1)])
    segment.send(UPLINK, Ether(src=mac_of(2), dst=mac_of(0)) / tcp4(2, 0).payload)
    segment.bind(2, guest(2))
    assert segment.reaches(0, tcp4(0, 2)) == {2}


def test_an_address_of_another_binding_is_refused_and_nothing_changes() -> None:
    segment = Segment()
    with pytest.raises(FileExistsError):
        segment.bind(2, guest(1))
    assert segment.reaches(0, tcp4(0, 2)) == {2}


def test_a_guest_cannot_come_in_by_the_uplink() -> None:
    assert Segment().reason(UPLINK, tcp4(0, 1)) == "source_mac"


@pytest.mark.parametrize("destination", [mac_of(1), mac_of(2), BROADCAST, KERNEL_GUEST])
def test_l8_isolated_ports_hear_nothing_of_each_other(destination: str) -> None:
    segment = Segment(guests=[guest(0, isolated=True), guest(1, isolated=True), guest(2)])
    found = segment.send(0, Ether(src=mac_of(0), dst=destination) / tcp4(0, 1).payload)
    assert 1 not in found
    assert segment.reason(0, tcp4(0, 1)) == "isolated"
    assert segment.reaches(0, tcp4(0, 2)) == {2}
    assert segment.reaches(2, tcp4(2, 0)) == {0}


def test_l8_a_broadcast_that_only_isolated_ports_could_hear_is_dropped_for_that() -> None:
    segment = Segment(guests=[guest(0, isolated=True), guest(1, isolated=True)])
    segment.switch.unbind(segment.lab, UPLINK)
    assert segment.reason(0, arp(0, ip_of(1))) == "isolated"


SNAP_IPV4 = b"\xaa\xaa\x03\0\0\0\x08\0"


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ether(0, 1) / Dot1Q(vlan=5) / tcp4(0, 1).payload, id="vlan"),
        pytest.param(ether(0, 1, type=0x88A8) / Dot1AD(vlan=5) / tcp4(0, 1).payload, id="qinq"),
        pytest.param(ether(0, "01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46)), id="lldp"),
        pytest.param(ether(0, "01:80:c2:00:00:00", type=38) / Raw(bytes(46)), id="stp"),
        pytest.param(ether(0, "01:80:c2:00:00:01", type=0x8808) / Raw(bytes(46)), id="pause"),
        pytest.param(ether(0, 1, type=48) / Raw(SNAP_IPV4 + bytes(40)), id="ipv4 behind a length and snap"),
        pytest.param(ether(0, 1, type=0x88E5) / Raw(bytes(46)), id="unknown ethertype"),
    ],
)
def test_l6_tags_and_control_protocols_are_dropped(frame: Ether) -> None:
    assert Segment().reason(0, frame) == "vlan"


@pytest.mark.parametrize("last", [0x00, 0x0F])
def test_l6_link_control_is_dropped_from_any_port(last: int) -> None:
    segment = Segment(guests=[PortBinding("trusted"), guest(1)])
    for port, source in ((0, KERNEL_GUEST), (UPLINK, GATEWAY_MAC)):
        frame = Ether(src=source, dst=f"01:80:c2:00:00:{last:02x}", type=0x88CC) / Raw(bytes(46))
        assert segment.reason(port, frame) == "vlan"


def test_other_groups_of_that_range_are_flooded() -> None:
    frame = Ether(src=GATEWAY_MAC, dst="01:80:c2:00:00:10") / tcp4(0, 1).payload
    assert Segment().reaches(UPLINK, frame) == {0, 1, 2}


def test_a_trusted_port_may_send_anything() -> None:
    segment = Segment(guests=[PortBinding("trusted"), guest(1)])
    assert segment.reaches(0, Ether(src=mac_of(9), dst=mac_of(1)) / Dot1Q(vlan=5) / tcp4(7, 1).payload) == {1}


@pytest.mark.parametrize("size", [0, 1, 13])
def test_less_than_a_header_is_no_frame(size: int) -> None:
    assert Segment().reason(0, bytes(size)) == "short"


def test_nobody_has_the_zero_address() -> None:
    assert Segment().reaches(0, ether(0, "00:00:00:00:00:00") / tcp4(0, 1).payload) == {UPLINK}
