"""A process that is killed between two changes of the kernel, played inside the test."""

from __future__ import annotations

from typing import Any

import pytest

from arcbox_net.host.linux.rtsocket import RouteSocket


class Crash(BaseException):
    """SIGKILL as seen from inside: nothing after it runs."""


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The *step*-th change of the kernel, and all after it, do not happen."""
    left = [step]
    for name in ("attempt", "request"):
        real = getattr(RouteSocket, name)

        def counted(self: RouteSocket, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(self, *args, **kwargs)

        monkeypatch.setattr(RouteSocket, name, counted)
