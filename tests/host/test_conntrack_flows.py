"""Flows of guests behind masquerade, as conntrack has them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network

import pytest

from arcbox_net.host.linux.conntrack_flows import flow_of, guest_flows
from arcbox_net.host.linux.netlink import attr, nested
from tests.host.firewall_lab import Lab, ask_on, client, server
from tests.support.netns import Host

SUBNET = IPv4Network("192.168.64.0/24")
HEADER = b"\x02\0\0\0"
TCP, UDP = 6, 17


def direction(kind: int, src: bytes, dst: bytes, protocol: int, src_port: int, dst_port: int) -> bytes:
    addresses = nested(1, attr(1, src), attr(2, dst))
    numbers = nested(
        2,
        attr(1, bytes([protocol])),
        attr(2, struct.pack("!H", src_port)),
        attr(3, struct.pack("!H", dst_port)),
    )
    return nested(kind, addresses, numbers)


def entry(src: str, dst: str, protocol: int, *more: bytes) -> bytes:
    one, other = (bytes(int(part) for part in text.split(".")) for text in (src, dst))
    there = direction(1, one, other, protocol, 40000, 443)
    return HEADER + there + direction(2, other, one, protocol, 443, 40000) + b"".join(more)


def counters(kind: int, count: int) -> bytes:
    return nested(kind, attr(2, struct.pack("!Q", count)))


def test_connection_of_a_guest_is_told_with_state_and_bytes() -> None:
    established = nested(4, nested(1, attr(1, b"\x03")))
    payload = entry(
        "192.168.64.2", "203.0.113.1", TCP, established, counters(9, 100), counters(10, 5_000_000_000)
    )
    assert list(flow_of(payload, SUBNET)) == [
        {
            "protocol": "tcp",
            "guest": "192.168.64.2",
            "guest_port": 40000,
            "peer": "203.0.113.1",
            "peer_port": 443,
            "state": "open",
            "bytes_out": 100,
            "bytes_in": 5_000_000_000,
        }
    ]


@pytest.mark.parametrize(("status", "state"), [(0, "unanswered"), (2, "open")])
def test_datagrams_are_open_when_they_were_answered(status: int, state: str) -> None:
    payload = entry("192.168.64.2", "203.0.113.1", UDP, attr(3, struct.pack("!I", status)))
    (flow,) = flow_of(payload, SUBNET)
    assert (flow["protocol"], flow["state"], flow["bytes_out"]) == ("udp", state, None)


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        pytest.param("203.0.113.7", "192.168.64.2", id="inbound"),
        pytest.param("10.1.1.1", "203.0.113.1", id="of-the-host"),
        pytest.param("192.168.64.2", "192.168.64.1", id="to-the-gateway"),
        pytest.param("192.168.64.2", "224.0.0.251", id="multicast"),
    ],
)
def test_what_is_no_flow_of_a_guest_to_the_outside_is_left_out(src: str, dst: str) -> None:
    assert list(flow_of(entry(src, dst, TCP), SUBNET)) == []


@pytest.mark.parametrize("cut", range(4, 60, 7))
def test_message_that_is_cut_short_is_no_flow_or_a_whole_one(cut: int) -> None:
    payload = entry("192.168.64.2", "203.0.113.1", TCP)[:cut]
    assert list(flow_of(payload, SUBNET)) == []


@pytest.mark.e2e
def test_kernel_tells_a_guests_flows() -> None:
    with Host() as host:
        lab = Lab(host)
        alice = lab.guest()
        with server(host.world, 5000, "udp"), client(alice.ns, "udp") as sock:
            assert ask_on(sock, host.world_ip, 5000)
            (flow,) = host.call(lambda: guest_flows([lab.subnet]))
        assert (flow["guest"], flow["peer"], flow["peer_port"]) == (str(alice.ip), host.world_ip, 5000)
        assert flow["state"] == "open"
