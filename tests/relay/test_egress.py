"""Connections of a guest through a real TUN, in namespaces of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.egress import WORLD6, EgressBed, listening
from tests.support.netns import Host
from tests.support.relay import read_exactly

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bed() -> Iterator[EgressBed]:
    with EgressBed() as running:
        yield running


both_families = pytest.mark.parametrize("address", [Host.world_ip, WORLD6], ids=["ipv4", "ipv6"])


@both_families
def test_a_guest_reaches_a_server_and_bytes_go_both_ways(bed: EgressBed, address: str) -> None:
    with listening(bed.world, address) as (server, port):
        with bed.dial(address, port) as client:
            served, _ = server.accept()
            with served:
                client.sendall(b"hello")
                assert read_exactly(served, 5) == b"hello"
                served.sendall(b"world")
                assert read_exactly(client, 5) == b"world"


@both_families
def test_t3_a_closed_port_looks_closed(bed: EgressBed, address: str) -> None:
    with listening(bed.world, address) as (_, port):
        pass
    with pytest.raises(ConnectionRefusedError):
        bed.dial(address, port)
    assert bed.relay.flows()[0]["reason"] == "connection refused"
