"""The token buckets."""

from __future__ import annotations

from arcbox_net.services.dhcp.rate import KEYS_MAX, RateLimit


def test_a_burst_then_the_rate() -> None:
    limit = RateLimit(10)
    assert [limit.take("a", 0.0) for _ in range(25)].count(True) == 20
    assert [limit.take("a", 1.0) for _ in range(25)].count(True) == 10
    assert [limit.take("a", 1000.0) for _ in range(25)].count(True) == 20


def test_keys_do_not_share() -> None:
    limit = RateLimit(1)
    assert [limit.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.take("b", 0.0)


def test_zero_is_no_limit() -> None:
    limit = RateLimit(0)
    assert all(limit.take("a", 0.0) for _ in range(1000))


def test_endless_keys_are_forgotten_oldest_first() -> None:
    limit = RateLimit(1)
    for number in range(KEYS_MAX + 10):
        limit.take(number, 0.0)
    assert len(limit._buckets) == KEYS_MAX
    assert 9 not in limit._buckets and 10 in limit._buckets
