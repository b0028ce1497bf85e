"""Guests are known while they hold something, and hold no more than their quotas."""

from __future__ import annotations

from arcbox_net.dataplane._testing_mapping import GUESTS_MAX
from arcbox_net.dataplane.verdict import Verdict
from tests.support.mappings import GUEST, HOLD_DOWN_S, OTHER, SERVER, UDP, mapping_table, used


def test_a_stranger_is_not_known() -> None:
    assert mapping_table().guest(GUEST) is None


def test_a_guest_is_known_until_its_last_port_is_off_hold() -> None:
    table = mapping_table()
    mapping = used(table, 4000)
    table.drop(mapping, SERVER, True, 10)
    assert table.guest(GUEST) == (0, (0, 1, 0), 0)
    assert table.expire(10 + HOLD_DOWN_S, 10) == 0
    assert table.expire(11 + HOLD_DOWN_S, 10) == 1
    assert table.guest(GUEST) is None
    assert table.guest_count == 0


def test_expiry_ends_no_more_holds_than_its_budget() -> None:
    table = mapping_table()
    for mapping in [used(table, port) for port in (4000, 4001, 4002)]:
        table.drop(mapping, SERVER, True, 0)
    assert [table.expire(1000, 2) for _ in range(3)] == [2, 1, 0]


def test_the_table_of_guests_is_bounded_and_who_leaves_makes_room() -> None:
    table = mapping_table(ranges=[(1024, 65535)])
    guests = [10 | number << 8 for number in range(GUESTS_MAX + 1)]  # 10.0.0.0 and on, as in memory
    mappings = [used(table, 4000, guest=guest) for guest in guests[:-1]]
    assert table.guest_count == GUESTS_MAX
    assert table.outbound(UDP, guests[-1], 4000, 0) == -Verdict.DROP_GUESTS_FULL
    assert table.outbound(UDP, guests[-2], 4001, 0) >= 0  # who is known is not concerned
    table.drop(mappings[0], SERVER, True, 0)
    table.expire(HOLD_DOWN_S + 1, 1)
    assert table.outbound(UDP, guests[-1], 4000, HOLD_DOWN_S + 1) >= 0


def test_n24_flows_of_a_guest_are_capped_and_anothers_are_not_concerned() -> None:
    table = mapping_table(flows=3)
    mapping = used(table, 4000)
    assert table.hold(mapping, SERVER, True)
    assert table.hold(mapping, SERVER, False)
    assert not table.hold(mapping, SERVER, True)
    assert table.outbound(UDP, GUEST, 4000, 0) == mapping
    assert table.outbound(UDP, GUEST, 4001, 0) == -Verdict.DROP_GUEST_FLOWS
    used(table, 4001, guest=OTHER)
    table.drop(mapping, SERVER, False, 0)
    assert table.hold(mapping, SERVER, True)
