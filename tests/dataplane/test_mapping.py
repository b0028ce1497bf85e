"""Which external endpoint a guest's endpoint gets, how long it keeps it, and who else may have it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.dataplane._testing_mapping import EXTERNALS_MAX, Mappings
from arcbox_net.dataplane.verdict import Verdict
from tests.support.mappings import (
    ADDRESS_AND_PORT_DEPENDENT,
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    GUEST,
    HOLD_DOWN_S,
    ICMP,
    OTHER,
    OUTSIDE,
    OUTSIDE2,
    SERVER,
    STRANGER,
    TCP,
    UDP,
    entry,
    external,
    mapping_table,
    used,
)

PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP, ICMP], ids=["tcp", "udp", "icmp"])


def filled(share: float, protocol: int = UDP) -> Mappings:
    """A table of whose 16,384 external ports a share is other guests'."""
    table = mapping_table(ports=20_000, flows=20_000)
    for i in range(int(16_384 * share)):
        used(table, 1024 + i, protocol=protocol, guest=1000 + i % 7)
    return table


@PROTOCOLS
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_n1_n15_n23_an_endpoint_has_one_mapping_whatever_it_talks_to(protocol: int, share: float) -> None:
    """RFC 4787 REQ-1, 5382 REQ-1, 5508 REQ-1; N11: at any fill."""
    table = filled(share, protocol)
    mapping = used(table, 4000, protocol=protocol, remote=SERVER)
    found = external(table, mapping)
    assert used(table, 4000, protocol=protocol, remote=STRANGER) == mapping
    assert external(table, mapping) == found
    assert table.inbound(protocol, *found) == mapping


@PROTOCOLS
def test_n1_a_guest_keeps_its_mapping_when_another_has_that_port(protocol: int) -> None:
    table = mapping_table()
    first = used(table, 50000, protocol=protocol, guest=OTHER)
    second = used(table, 50000, protocol=protocol, guest=GUEST)
    assert external(table, first) == (OUTSIDE, 50000)
    assert external(table, second)[1] != 50000
    assert used(table, 50000, protocol=protocol, guest=GUEST, remote=STRANGER) == second


def test_protocols_have_their_own_ports() -> None:
    table = mapping_table()
    found = {external(table, used(table, 50000, protocol=protocol)) for protocol in (TCP, UDP, ICMP)}
    assert found == {(OUTSIDE, 50000)}
    assert table.count == 3


def test_n2_a_guest_keeps_one_external_address() -> None:
    table = mapping_table({OUTSIDE: [(1024, 65535)], OUTSIDE2: [(1024, 65535)]})
    mappings = [used(table, 2000 + i, protocol=(TCP, UDP)[i % 2]) for i in range(1000)]
    assert len({external(table, mapping)[0] for mapping in mappings}) == 1


def test_n2_guests_spread_over_addresses_before_they_have_used_many_ports() -> None:
    addresses = {OUTSIDE + i: [(1024, 65535)] for i in range(4)}
    table = mapping_table(addresses)
    pairs = [external(table, used(table, 2000, guest=guest))[0] for guest in range(1, 9)]
    assert sorted(pairs) == sorted([*addresses, *addresses])


def test_n2_another_guest_gets_the_address_with_the_most_free_ports() -> None:
    table = mapping_table({OUTSIDE: [(1024, 65535)], OUTSIDE2: [(1024, 65535)]})
    mine, theirs = used(table, 2000), used(table, 2000, guest=OTHER)
    assert {external(table, mine)[0], external(table, theirs)[0]} == {OUTSIDE, OUTSIDE2}


@pytest.mark.parametrize("addresses", [1, EXTERNALS_MAX])
def test_n3_n29_all_ports_of_all_addresses_are_given_once(addresses: int) -> None:
    ranges = [(2000, 2099)] if addresses > 1 else [(2000, 2099), (3000, 3100), (65530, 65535)]
    table = mapping_table({OUTSIDE + i: ranges for i in range(addresses)}, ports=10)
    ports = {port for first, last in ranges for port in range(first, last + 1)}
    endpoints: set[tuple[int, int]] = set()
    refused = 0
    guest = 0
    while refused < addresses:
        guest += 1
        for port in range(10):
            mapping = table.outbound(UDP, guest, 5000 + port, 0)
            if mapping < 0:
                assert mapping == -Verdict.DROP_PORTS_EXHAUSTED
                refused += 1
                break
            assert table.hold(mapping, SERVER, True)
            endpoints.add(external(table, mapping))
        assert table.count == len(endpoints)
    assert endpoints == {(OUTSIDE + i, port) for i in range(addresses) for port in ports}


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_port_stays_the_same_outside_while_it_is_free_there(share: float) -> None:
    table = filled(share)
    free = next(port for port in range(49152, 65536) if table.at(UDP, OUTSIDE, port) is None)
    assert external(table, used(table, free)) == (OUTSIDE, free)


def test_ports_are_not_preserved_unless_asked() -> None:
    table = mapping_table(preserve_ports=False)
    changed = [port for port in range(50000, 50050) if external(table, used(table, port))[1] != port]
    assert len(changed) > 40


@given(port=st.integers(1, 65535), protocol=st.sampled_from([TCP, UDP]), preserve=st.booleans())
def test_n3_the_class_of_a_port_is_kept(port: int, protocol: int, preserve: bool) -> None:
    table = mapping_table(ranges=[(512, 2047)], preserve_ports=preserve)
    assert (external(table, used(table, port, protocol=protocol))[1] < 1024) == (port < 1024)


def test_n3_a_low_port_becomes_a_high_one_where_there_is_no_low_one() -> None:
    table = mapping_table(ranges=[(1023, 1030)], ports=8)
    assert external(table, used(table, 80))[1] == 1023
    assert external(table, used(table, 81))[1] >= 1024


def test_n3_a_high_port_becomes_a_low_one_only_where_no_high_one_ever_is() -> None:
    table = mapping_table(ranges=[(1000, 1024)], ports=8)
    used(table, 5000)
    assert table.outbound(UDP, GUEST, 5001, 0) == -Verdict.DROP_PORTS_EXHAUSTED
    table = mapping_table(ranges=[(1000, 1023)], ports=8)
    assert external(table, used(table, 5000))[1] < 1024


@given(ports=st.lists(st.integers(1, 65535), min_size=1, max_size=30, unique=True))
def test_n4_parity_is_kept_when_asked(ports: list[int]) -> None:
    table = mapping_table(ranges=[(1, 200), (40000, 40999)], keep_parity=True)
    for port in ports:
        assert (external(table, used(table, port))[1] - port) % 2 == 0


def test_n4_parity_is_not_kept_unless_asked() -> None:
    table = mapping_table()
    parities = {external(table, used(table, port))[1] % 2 for port in range(2000, 2100, 2)}
    assert parities == {0, 1}


def test_n4_no_port_of_the_other_parity_is_given() -> None:
    table = mapping_table(ranges=[(40000, 40003)], keep_parity=True, ports=4)
    used(table, 2000)
    used(table, 2002)
    assert table.outbound(UDP, GUEST, 2004, 0) == -Verdict.DROP_PORTS_EXHAUSTED
    used(table, 2001)


@pytest.mark.parametrize(
    ("filtering", "contacted", "stranger"),
    [
        (ENDPOINT_INDEPENDENT, True, True),
        (ADDRESS_DEPENDENT, True, False),
        # Who was contacted comes in by its flow; a packet of no flow is another port's.
        (ADDRESS_AND_PORT_DEPENDENT, False, False),
    ],
    ids=["eif", "adf", "apdf"],
)
def test_n8_packets_of_no_flow_come_in_as_the_filter_says(
    filtering: int, contacted: bool, stranger: bool
) -> None:
    table = mapping_table(filtering=filtering, contacts_max=10)
    mapping = used(table, 4000)
    assert table.admits(mapping, SERVER) is contacted
    assert table.admits(mapping, STRANGER) is stranger


def test_n8_an_address_is_known_as_long_as_a_flow_of_the_guests_own_with_it() -> None:
    table = mapping_table(filtering=ADDRESS_DEPENDENT, contacts_max=10)
    mapping = used(table, 4000, remote=STRANGER)
    used(table, 4000)
    used(table, 4000)
    assert table.hold(mapping, SERVER, False)
    table.drop(mapping, SERVER, True, 0)
    assert table.admits(mapping, SERVER)
    table.drop(mapping, SERVER, True, 0)
    assert not table.admits(mapping, SERVER)
    table.strengthen(mapping, SERVER)
    assert table.admits(mapping, SERVER)


def test_n8_contacts_are_bounded_and_one_that_was_not_noted_is_not_admitted() -> None:
    table = mapping_table(filtering=ADDRESS_DEPENDENT, contacts_max=2)
    mapping = used(table, 4000, remote=1)
    for remote in (2, 3):
        used(table, 4000, remote=remote)
    assert [table.admits(mapping, remote) for remote in (1, 2, 3)] == [True, True, False]
    table.drop(mapping, 3, True, 0)
    table.drop(mapping, 1, True, 0)
    used(table, 4000, remote=4)
    assert [table.admits(mapping, remote) for remote in (1, 2, 4)] == [False, True, True]


def test_n21_external_ports_follow_no_progression() -> None:
    table = mapping_table(preserve_ports=False)
    ports = [external(table, used(table, port))[1] for port in range(1024, 2024)]
    steps = [second - first for first, second in pairwise(ports)]
    assert max(steps.count(step) for step in set(steps)) <= 5


@PROTOCOLS
def test_n22_a_mapping_is_gone_with_its_last_flow(protocol: int) -> None:
    table = mapping_table()
    mapping = used(table, 4000, protocol=protocol)
    found = external(table, mapping)
    used(table, 4000, protocol=protocol)
    table.drop(mapping, SERVER, True, 0)
    assert table.inbound(protocol, *found) == mapping
    table.drop(mapping, SERVER, True, 0)
    assert table.inbound(protocol, *found) is None
    assert table.at(protocol, *found) is None
    assert table.find(protocol, GUEST, 4000) is None
    assert table.count == 0


def test_n22_flows_from_outside_keep_no_mapping_alive() -> None:
    table = mapping_table(filtering=ENDPOINT_INDEPENDENT)
    mapping = used(table, 4000)
    found = external(table, mapping)
    assert table.hold(mapping, STRANGER, False)
    table.drop(mapping, SERVER, True, 0)
    assert table.inbound(UDP, *found) is None
    assert not table.admits(mapping, STRANGER)
    # Its port is nobody else's while packets of that flow may still come, and the guest's own if it goes on.
    assert table.at(UDP, *found) == mapping
    assert used(table, 4000) == mapping
    assert table.inbound(UDP, *found) == mapping


def test_a_mapping_that_no_flow_came_of_leaves_nothing() -> None:
    table = mapping_table(ranges=[(40000, 40000)])
    mapping = table.outbound(UDP, GUEST, 4000, 0)
    assert table.inbound(UDP, OUTSIDE, 40000) is None
    table.forget(mapping)
    assert table.guest(GUEST) is None
    assert external(table, used(table, 4000, guest=OTHER)) == (OUTSIDE, 40000)


def test_a_mapping_with_a_flow_is_not_forgotten() -> None:
    table = mapping_table()
    mapping = used(table, 4000)
    table.forget(mapping)
    assert table.find(UDP, GUEST, 4000) == mapping


def test_n24_a_guest_that_takes_all_it_can_leaves_others_their_share() -> None:
    """A quarter of 400 ports is a guest's: three that take all they can leave 100 to a fourth."""
    table = mapping_table(ranges=[(40000, 40399)])
    for guest in (1, 2, 3):
        for i in range(100):
            used(table, 2000 + i, guest=guest)
        assert table.outbound(UDP, guest, 2100, 0) == -Verdict.DROP_GUEST_PORTS
        assert table.outbound(TCP, guest, 2100, 0) >= 0  # of another space
    assert all(table.outbound(UDP, GUEST, 2000 + i, 0) >= 0 for i in range(100))


def test_n24_making_and_ending_mappings_takes_no_more_ports_than_keeping_them() -> None:
    table = mapping_table(ranges=[(40000, 40399)], preserve_ports=False)
    for i in range(1000):
        table.drop(used(table, 2000 + i), SERVER, True, 0)
    assert table.guest(GUEST) == (0, (0, 100, 0), 0)
    for guest in (1, 2, 3):
        for i in range(100):
            used(table, 2000 + i, guest=guest)


def test_n26_a_port_is_on_hold_for_others_and_not_for_its_guest() -> None:
    table = mapping_table(ranges=[(40000, 40000)])
    table.drop(used(table, 4000), SERVER, True, 1000)
    assert table.outbound(UDP, OTHER, 4000, 1000 + HOLD_DOWN_S) == -Verdict.DROP_PORTS_EXHAUSTED
    mapping = used(table, 4001, now=1001)
    assert external(table, mapping) == (OUTSIDE, 40000)
    table.drop(mapping, SERVER, True, 1010)
    assert table.outbound(UDP, OTHER, 4000, 1010 + HOLD_DOWN_S) == -Verdict.DROP_PORTS_EXHAUSTED
    assert table.outbound(UDP, OTHER, 4000, 1011 + HOLD_DOWN_S) >= 0


def test_n26_a_preserved_port_comes_back_from_hold_to_its_guest_only() -> None:
    table = mapping_table()
    table.drop(used(table, 50000), SERVER, True, 0)
    assert external(table, used(table, 50000, guest=OTHER, now=1))[1] != 50000
    assert external(table, used(table, 50000, now=1))[1] == 50000
    assert table.guest(GUEST) == (1, (0, 1, 0), 0)


def test_n27_exhaustion_refuses_the_new_and_keeps_the_old() -> None:
    table = mapping_table(ranges=[(40000, 40007)], ports=8)
    mappings = {port: used(table, port) for port in range(2000, 2008)}
    before = [entry(table, mapping) for mapping in mappings.values()]
    for port in range(3000, 3010):
        assert table.outbound(UDP, OTHER, port, 0) == -Verdict.DROP_PORTS_EXHAUSTED
    assert [entry(table, table.outbound(UDP, GUEST, port, 0)) for port in mappings] == before
    assert table.guest(OTHER) is None


def test_mappings_are_bounded() -> None:
    table = mapping_table(mappings_max=3)
    first, _, _ = (used(table, port) for port in (1, 2, 3))
    assert table.outbound(UDP, OTHER, 4, 0) == -Verdict.DROP_MAPPINGS_FULL
    table.drop(first, SERVER, True, 0)
    assert table.outbound(UDP, OTHER, 4, 0) >= 0


def test_every_live_mapping_is_listed_once() -> None:
    table = mapping_table({OUTSIDE: [(40000, 40999)], OUTSIDE2: [(40000, 40999)]})
    mappings = {used(table, 2000 + i, guest=1 + i % 9, protocol=(TCP, UDP, ICMP)[i % 3]) for i in range(200)}
    listed = []
    cursor = 0
    while (mapping := table.next(cursor)) is not None:
        listed.append(mapping)
        cursor = mapping + 1
    assert listed == sorted(mappings)


def test_a_mapping_costs_less_than_a_cache_line() -> None:
    assert mapping_table().bytes_per_mapping() <= 64
