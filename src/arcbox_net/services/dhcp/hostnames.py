"""Which of the names that guests send (option 12) they may have."""

from __future__ import annotations

import re

OPTION_BYTES_MAX = 255

# A guest with one of these names would speak for the network; the names service refuses them as well.
HOSTNAMES_REFUSED = frozenset(("localhost", "wpad", "gateway", "host", "isatap"))
_HOSTNAME = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def sanitise_hostname(payload: bytes | None) -> str | None:
    """The first label of option 12 as a DNS name, or None when it is none or not a guest's to have."""
    if payload is None or len(payload) > OPTION_BYTES_MAX:
        return None
    label = payload.rstrip(b"\0").lower().split(b".", 1)[0]
    if _HOSTNAME.fullmatch(label) is None:
        return None
    name = label.decode("ascii")
    return None if name in HOSTNAMES_REFUSED else name
