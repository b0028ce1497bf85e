"""When the cache in front of the index is asked, and that a wrong guess of it harms nobody."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_conntrack import Table
from tests.support.conntrack import ways

WINDOW = 4096
BYPASS = 15 * WINDOW


def filled(flows: int, cache: int) -> Table:
    table = Table(1024, cache)
    for number in range(flows):
        assert table.open(*ways(number), 0) is not None
    return table


def look_up(table: Table, flows: int, lookups: int) -> None:
    """Every flow's outbound way in turn, beginning with a new window."""
    for lookup in range(lookups):
        assert table.find(ways(lookup % flows)[0]) == 2 * (lookup % flows)


@pytest.mark.parametrize("cache", [1, 2, 256, 65536])
def test_a_flow_whose_packets_follow_each_other_is_in_the_cache(cache: int) -> None:
    table = filled(1, cache)
    look_up(table, 1, WINDOW + 1)
    assert table.stats["cache_lookups"] == WINDOW
    assert table.stats["cache_hits"] == WINDOW - 1
    assert table.stats["cache_bypassed"] == 0


def test_a_set_has_room_for_two_and_not_for_three() -> None:
    for flows, hits in ((2, WINDOW - 2), (3, 0)):
        table = filled(flows, 2)
        look_up(table, flows, WINDOW + 1)
        assert table.stats["cache_hits"] == hits


def test_a_cache_that_did_not_pay_is_not_asked_for_a_while_and_then_again() -> None:
    table = filled(3, 2)
    look_up(table, 3, WINDOW + 1)
    assert table.stats["cache_bypassed"] == BYPASS
    look_up(table, 1, BYPASS + WINDOW)
    assert table.stats["cache_lookups"] == 2 * WINDOW
    assert table.stats["cache_hits"] == WINDOW  # flow 0 was the last one of the first window


def test_a_miss_in_sixteen_lookups_is_what_a_window_may_have() -> None:
    for misses, bypassed in ((WINDOW // 16, 0), (WINDOW // 16 + 1, BYPASS)):
        table = filled(3, 2)
        first = misses - 1  # the first of the steady ones misses too
        look_up(table, 3, first)
        for _ in range(WINDOW - first + 1):
            table.find(ways(2 if first % 3 != 0 else 1)[1])
        assert table.stats["cache_lookups"] == WINDOW
        assert table.stats["cache_hits"] == WINDOW - misses
        assert table.stats["cache_bypassed"] == bypassed


def test_without_a_cache_nothing_is_counted() -> None:
    table = filled(1, 0)
    look_up(table, 1, 2 * WINDOW)
    stats = table.stats
    assert (stats["cache_lookups"], stats["cache_hits"], stats["cache_bypassed"]) == (0, 0, 0)


def test_a_flow_that_took_the_place_of_another_is_found_and_the_other_is_not() -> None:
    table = filled(1, 256)
    look_up(table, 1, 2)
    table.close(0)
    assert table.find(ways(0)[0]) is None
    assert table.open(*ways(1), 0) == 0
    assert table.find(ways(0)[0]) is None
    assert table.find(ways(1)[0]) == 0


def test_finding_a_flow_that_ended_is_no_hit() -> None:
    table = filled(1, 256)
    look_up(table, 1, 2)
    table.close(0)
    for _ in range(WINDOW - 1):
        assert table.find(ways(0)[0]) is None
    assert table.stats["cache_hits"] == 1
