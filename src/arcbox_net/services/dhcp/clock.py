"""The clock of this machine, as leases are measured by it."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from arcbox_net.services.dhcp.records import Clock

# BOOTTIME counts suspended time, as a guest's lease does; where there is none, MONOTONIC is nearest.
_MONO = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_clock() -> Clock:
    return Clock(time.time(), time.clock_gettime(_MONO), boot_id())


@functools.cache
def boot_id() -> str:
    """Names this boot; empty where the system does not say: then only the wall clock counts after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
