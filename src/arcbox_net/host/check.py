"""One thing that `doctor` looked at."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """`fix`: the command that helps, when there is one."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None
