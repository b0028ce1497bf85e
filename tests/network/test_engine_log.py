"""What is logged of a NAT engine at its limits (N27, N28)."""

from __future__ import annotations

from arcbox_net.network.engine_log import ExhaustionLog
from tests.support.frames import udp
from tests.support.nat import E2, E3, A, Nat


def test_n27_n28_any_number_of_refused_flows_is_one_line_without_an_address() -> None:
    nat, log = Nat(flows_per_guest=3), ExhaustionLog()
    for remote in (E2, E3):
        for number in range(1, 501):
            nat.outbound(udp((A, 4000), (remote, number)))
    line = log.line(nat.engine.stats())
    assert line == "new flows were refused: 997 times because a guest was at its quota of flows"


def test_n27_nothing_is_logged_while_nothing_is_refused() -> None:
    nat, log = Nat(flows_per_guest=3), ExhaustionLog()
    for number in range(1, 5):
        nat.outbound(udp((A, 4000), (E2, number)))
    assert log.line(nat.engine.stats()) is not None
    nat.sent(udp((A, 4000), (E2, 1)))
    assert log.line(nat.engine.stats()) is None


def test_n27_every_limit_that_was_reached_is_named() -> None:
    log, quiet = ExhaustionLog(), Nat().engine.stats()
    line = log.line(quiet | {"ports_exhausted": 2, "flows_full": 1})
    assert line is not None
    assert (
        "1 times because the table of flows was full" in line and "2 times because no external port" in line
    )
