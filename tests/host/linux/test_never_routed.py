"""Which addresses no guest reaches, whatever the egress."""

from __future__ import annotations

import ipaddress

import pytest

from arcbox_net.host.linux.never_routed import NEVER_ROUTED, NEVER_ROUTED6

NETWORKS = [ipaddress.ip_network(text) for text in (*NEVER_ROUTED, *NEVER_ROUTED6)]


def is_never_routed(address: str) -> bool:
    return any(ipaddress.ip_address(address) in network for network in NETWORKS)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "127.8.8.8",
        "0.0.0.0",
        "255.255.255.255",
        "239.1.1.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::169.254.169.254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::fb",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b::6464:64c8",
        "2002:a9fe:a9fe::1",
    ],
)
def test_h2_metadata_loopback_and_multicast_are_never_routed_in_any_spelling(address: str) -> None:
    assert is_never_routed(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "10.0.0.1",
        "100.100.100.201",
        "192.168.1.1",
        "223.255.255.255",
        "2001:db8::1",
        "fd00:ec2::253",
        "fd12::1",
        "64:ff9b::808:808",
    ],
)
def test_ordinary_and_private_destinations_are_routed(address: str) -> None:
    assert not is_never_routed(address)
