"""Flows of a listener: how many there may be, and until when each lives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.network.flow_table import FlowTable


@pytest.fixture
def table() -> FlowTable[str, str]:
    return FlowTable(2, 10.0)


def test_it_is_full_at_its_limit_until_one_goes(table: FlowTable[str, str]) -> None:
    table.add("a", "A", 0.0)
    assert not table.is_full
    table.add("b", "B", 0.0)
    assert table.is_full and len(table) == 2
    table.remove("a")
    assert not table.is_full
    assert (table.get("a"), table.get("b")) == (None, "B")


def test_a_flow_ends_when_it_was_silent_for_so_long_and_not_before(table: FlowTable[str, str]) -> None:
    table.add("a", "A", 0.0)
    table.add("b", "B", 4.0)
    assert table.next_end == 10.0
    assert table.take_idle(9.9) == []
    table.touch("a", 9.9)
    assert table.next_end == 14.0
    assert table.take_idle(14.0) == ["B"]
    assert table.take_idle(19.9) == ["A"]
    assert table.next_end is None and len(table) == 0


def test_what_has_gone_is_not_brought_back_by_a_late_sign_of_it(table: FlowTable[str, str]) -> None:
    table.add("a", "A", 0.0)
    assert table.take_all() == ["A"]
    table.touch("a", 1.0)
    table.remove("a")
    assert table.get("a") is None and table.next_end is None


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 7)), max_size=60))
def test_the_next_end_is_that_of_the_flow_that_was_silent_for_longest(steps: list[tuple[int, float]]) -> None:
    table: FlowTable[int, int] = FlowTable(6, 10.0)
    heard: dict[int, float] = {}
    now = 0.0
    for key, passed in steps:
        now += passed
        gone = {one for one, at in heard.items() if at + 10.0 <= now}
        assert set(table.take_idle(now)) == gone
        heard = {one: at for one, at in heard.items() if one not in gone}
        if key in heard:
            table.touch(key, now)
        else:
            table.add(key, key, now)
        heard[key] = now
        assert table.next_end == min(heard.values()) + 10.0
