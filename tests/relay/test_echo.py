"""Ping of a guest through the host's ping sockets, in namespaces of their own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.echo import is_echoed, wait_for_echo
from tests.support.egress import HOST6, WORLD6, EgressBed
from tests.support.netns import Host, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bed() -> Iterator[EgressBed]:
    with EgressBed() as running:
        allow(running)
        yield running


both_families = pytest.mark.parametrize("address", [Host.world_ip, WORLD6], ids=["ipv4", "ipv6"])


def allow(bed: EgressBed) -> None:
    bed.host.sysctl("net.ipv4.ping_group_range", "0 0")


@both_families
@pytest.mark.parametrize("size", [0, 56, 1452, 1473, 30000, 65000])
def test_a_request_is_answered_with_its_own_bytes(bed: EgressBed, address: str, size: int) -> None:
    assert "wrong data" not in wait_for_echo(bed.guest, address, "-s", str(size), "-p", "a5")


@both_families
def test_two_pings_at_once_keep_their_answers_apart(bed: EgressBed, address: str) -> None:
    running = [
        bed.guest.popen(
            ["ping", "-n", "-c5", "-i0.01", "-e", str(identifier), address], stdout=subprocess.PIPE, text=True
        )
        for identifier in (4711, 4712)
    ]
    for one in running:
        output, _ = one.communicate(timeout=60)
        assert " 0 received" not in output and "DUP" not in output


def test_one_identifier_is_one_socket_whatever_it_pings(bed: EgressBed) -> None:
    bed.world.run("ip addr add 203.0.113.200/32 dev lo", check=False)
    opened = bed.stat("echo_opened")
    for address in (bed.world_ip, "203.0.113.200"):
        wait_for_echo(bed.guest, address, "-e", "77")
    assert bed.stat("echo_opened") == opened + 1


@both_families
def test_a_ttl_that_ends_on_the_way_is_told_by_the_router_where_it_ended(
    bed: EgressBed, address: str
) -> None:
    wait_for_echo(bed.guest, address, "-t", "2")  # one hop for the guests' kernel and one for the host
    beyond = "fd00:db8:ffff::1" if ":" in address else "198.51.100.50"
    bed.world.sysctl("net.ipv4.ip_forward", 1)
    bed.world.sysctl("net.ipv6.conf.all.forwarding", 1)
    back = HOST6 if ":" in address else Host.host_ip
    bed.world.run(f"ip {'-6' if ':' in address else '-4'} route replace {beyond} via {back}")
    told = re.compile(rf"From {re.escape(address)} .*(Time to live exceeded|Time exceeded)")
    ping = ["ping", "-n", "-c1", "-W1", "-t2", beyond]
    wait_until(lambda: told.search(bed.guest.run(ping, check=False).stdout))


@pytest.mark.parametrize("address", [Host.host_ip, HOST6], ids=["ipv4", "ipv6"])
def test_h1_the_host_itself_does_not_answer(bed: EgressBed, address: str) -> None:
    before = bed.stat("echo_drop_destination")
    assert not is_echoed(bed.guest, address)
    wait_until(lambda: bed.stat("echo_drop_destination") == before + 1)


def test_nobody_answers_for_an_address_that_is_silent(bed: EgressBed) -> None:
    bed.world.run("ip route replace blackhole 198.51.100.99")
    assert not is_echoed(bed.guest, "198.51.100.99")


def test_flows_lists_the_identifier(bed: EgressBed) -> None:
    wait_for_echo(bed.guest, bed.world_ip, "-e", "1234")
    rows = [row for row in bed.relay.flows() if row["protocol"] == "icmp" and row["guest_port"] == 1234]
    assert [row["peer"] for row in rows] == [bed.world_ip]


def test_where_ping_sockets_are_forbidden_nothing_is_answered_and_stats_say_why() -> None:
    with EgressBed() as bed:
        bed.host.sysctl("net.ipv4.ping_group_range", "1 0")
        assert not is_echoed(bed.guest, bed.world_ip)
        wait_until(lambda: bed.stat("echo_drop_forbidden") == 1)
        assert bed.stat("echo_in") == 0
        allow(bed)
        wait_for_echo(bed.guest, bed.world_ip)


def test_sockets_end_after_silence() -> None:
    with EgressBed(echo_idle_s=1) as bed:
        allow(bed)
        wait_for_echo(bed.guest, bed.world_ip)
        wait_for_echo(bed.guest, WORLD6)
        wait_until(lambda: bed.stat("echo_endpoints") == 0)
        assert bed.stat("echo_expired") == bed.stat("echo_opened") >= 2


@pytest.mark.parametrize(
    ("option", "counter"),
    [("echo_flows_max", "echo_drop_limit"), ("echo_flows_per_guest_max", "echo_drop_guest_limit")],
)
def test_past_a_limit_new_identifiers_are_dropped_and_live_ones_go_on(option: str, counter: str) -> None:
    with EgressBed(**{option: 2}) as bed:
        allow(bed)
        for identifier in ("1", "2"):
            wait_for_echo(bed.guest, bed.world_ip, "-e", identifier)
        assert not is_echoed(bed.guest, bed.world_ip, "-e", "3")
        wait_until(lambda: bed.stat(counter) == 1)
        wait_for_echo(bed.guest, bed.world_ip, "-e", "1")
