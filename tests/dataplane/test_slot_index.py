"""The index from hashes to entries, beside a list of (hash, entry)."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.dataplane._testing_conntrack import SlotIndex, mix

ENTRIES = 16
DISTANCE_MAX = 127
HOME_SHIFT = 25
# Homes at the end and the beginning of the slots, so that searches collide and wrap around.
HASHES = st.sampled_from([(home << HOME_SHIFT) | tag for home in (0, 1, 2, 30, 31) for tag in (0, 1 << 20)])


@given(st.lists(st.tuples(st.integers(0, ENTRIES - 1), HASHES)))
def test_entries_are_found_by_their_hash_whatever_came_and_went(steps: list[tuple[int, int]]) -> None:
    index = SlotIndex(ENTRIES)
    entries: dict[int, int] = {}
    for entry, hash_ in steps:
        if entry in entries:
            assert index.remove(entries.pop(entry), entry)
        else:
            assert index.insert(hash_, entry)
            entries[entry] = hash_
        assert len(index) == len(entries)
        for present, its_hash in entries.items():
            assert present in index.candidates(its_hash)
            assert index.first(its_hash) in index.candidates(its_hash)
        assert all(found in entries for hash_ in entries.values() for found in index.candidates(hash_))


def test_an_entry_that_was_not_added_with_this_hash_is_not_removed() -> None:
    index = SlotIndex(ENTRIES)
    assert index.insert(7 << HOME_SHIFT, 3)
    assert not index.remove(7 << HOME_SHIFT, 4)
    assert not index.remove(8 << HOME_SHIFT, 3)
    assert index.candidates(7 << HOME_SHIFT) == [3]


def test_an_entry_is_at_most_so_far_from_home_and_one_further_is_refused() -> None:
    index = SlotIndex(1024)
    home = 5 << HOME_SHIFT
    for entry in range(DISTANCE_MAX + 1):
        assert index.insert(home, entry)
    assert not index.insert(home, DISTANCE_MAX + 1)
    assert index.candidates(home) == list(range(DISTANCE_MAX + 1))
    assert index.remove(home, 0)
    assert index.insert(home, DISTANCE_MAX + 1)
    assert len(index) == DISTANCE_MAX + 1


def test_the_first_candidate_is_found_wherever_it_is() -> None:
    index = SlotIndex(ENTRIES)
    last_home = index.slots - 1 << HOME_SHIFT
    for entry in range(6):  # those of the last home go on at the first
        assert index.first(last_home | 1 << 20) is None
        assert index.insert(last_home, entry)
    assert index.insert(last_home | 1 << 20, 6)
    assert index.first(last_home) == 0
    assert index.first(last_home | 1 << 20) == 6


def test_slots_are_twice_the_entries_at_least() -> None:
    assert [SlotIndex(n).slots for n in (1, 4, 5, 1024, 1025)] == [8, 8, 16, 2048, 4096]


def test_keys_that_differ_in_their_ports_alone_spread_over_homes_and_tags() -> None:
    chance = random.Random(1)
    seed = (chance.getrandbits(64), chance.getrandbits(64))
    hashes = [mix(0x0A00_0001_C0A8_0002, port << 16 | 53, *seed) for port in range(4096)]
    for shift in (0, HOME_SHIFT, 52):
        buckets = [0] * 256
        for hash_ in hashes:
            buckets[hash_ >> shift & 255] += 1
        # Of 255 degrees of freedom: 360 is exceeded once in 60,000 seeds, and this one is fixed.
        assert sum((n - 16) ** 2 / 16 for n in buckets) < 360


def test_another_seed_is_another_order() -> None:
    assert mix(1, 2, 3, 4) != mix(1, 2, 3, 5)
    assert mix(1, 2, 3, 4) != mix(1, 2, 4, 4)
