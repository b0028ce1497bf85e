"""A host of its own for each test of what changes a kernel, and `Links` on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arcbox_net.host.linux.links import Links
from tests.support.netns import Host


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(world=False) as created:
        yield created


@pytest.fixture
def links(host: Host) -> Iterator[Links]:
    with Links(host.path) as opened:
        yield opened
