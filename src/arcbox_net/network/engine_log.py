"""What a NAT engine ran out of, for the log: RFC 6888 REQ-11 and REQ-12. How often it is asked, its owner says."""

from __future__ import annotations

from collections.abc import Mapping

REPORT_S = 10  # between two lines, whatever the packet rate
_LIMITS = {
    "flows_full": "the table of flows was full",
    "mappings_full": "the table of mappings was full",
    "guests_full": "too many guests",
    "ports_exhausted": "no external port was left",
    "guest_flows": "a guest was at its quota of flows",
    "guest_ports": "a guest was at its quota of ports",
    "guest_addresses": "a guest used too many addresses",
}


class ExhaustionLog:
    """Lines about flows that were refused. None names a guest, or whom it wanted to reach."""

    def __init__(self) -> None:
        self._counted = dict.fromkeys(_LIMITS, 0)

    def line(self, stats: Mapping[str, int]) -> str | None:
        """What to say about the engine with these `stats()`; None when nothing was refused since the last call."""
        more = {name: stats[name] - before for name, before in self._counted.items() if stats[name] > before}
        self._counted = {name: stats[name] for name in _LIMITS}
        if not more:
            return None
        reasons = ", ".join(f"{count} times because {_LIMITS[name]}" for name, count in more.items())
        return f"new flows were refused: {reasons}"
