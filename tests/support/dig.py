"""What a name server answers to somebody who asks again until it does."""

from __future__ import annotations

from tests.support.netns import Namespace


def dig(where: Namespace, server: str, *words: str) -> list[str]:
    """The records that *server* answers to *words*, none for a name that is not; AssertionError without an answer."""
    said = where.run(["dig", "+short", "+time=3", "+tries=10", f"@{server}", *words]).stdout
    return [line for line in said.splitlines() if not line.startswith(";")]  # of tries that had no answer
