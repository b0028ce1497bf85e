"""Chains of the relay's tables stay short, whatever guests put into them."""

from __future__ import annotations

import collections
import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbox_net.relay._testing import flow_bucket, guest_bucket

COUNT = 1024
CHAIN_MAX = 12  # so many of 1024 meet in one of 1024 buckets less often than once in 10^6 draws


def mapped(address: str, add: int = 0) -> bytes:
    packed = (ipaddress.ip_address(address) + add).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def longest(buckets: Iterable[int]) -> int:
    return max(collections.Counter(buckets).values())


many_seeds = given(seed=st.integers(0, 2**64 - 1))
first_addresses = pytest.mark.parametrize("first", ["10.0.0.0", "fd00:db8::", "2001:db8:0:1::"])
steps = pytest.mark.parametrize("step", [1, 256, 65536])


@first_addresses
@steps
@many_seeds
@settings(max_examples=20)
def test_guests_with_neighbouring_addresses_are_spread(first: str, step: int, seed: int) -> None:
    assert longest(guest_bucket(seed, mapped(first, i * step)) for i in range(COUNT)) <= CHAIN_MAX


@first_addresses
@steps
@many_seeds
@settings(max_examples=20)
def test_connections_to_neighbouring_addresses_are_spread(first: str, step: int, seed: int) -> None:
    src = mapped("192.0.2.2")
    assert (
        longest(flow_bucket(seed, src, mapped(first, i * step), 4000, 80) for i in range(COUNT)) <= CHAIN_MAX
    )


@many_seeds
@settings(max_examples=20)
def test_connections_from_neighbouring_ports_are_spread(seed: int) -> None:
    src, dst = mapped("192.0.2.2"), mapped("198.51.100.1")
    assert longest(flow_bucket(seed, src, dst, 4000 + i, 80) for i in range(COUNT)) <= CHAIN_MAX
    assert longest(flow_bucket(seed, src, dst, 4000, 1 + i) for i in range(COUNT)) <= CHAIN_MAX
