"""What this Mac can do for our networks, what is in the way, and what helps. Changes nothing."""

from __future__ import annotations

from arcbox_net.host.check import Check


def checks() -> list[Check]:
    """Everything, in the order in which it matters."""
    return []
