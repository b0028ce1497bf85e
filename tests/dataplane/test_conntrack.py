"""The table of flows: who is found, how many fit, and what is said of a flow that ends."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane._testing_conntrack_loops import expire, fill
from tests.support.conntrack import TCP, UDP, ways

BYTES_PER_FLOW_MAX = 160


def test_both_ways_of_a_flow_are_found_and_no_other() -> None:
    table = Table(8)
    flow = table.open(*ways(1), 0, mapping=7)
    assert flow is not None
    assert [table.find(way) for way in ways(1)] == [2 * flow, 2 * flow + 1]
    assert [table.find(way) for number in (0, 2) for way in ways(number)] == [None] * 4
    assert [table.find(way) for way in ways(1, protocol=TCP)] == [None] * 2
    assert table.cold(flow) == (7, 0)


@pytest.mark.parametrize("limit", [1, 5, 1024])
def test_n27_a_table_takes_its_limit_and_refuses_one_more_without_evicting_any(limit: int) -> None:
    table = Table(limit)
    flows = [table.open(*ways(number), 0) for number in range(limit)]
    assert sorted(flow for flow in flows if flow is not None) == list(range(limit))
    assert table.open(*ways(limit), 0) is None
    assert len(table) == limit
    assert [table.find(ways(number)[0]) for number in range(limit)] == [
        2 * flow for flow in flows if flow is not None
    ]
    assert table.gone == []


def test_a_closed_flow_makes_room_for_another_at_once() -> None:
    table = Table(2)
    first, second = (table.open(*ways(number), 0) for number in (0, 1))
    assert first is not None
    table.close(first)
    assert table.gone == [first]
    assert table.find(ways(0)[0]) is table.find(ways(0)[1]) is None
    assert table.open(*ways(2), 5) == first
    assert table.cold(first) == (0, 5)
    assert table.find(ways(1)[0]) == 2 * second if second is not None else False


@pytest.mark.parametrize("taken", [0, 1], ids=["original", "reply"])
def test_a_key_that_a_flow_has_is_refused_and_leaves_nothing_behind(taken: int) -> None:
    table = Table(8)
    assert table.open(*ways(1), 0) is not None
    mixed = list(ways(2))
    mixed[taken] = ways(1)[taken]
    assert table.open(mixed[0], mixed[1], 0) is None
    assert len(table) == 1
    assert table.stats["indexed"] == 2
    assert table.find(ways(2)[1 - taken]) is None


def test_a_flow_begins_with_counters_at_zero_where_another_one_was() -> None:
    table = Table(1)
    assert table.open(*ways(0), 0) == 0
    table.seen(0, 1, size=100)
    table.seen(0, 2, size=28)
    assert (table.counters(0), table.counters(1)) == ((2, 128), (0, 0))
    table.close(0)
    assert table.open(*ways(1), 0) == 0
    assert table.counters(0) == (0, 0)


@pytest.mark.parametrize("cache", [0, 256])
def test_a_burst_finds_what_one_by_one_finds(cache: int) -> None:
    table = Table(512, cache)
    for number in range(0, 400, 2):
        assert table.open(*ways(number), 0) is not None
    keys = [way for number in range(400) for way in ways(number)]
    one_by_one = [table.find(way) for way in keys]
    assert one_by_one[2:4] == [None, None]
    assert len(set(one_by_one)) == 401
    assert [half for at in range(0, 800, 32) for half in table.find_burst(keys[at : at + 32])] == one_by_one


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_flows_are_listed_in_steps_of_any_size(budget: int) -> None:
    table = Table(100)
    flows = {table.open(*ways(number), 0) for number in range(50)}
    for flow in (0, 7, 49):
        table.close(flow)
    assert set(table.flows(budget)) == flows - {0, 7, 49}
    assert len(table.flows(budget)) == 47


@pytest.mark.parametrize("flows", [1 << 10, 1 << 17, 1 << 20])
def test_a_flow_takes_no_more_bytes_than_promised(flows: int) -> None:
    assert Table(flows).stats["bytes_per_flow"] <= BYTES_PER_FLOW_MAX + 16 / flows


def test_a_million_flows_come_and_go() -> None:
    table = Table(1 << 20)
    fill(table, 1 << 20, 0)
    assert table.open(*ways(0, port=1), 0) is None
    expire(table, 301, budget=4096)
    assert len(table) == table.stats["indexed"] == 0
    assert table.flows(1 << 20) == []
    assert table.open(*ways(0, UDP), 302) is not None


def test_a_table_as_a_seed_shuffles_it_finds_the_same() -> None:
    for seed in ((1, 2), (0, 0), ((1 << 64) - 1, 5)):
        table = Table(64, seed=seed)
        for number in range(64):
            assert table.open(*ways(number), 0) == number
        assert [table.find(ways(number)[1]) for number in range(64)] == list(range(1, 128, 2))
