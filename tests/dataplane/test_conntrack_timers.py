"""How long an idle flow lives, what keeps it alive, and what a turn of the wheel may cost."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_conntrack import Table
from tests.support.conntrack import GUEST, ICMP, OTHER, TCP, UDP, Key, key, ways

WHEEL_S = 8192
FOREVER_S = (1 << 31) - 1


def opened(table: Table, protocol: int = UDP, port: int = 9000, now: int = 0) -> int:
    flow = table.open(*ways(0, protocol, port), now)
    assert flow is not None
    return flow


@pytest.mark.parametrize(
    ("protocol", "port", "timeout_s"),
    [
        pytest.param(UDP, 9000, 300, id="n5-udp"),
        pytest.param(UDP, 53, 30, id="n5-dns"),
        pytest.param(TCP, 53, 240, id="n18-opening"),
        pytest.param(ICMP, 53, 60, id="n23-query"),
        pytest.param(47, 0, 300, id="no-ports"),
    ],
)
def test_an_idle_flow_lives_for_its_timeout_and_no_longer(protocol: int, port: int, timeout_s: int) -> None:
    table = Table(4, ports={53: 30})
    flow = opened(table, protocol, port, now=1000)
    assert table.expire(1000 + timeout_s) == 0
    assert table.find(ways(0, protocol, port)[0]) == 2 * flow
    assert table.expire(1000 + timeout_s + 1) == 1
    assert table.gone == [flow]
    assert table.find(ways(0, protocol, port)[0]) is None


def test_n5_as_many_ports_with_timeouts_of_their_own_as_there_may_be() -> None:
    table = Table(16, ports={port: 10 + port for port in range(1, 17)})
    expires = []
    for port in range(1, 18):
        flow = table.open(*ways(port, port=port), 0) if port < 17 else None
        expires += [] if flow is None else [table.expires(flow)]
    assert expires == [11 + port for port in range(1, 17)]


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("protocol", [UDP, ICMP])
def test_n6_an_inbound_packet_refreshes_only_if_told_so(protocol: int, refresh: bool) -> None:
    table = Table(4, inbound_refresh=refresh, icmp=300)
    flow = opened(table, protocol)
    table.seen(2 * flow + 1, 250)
    assert table.expires(flow) == (551 if refresh else 301)
    table.seen(2 * flow, 200)
    assert table.expires(flow) == (551 if refresh else 501)


def test_n6_the_guests_half_counts_when_the_flow_was_opened_from_outside() -> None:
    table = Table(4, ports={9000: 100})
    outbound, inbound = ways(0)
    flow = table.open(inbound, outbound, 0)
    assert flow == 0
    table.seen(0, 90)
    assert table.expires(flow) == 101  # by the port that the guest sends to
    table.seen(1, 50)
    assert table.expires(flow) == 151


def test_n6_both_guests_of_a_hairpin_refresh() -> None:
    table = Table(4)
    there: Key = key(UDP, GUEST, 1, OTHER, 2, inbound=False)
    back: Key = key(UDP, OTHER, 2, GUEST, 1, inbound=False)
    flow = table.open(there, back, 0)
    assert flow is not None
    table.seen(2 * flow + 1, 100)
    assert table.expires(flow) == 401
    table.seen(2 * flow, 150)
    assert table.expires(flow) == 451


def test_a_flow_that_is_used_outlives_many_turns_of_the_wheel() -> None:
    table = Table(4)
    flow = opened(table)
    for now in range(0, 10 * WHEEL_S, 299):
        table.seen(2 * flow, now)
        assert table.expire(now) == 0
    last = now
    assert table.expire(last + 300) == 0
    assert table.expire(last + 301) == 1


@pytest.mark.parametrize("timeout_s", [WHEEL_S - 2, WHEEL_S - 1, WHEEL_S, WHEEL_S + 1, 7 * 86400])
def test_a_timeout_may_be_longer_than_the_wheel(timeout_s: int) -> None:
    table = Table(4, udp=timeout_s)
    opened(table, now=5)
    for now in range(5, 5 + timeout_s, 4000):
        assert table.expire(now) == 0
    assert table.expire(5 + timeout_s) == 0
    assert table.expire(6 + timeout_s) == 1


@pytest.mark.parametrize(
    "jump_s", [301, WHEEL_S - 1, WHEEL_S, WHEEL_S + 1, 3 * WHEEL_S + 17, FOREVER_S - 1000]
)
@pytest.mark.parametrize("budget", [1, 1000])
def test_a_clock_that_jumps_ahead_ends_what_is_due_and_nothing_else(jump_s: int, budget: int) -> None:
    table = Table(64)
    for number in range(10):
        table.open(*ways(number), number * 20)
    for number in range(10, 20):
        table.open(*ways(number), 180 + jump_s)
    while table.behind(180 + jump_s):
        assert table.expire(180 + jump_s, budget) <= budget
    due = [n for n in range(10) if 180 + jump_s - n * 20 > 300]
    assert sorted(table.gone) == due
    assert len(table) == 20 - len(due)


def test_a_clock_that_goes_back_ends_nothing() -> None:
    table = Table(4)
    flow = opened(table, now=1000)
    table.expire(1000)
    assert not table.behind(10)
    assert table.expire(10) == 0
    table.seen(2 * flow, 990)  # a burst whose clock lags behind
    assert table.expire(1290) == 0
    assert table.expire(1301) == 1


def test_a_clock_beyond_32_bits_of_seconds_wraps_around() -> None:
    table = Table(4)
    table.expire(FOREVER_S)
    table.expire(2 * FOREVER_S)
    opened(table, now=2 * FOREVER_S)
    assert table.expire(298) == 0  # 2 * FOREVER_S + 300, less 2**32
    assert table.expire(299) == 1


@pytest.mark.parametrize("budget", [1, 3, 99])
def test_n27_a_step_looks_at_no_more_flows_than_its_budget_and_the_next_goes_on(budget: int) -> None:
    table = Table(100)
    for number in range(100):
        table.open(*ways(number), number // 50)
    assert table.expire(1000, 0) == 0
    ended = []
    while table.behind(1000):
        ended.append(table.expire(1000, budget))
    assert max(ended) == budget
    assert sum(ended) == 100
    assert sorted(table.gone) == list(range(100))


def test_flows_opened_between_steps_of_expiry_are_not_missed() -> None:
    table = Table(100)
    for number in range(50):
        table.open(*ways(number), 0)
    table.expire(20_000, 10)
    for number in range(50, 60):
        table.open(*ways(number), 20_000)
    while table.behind(20_000):
        table.expire(20_000, 10)
    assert len(table) == 10
    assert table.expire(20_300) == 0
    assert table.expire(20_301) == 10


def test_a_flow_closed_by_hand_is_not_ended_again_by_its_timer() -> None:
    table = Table(8)
    flows = [table.open(*ways(number), 0) for number in range(6)]
    for flow in (flows[0], flows[2], flows[5]):  # of one slot: last, in between, first
        assert flow is not None
        table.close(flow)
    assert table.expire(301) == 3
    assert sorted(table.gone) == list(range(6))
