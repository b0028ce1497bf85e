"""A change of addresses, ranges and quotas while mappings live: none of them is touched, and the new rules hold."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_mapping import EXTERNALS_MAX
from arcbox_net.dataplane.verdict import Verdict
from tests.support.mappings import (
    ADDRESS_DEPENDENT,
    DYNAMIC_PORTS,
    GUEST,
    HOLD_DOWN_S,
    OTHER,
    OUTSIDE,
    OUTSIDE2,
    SERVER,
    TCP,
    UDP,
    entry,
    external,
    mapping_table,
    reconfigure,
    used,
)


def test_n11_the_same_configuration_changes_nothing() -> None:
    table = mapping_table()
    mapping = used(table, 50000)
    table.drop(used(table, 50001), SERVER, True, 0)
    assert reconfigure(table, {OUTSIDE: DYNAMIC_PORTS})
    assert external(table, mapping) == (OUTSIDE, 50000)
    assert table.guest(GUEST) == (1, (0, 2, 0), 0)
    for port in (50000, 50001):
        assert external(table, used(table, port, guest=OTHER))[1] != port


def test_a_mapping_outside_the_new_ranges_lives_until_it_ends() -> None:
    table = mapping_table(ranges=[(50000, 50000)])
    mapping = used(table, 4000)
    assert reconfigure(table, {OUTSIDE: [(60000, 60001)]}, ports=2)
    assert table.inbound(UDP, OUTSIDE, 50000) == mapping
    assert used(table, 4000) == mapping
    assert external(table, used(table, 4001))[1] in (60000, 60001)
    for _ in range(2):
        table.drop(mapping, SERVER, True, 0)
    assert table.at(UDP, OUTSIDE, 50000) is None
    assert table.guest(GUEST) == (1, (0, 1, 0), 0)


def test_n3_a_port_that_comes_back_to_the_ranges_is_not_given_twice() -> None:
    table = mapping_table(ranges=[(50000, 50001)], ports=2)
    used(table, 50000)
    assert reconfigure(table, {OUTSIDE: [(60000, 60000)]}, ports=2)
    assert reconfigure(table, {OUTSIDE: [(50000, 50001)]}, ports=2)
    assert external(table, used(table, 50000, guest=OTHER)) == (OUTSIDE, 50001)
    assert table.outbound(UDP, OTHER, 50002, 0) == -Verdict.DROP_PORTS_EXHAUSTED


def test_n26_a_hold_ends_where_its_port_leaves_the_ranges_only() -> None:
    table = mapping_table(ranges=[(50000, 50001)])
    table.drop(used(table, 50000), SERVER, True, 0)
    table.drop(used(table, 50001, guest=3), SERVER, True, 0)
    assert reconfigure(table, {OUTSIDE: [(50001, 50002)]})
    assert table.guest(GUEST) is None
    assert table.guest(3) is not None
    assert external(table, used(table, 50001, guest=OTHER, now=HOLD_DOWN_S)) == (OUTSIDE, 50002)


def test_n2_guests_of_an_address_that_is_gone_get_another_for_new_mappings() -> None:
    table = mapping_table()
    before = used(table, 50000)
    assert reconfigure(table, {OUTSIDE2: DYNAMIC_PORTS})
    assert external(table, used(table, 50001)) == (OUTSIDE2, 50001)
    assert external(table, used(table, 50000)) == (OUTSIDE, 50000)
    assert table.add_static(TCP, OUTSIDE, 80, GUEST, 80, 1)[0] != 0
    for _ in range(2):
        table.drop(before, SERVER, True, 0)
    assert external(table, used(table, 50000)) == (OUTSIDE2, 50000)


@pytest.mark.parametrize("live", [True, False])
def test_an_address_that_is_gone_keeps_its_place_while_a_mapping_of_it_lives(live: bool) -> None:
    table = mapping_table()
    mapping = used(table, 50000)
    if not live:
        table.drop(mapping, SERVER, True, 0)
        assert reconfigure(table, {1000 + i: [(50000, 50001)] for i in range(EXTERNALS_MAX)}) is False
        table.expire(HOLD_DOWN_S + 1, 1)  # its port was on hold for the guest
    others = {1000 + i: [(50000, 50001)] for i in range(EXTERNALS_MAX)}
    assert reconfigure(table, others) is not live
    if live:
        assert external(table, used(table, 50001)) == (OUTSIDE, 50001)  # nothing was changed
        del others[1000]
        assert reconfigure(table, others)
        assert entry(table, mapping).external == OUTSIDE
    assert external(table, used(table, 50001, guest=OTHER))[0] in others


def test_quotas_and_filter_are_those_of_the_new_configuration() -> None:
    table = mapping_table()
    used(table, 50000)
    assert reconfigure(
        table, {OUTSIDE: DYNAMIC_PORTS}, flows=3, ports=2, filtering=ADDRESS_DEPENDENT, contacts_max=10
    )
    mapping = used(table, 50001)
    assert table.admits(mapping, SERVER)
    assert table.outbound(UDP, GUEST, 50002, 0) == -Verdict.DROP_GUEST_PORTS
    used(table, 50000)
    assert not table.hold(mapping, SERVER, True)
