"""Which port is drawn: any of the ranges, as likely as any other, and the last free one too."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from arcbox_net.dataplane._testing_mapping import RANGES_MAX, Pool

EVEN_LOW, EVEN_HIGH, ODD_LOW, ODD_HIGH = 1, 2, 4, 8
ALL = 15
KEY = bytes(range(16))
GAPS = [(1, 5), (1020, 1030), (5000, 5000), (49152, 49999), (65534, 65535)]


def ports_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {port for first, last in ranges for port in range(first, last + 1)}


def drawn_all(pool: Pool, kinds: int = ALL) -> list[int]:
    """Every port that the pool gives out, in the order in which it does."""
    drawn: list[int] = []
    while (port := pool.draw(kinds)) is not None:
        pool.take(port)
        drawn.append(port)
    return drawn


@pytest.mark.parametrize("ranges", [GAPS, [(1, 65535)], [(7, 7)], [(0, 3)], [(64, 127), (100, 200)]], ids=str)
def test_n29_every_port_of_the_ranges_is_given_out_once_and_no_other(ranges: list[tuple[int, int]]) -> None:
    drawn = drawn_all(Pool(ranges, KEY))
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == ports_of(ranges) - {0}


def test_a_pool_has_as_many_ranges_as_an_engine() -> None:
    ranges = [(2000 + 10 * i, 2004 + 10 * i) for i in range(RANGES_MAX)]
    assert set(drawn_all(Pool(ranges, KEY))) == ports_of(ranges)


@pytest.mark.parametrize(
    ("kind", "belongs"),
    [
        (EVEN_LOW, lambda port: port % 2 == 0 and port < 1024),
        (EVEN_HIGH, lambda port: port % 2 == 0 and port >= 1024),
        (ODD_LOW, lambda port: port % 2 == 1 and port < 1024),
        (ODD_HIGH, lambda port: port % 2 == 1 and port >= 1024),
    ],
)
def test_n4_a_draw_keeps_to_its_kind(kind: int, belongs: object) -> None:
    assert callable(belongs)
    assert set(drawn_all(Pool(GAPS, KEY), kind)) == {port for port in ports_of(GAPS) if belongs(port)}


def test_a_port_that_came_back_is_drawn_again() -> None:
    pool = Pool([(3000, 3100)], KEY)
    drawn_all(pool)
    pool.give_back(3050)
    assert drawn_all(pool) == [3050]


def test_a_port_outside_the_ranges_does_not_become_free() -> None:
    pool = Pool([(3000, 3000)], KEY)
    pool.give_back(2999)
    assert drawn_all(pool) == [3000]


@pytest.mark.parametrize("taken_share", [0, 0.5, 0.9])
def test_n21_every_free_port_is_as_likely(taken_share: float) -> None:
    """χ² of 10,000 draws over 64 equal parts of the free ports: 63 degrees of freedom, p = 0.001 is at 103.4."""
    pool = Pool([(20000, 20479), (30000, 30479), (40000, 41983)], KEY)
    taken = [pool.draw(ALL) for _ in range(5000)]
    for port in list(dict.fromkeys(port for port in taken if port))[: int(2944 * taken_share)]:
        pool.take(port)
    free = sorted(drawn_all(pool))
    for port in free:
        pool.give_back(port)
    place = {port: at * 64 // len(free) for at, port in enumerate(free)}
    size = Counter(place.values())
    seen: Counter[int] = Counter()
    for _ in range(10_000):
        port = pool.draw(ALL)
        assert port is not None
        seen[place[port]] += 1
    expected = {part: 10_000 * count / len(free) for part, count in size.items()}
    assert sum((seen[part] - e) ** 2 / e for part, e in expected.items()) < 103.4


def test_n21_draws_follow_no_progression() -> None:
    drawn = drawn_all(Pool([(49152, 65535)], KEY))[:10_000]
    steps = Counter((second - first) % 16384 for first, second in itertools.pairwise(drawn))
    # 10,000 steps among 16,384: a step that comes back ten times is not chance.
    assert steps.most_common(1)[0][1] < 10


def test_n21_draws_depend_on_the_whole_key() -> None:
    def draws(key: bytes) -> list[int]:
        return drawn_all(Pool([(49152, 65535)], key))[:20]

    assert draws(KEY) == draws(KEY)
    for octet in range(16):
        assert draws(KEY) != draws(bytes(b ^ (i == octet) for i, b in enumerate(KEY)))
