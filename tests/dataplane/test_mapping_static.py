"""Forwards of the operator: which ports they take, who may come in, and what is left when they go."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_mapping import GUESTS_MAX
from arcbox_net.dataplane.verdict import Verdict
from tests.support import mappings as bed

DONE, NO_EXTERNAL, BAD_RANGE, PORT_TAKEN, GUESTS_FULL, MAPPINGS_FULL = range(6)


@pytest.mark.parametrize("filtering", bed.FILTERINGS)
def test_everybody_may_come_in_by_a_forward(filtering: int) -> None:
    table = bed.mapping_table(filtering=filtering, contacts_max=10)
    assert table.add_static(bed.TCP, bed.OUTSIDE, 80, bed.GUEST, 8080, 1)[0] == DONE
    mapping = table.inbound(bed.TCP, bed.OUTSIDE, 80)
    assert mapping is not None
    assert table.admits(mapping, bed.STRANGER)
    assert bed.entry(table, mapping) == (bed.TCP, bed.GUEST, 8080, bed.OUTSIDE, 80, 0, 0, True)
    assert table.inbound(bed.UDP, bed.OUTSIDE, 80) is None


def test_all_ports_of_an_address_can_be_forwarded() -> None:
    table = bed.mapping_table()
    assert table.add_static(bed.TCP, bed.OUTSIDE, 1, bed.GUEST, 1, 65535)[0] == DONE
    for port in (1, 1023, 49152, 65535):
        mapping = table.inbound(bed.TCP, bed.OUTSIDE, port)
        assert mapping is not None
        assert bed.entry(table, mapping).inside_port == port
    assert table.outbound(bed.TCP, bed.OTHER, 4000, 0) == -Verdict.DROP_PORTS_EXHAUSTED
    assert table.remove_static(bed.TCP, bed.OUTSIDE, 1, 65535, 0) == 65535
    assert table.count == 0
    assert table.guest(bed.GUEST) is None


@pytest.mark.parametrize(
    ("external_port", "inside_port", "count", "result"),
    [
        (65535, 1, 1, DONE),
        (65535, 1, 2, BAD_RANGE),
        (1, 65535, 1, DONE),
        (1, 65535, 2, BAD_RANGE),
        (0, 1, 1, BAD_RANGE),
        (1, 0, 1, BAD_RANGE),
        (2, 1, 65535, BAD_RANGE),
        (1, 1, 0xFFFFFFFF, BAD_RANGE),
    ],
)
def test_a_range_ends_at_the_last_port(external_port: int, inside_port: int, count: int, result: int) -> None:
    table = bed.mapping_table()
    assert table.add_static(bed.TCP, bed.OUTSIDE, external_port, bed.GUEST, inside_port, count)[0] == result
    assert table.count == (count if result == DONE else 0)


def test_an_address_that_is_not_ours_forwards_nothing() -> None:
    table = bed.mapping_table()
    assert table.add_static(bed.TCP, bed.OUTSIDE2, 80, bed.GUEST, 80, 1)[0] == NO_EXTERNAL
    assert table.remove_static(bed.TCP, bed.OUTSIDE2, 80, 1, 0) == 0


@pytest.mark.parametrize("static", [True, False], ids=["forward", "flow"])
def test_a_port_that_somebody_has_is_refused_and_named(static: bool) -> None:
    table = bed.mapping_table()
    if static:
        table.add_static(bed.UDP, bed.OUTSIDE, 50005, bed.OTHER, 80, 1)
    else:
        bed.used(table, 50005, guest=bed.OTHER)
    before = table.count
    result, taken = table.add_static(bed.UDP, bed.OUTSIDE, 50000, bed.GUEST, 1000, 10)
    assert (result, bed.external(table, taken)) == (PORT_TAKEN, (bed.OUTSIDE, 50005))
    assert table.count == before
    assert table.guest(bed.GUEST) is None


def test_forwards_count_as_mappings_and_need_a_guest() -> None:
    table = bed.mapping_table(mappings_max=10)
    assert table.add_static(bed.TCP, bed.OUTSIDE, 1, bed.GUEST, 1, 11)[0] == MAPPINGS_FULL
    assert table.add_static(bed.TCP, bed.OUTSIDE, 1, bed.GUEST, 1, 10)[0] == DONE
    table = bed.mapping_table(mappings_max=GUESTS_MAX + 10)
    for guest in range(1, GUESTS_MAX + 1):
        assert table.add_static(bed.TCP, bed.OUTSIDE, guest, guest, 1, 1)[0] == DONE
    assert table.add_static(bed.TCP, bed.OUTSIDE, GUESTS_MAX + 1, GUESTS_MAX + 1, 1, 1)[0] == GUESTS_FULL


def test_what_a_guest_sends_from_a_forwarded_port_leaves_by_the_forward() -> None:
    table = bed.mapping_table()
    dynamic = bed.used(table, 8080, protocol=bed.TCP)
    table.add_static(bed.TCP, bed.OUTSIDE, 80, bed.GUEST, 8080, 1)
    table.add_static(bed.TCP, bed.OUTSIDE, 81, bed.GUEST, 8080, 1)
    forward = bed.used(table, 8080, protocol=bed.TCP)
    assert bed.external(table, forward) == (bed.OUTSIDE, 80)
    # The flow that was there before goes on by the port that it has.
    assert table.inbound(bed.TCP, *bed.external(table, dynamic)) == dynamic
    table.drop(dynamic, bed.SERVER, True, 0)
    assert bed.used(table, 8080, protocol=bed.TCP) == forward


def test_n26_an_operator_may_take_a_port_on_hold() -> None:
    table = bed.mapping_table()
    table.drop(bed.used(table, 50000), bed.SERVER, True, 0)
    assert table.add_static(bed.UDP, bed.OUTSIDE, 50000, bed.OTHER, 1, 1)[0] == DONE
    assert table.guest(bed.GUEST) is None


def test_n26_the_port_of_a_forward_is_on_hold_afterwards() -> None:
    table = bed.mapping_table(ranges=[(40000, 40000)])
    table.add_static(bed.UDP, bed.OUTSIDE, 40000, bed.GUEST, 1, 1)
    table.remove_static(bed.UDP, bed.OUTSIDE, 40000, 1, 10)
    assert table.outbound(bed.UDP, bed.OTHER, 1, 10 + bed.HOLD_DOWN_S) == -Verdict.DROP_PORTS_EXHAUSTED
    assert table.outbound(bed.UDP, bed.OTHER, 1, 11 + bed.HOLD_DOWN_S) >= 0


def test_a_forward_that_is_removed_ends_with_its_flows() -> None:
    table = bed.mapping_table()
    table.add_static(bed.TCP, bed.OUTSIDE, 80, bed.GUEST, 8080, 1)
    mapping = bed.used(table, 8080, protocol=bed.TCP)
    assert table.remove_static(bed.TCP, bed.OUTSIDE, 80, 1, 0) == 1
    assert table.inbound(bed.TCP, bed.OUTSIDE, 80) == mapping
    assert not table.admits(mapping, bed.STRANGER)
    assert table.add_static(bed.TCP, bed.OUTSIDE, 80, bed.OTHER, 8080, 1)[0] == PORT_TAKEN
    table.drop(mapping, bed.SERVER, True, 0)
    assert table.count == 0
    assert table.guest(bed.GUEST) is None
    assert table.add_static(bed.TCP, bed.OUTSIDE, 80, bed.OTHER, 8080, 1)[0] == DONE


def test_removing_leaves_what_is_not_a_forward() -> None:
    table = bed.mapping_table()
    bed.used(table, 50000)
    assert table.remove_static(bed.UDP, bed.OUTSIDE, 1, 65535, 0) == 0
    assert table.count == 1
