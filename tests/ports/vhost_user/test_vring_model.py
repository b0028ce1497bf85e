"""The walker beside the readable one of tests/oracle, on descriptors that somebody threw together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcbox_net.memory.guest_memory import GuestMemory
from arcbox_net.ports.vhost_user._testing import Walker
from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.vring import RingFault
from tests.fuzz.vring import drive
from tests.oracle.vring import BadRing, Device
from tests.support.virtqueue import INDIRECT, NEXT, USER, WRITE, Ram, Ring

PAGE = 4096
SIZE = 8
TABLES = 4 * PAGE  # of descriptors, for indirect ones to name
EDGES = [0, 3 * PAGE, 8 * PAGE]  # the regions touch, as the guest sees them

addresses = st.one_of(
    st.sampled_from(
        [0, PAGE, 3 * PAGE - 16, 3 * PAGE - 1, 3 * PAGE, 8 * PAGE - 1, 8 * PAGE, 1 << 63, (1 << 64) - 8]
    ),
    st.integers(0, SIZE - 1).map(lambda place: TABLES + 16 * place),
)
sizes = st.sampled_from([0, 1, 12, 15, 16, 17, 32, 64, 128, 1500, 16 * 1024, 16 * 1025, (1 << 32) - 1])
flags = st.sampled_from(
    [0, 0, NEXT, NEXT, NEXT, WRITE, WRITE | NEXT, INDIRECT, INDIRECT | NEXT, INDIRECT | WRITE, 0xFFF8]
)
descriptors = st.tuples(addresses, sizes, flags, st.integers(0, SIZE + 1))


@pytest.fixture(scope="module")
def ram() -> Iterator[Ram]:
    one = Ram(8 * PAGE, gpa=0)
    yield one
    one.close()


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    direct=st.lists(descriptors, min_size=SIZE, max_size=SIZE),
    tables=st.lists(descriptors, min_size=SIZE, max_size=SIZE),
    heads=st.lists(st.integers(0, SIZE), min_size=1, max_size=SIZE + 1),
    indirect=st.booleans(),
)
def test_v36_walker_finds_what_the_readable_one_does(
    ram: Ram,
    direct: list[tuple[int, int, int, int]],
    tables: list[tuple[int, int, int, int]],
    heads: list[int],
    indirect: bool,
) -> None:
    memory = GuestMemory()
    for start, end in itertools.pairwise(EDGES):
        memory.add(start, end - start, USER + start, start, ram.fd)
    ring = Ring(ram, 2 * PAGE, SIZE)
    for place, each in enumerate(direct):
        ring.put(place, *each)
    shadow = Ring(ram, TABLES, SIZE)
    for place, each in enumerate(tables):
        shadow.put(place, *each)
    ring.offer(*heads)
    layout = ring.descriptors + USER, ring.available + USER, ring.used + USER
    walker = Walker(memory, SIZE, *layout, indirect=indirect)
    oracle = Device(ram, EDGES, ring, Feature.INDIRECT_DESC if indirect else 0)
    if len(heads) > SIZE:
        assert walker.available()[0] == RingFault.FAULT_AVAILABLE
        return
    assert walker.available() == (RingFault.FAULT_NONE, oracle.available())
    for head in heads:
        fault, found_head, found = walker.take()
        try:
            chain = oracle.walk(oracle.head())
        except BadRing as bad:
            assert (fault, found_head, found) == (bad.fault, head, None)
        else:
            content = [ram.read(*each) for each in chain.readable + chain.writable]
            expected = len(chain.readable), len(chain.writable), content
            assert (fault, found_head, found) == (RingFault.FAULT_NONE, head, expected)
        oracle.next += 1


@settings(deadline=None, max_examples=400)
@given(st.binary(min_size=8, max_size=400))
def test_v36_driver_that_writes_anything_and_calls_in_any_order_is_served_as_by_the_readable_device(
    session: bytes,
) -> None:
    drive(session)
