"""One stand-in for the whole run: it is a library of this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.vmnet import Standin


@pytest.fixture(scope="session")
def library() -> Standin:
    return Standin()


@pytest.fixture
def standin(library: Standin) -> Iterator[Standin]:
    before = library.running
    yield library
    library.reset()
    assert library.running == before, "an interface was left running"
