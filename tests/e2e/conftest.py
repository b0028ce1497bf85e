"""Fixtures of the end-to-end suite: a private machine for each test, and a world that answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine
from tests.support.peers import dns_server, http_server
from tests.support.rootless import Rootless


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A host namespace with an uplink to a world, and arcbox-net's folders in tmp_path."""
    with Machine(tmp_path) as made:
        made.etc("resolv.conf", f"nameserver {made.world_ip}\n")
        yield made


@pytest.fixture
def world_dns(machine: Machine, tmp_path: Path) -> Iterator[Path]:
    """A DNS upstream in the world that knows `*.test`; the log of its queries."""
    with dns_server(machine.world, machine.world_ip, tmp_path) as log:
        yield log


@pytest.fixture
def world(machine: Machine, world_dns: Path) -> Iterator[Machine]:
    """The machine, with DNS and HTTP answering in the world."""
    with http_server(machine.world):
        yield machine


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Rootless]:
    """An ordinary user's machine, with DNS and HTTP answering in the world, over IPv4 and IPv6."""
    with Rootless() as made, answering(made, tmp_path):
        yield made


@contextlib.contextmanager
def answering(site: Rootless, directory: Path) -> Iterator[None]:
    with (
        dns_server(site.world, site.world_ip, directory),
        http_server(site.world),
        http_server(site.world, address="::"),
    ):
        yield
