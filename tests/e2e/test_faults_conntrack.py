"""K13: the kernel's table of connections is full."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from arcbox_net import NetConfig
from arcbox_net.host.linux import conntrack, nfnetlink
from arcbox_net.host.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    attr,
    build,
    nested,
)
from tests.support.dig import dig
from tests.support.machine import Machine, udhcpc
from tests.support.netns import wait_until
from tests.support.peers import SILENCE_S, refused

pytestmark = [pytest.mark.fault]

LIMIT_MAX = 1 << 19  # more takes too long to fill
BATCH = 256
SPARE = 4 * BATCH  # asked for beyond the limit
PORTS = 60_000
IDLE_S = 600
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT = 1, 2, 3, 7
ASSURED = 0b1110  # SEEN_REPLY, ASSURED, CONFIRMED: the kernel gives no such entry up for a new one


def way(kind: int, src: tuple[int, int], dst: tuple[int, int]) -> bytes:
    """One direction of a UDP connection."""
    addresses = nested(1, attr(1, struct.pack("!L", src[0])), attr(2, struct.pack("!L", dst[0])))
    ports = [attr(2, struct.pack("!H", src[1])), attr(3, struct.pack("!H", dst[1]))]
    return nested(kind, addresses, nested(2, attr(1, bytes([socket.IPPROTO_UDP])), *ports))


def connections() -> Iterator[bytes]:
    """Requests for connections between addresses of 198.18.0.0/15, one after the other."""
    tail = attr(CTA_STATUS, struct.pack("!L", ASSURED)) + attr(CTA_TIMEOUT, struct.pack("!L", IDLE_S))
    server = (0xC6130001, 9)
    for number in itertools.count():
        client = (0xC6120000 + number // PORTS, number % PORTS + 1)
        body = way(CTA_TUPLE_ORIG, client, server) + way(CTA_TUPLE_REPLY, server, client) + tail
        flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
        head = bytes([nfnetlink.NFPROTO_IPV4, 0, 0, 0])
        yield build(nfnetlink.SUBSYS_CONNTRACK << 8, flags, number, head + body)


def fill() -> conntrack.Room:
    """Take every place in this network namespace's table; how full it is then."""
    found = conntrack.room()
    assert found is not None
    wanted = connections()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        for _ in range(0, found.limit - found.used + SPARE, BATCH):
            netlink.send(b"".join(itertools.islice(wanted, BATCH)))
    full = conntrack.room()
    assert full is not None
    return full


def test_k13_names_addresses_and_an_explanation_are_there_when_no_connection_is_free(
    machine: Machine,
) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        guest, late = machine.guest(network, "vm1"), machine.bare_guest(network, "late")
        limit = int(machine.sysctl("net.netfilter.nf_conntrack_max"))
        if limit > LIMIT_MAX:
            pytest.skip(f"{limit} connections take too long to fill")
        assert machine.call(fill).used >= limit
        assert refused(guest, machine.world_ip, 80, timeout=SILENCE_S) == "timeout"  # the fault itself

        def is_counted() -> bool:
            machine.call(fill)  # what was there before may have ended meanwhile
            return bool(network.stats()["conntrack"] == {"used": limit, "max": limit})

        wait_until(is_counted)
        (warning,) = [w for w in network.status().warnings if w.code == "conntrack-full"]
        assert f" of {limit}" in warning.message and f"nf_conntrack_max={2 * limit}" in warning.fix
        assert f" of {limit}" in machine.cli("show dev").stderr
        assert udhcpc(late)["ip"] == late.ip
        for client in (guest, late):
            assert dig(client, "192.168.64.1", "vm1.dev.internal") == [guest.ip]
