"""The ratchet of frames a second: what is worse than the stored result by more than a tenth is told."""

from __future__ import annotations

import pytest

from bench.ports.floor import EMPTY, fallen


def rounds(speed: float, loop_ns: float = 0.5) -> dict[str, list[dict[str, float]]]:
    return {
        EMPTY: [{"ns": loop_ns}] * 5,
        "TAP": [{"m_s": speed * share} for share in (0.2, 1.0, 1.0, 1.0, 3.0)],
    }


@pytest.mark.parametrize(
    ("now", "told"),
    [
        pytest.param(rounds(0.91), [], id="a-little-slower"),
        pytest.param(rounds(0.88), ["TAP: -12% against what is stored"], id="too-slow"),
        pytest.param(rounds(2.0), [], id="faster"),
        pytest.param(rounds(0.6, 0.86), [], id="on-a-slow-machine"),
    ],
)
def test_g4_a_median_that_fell_by_more_than_a_tenth_fails(
    now: dict[str, list[dict[str, float]]], told: list[str]
) -> None:
    assert fallen(rounds(1.0), now) == told
