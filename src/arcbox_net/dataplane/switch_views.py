"""What a switch shows of itself."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class FdbEntry:
    """A MAC address, the port that has it, and seconds since it was last heard there; None: it is a binding's."""

    mac: str
    port: int
    age_s: int | None
