"""How many processors there are for workers."""

from __future__ import annotations

import os


def cores() -> int:
    """Those that this process may use, where the system can say, and all of them elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
