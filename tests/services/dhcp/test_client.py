"""Our client against our server, and against answers that no server should give."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.services.dhcp.client import ClientState, DhcpClient
from arcbox_net.services.dhcp.messages import ACK, BOOTREPLY, OFFER, build, encode_option
from tests.services.dhcp.site import GATEWAY, MAC_A, MAC_B, Site, ip


def client(**more: object) -> DhcpClient:
    return DhcpClient(MAC_A, random.Random(7), **more)  # type: ignore[arg-type]


def run(site: Site, one: DhcpClient, payload: bytes | None) -> None:
    while payload is not None:
        answer = site.send(payload)
        payload = None if answer is None else one.receive(answer.reply.payload)


def test_a_lease_comes_with_all_that_the_network_says() -> None:
    routes = ((IPv4Network("10.8.0.0/16"), ip(9)),)
    site = Site(search=("a.internal", "b.internal"), mtu=1400, routes=routes)
    one = client(hostname="vm1", client_id=b"\xffvm1")
    run(site, one, one.discover())
    assert one.state is ClientState.BOUND and one.lease is not None
    lease = one.lease
    assert (lease.ip, lease.prefix, lease.router, lease.dns) == (ip(2), 24, GATEWAY, (GATEWAY,))
    assert (lease.domain, lease.mtu, lease.lease_s, lease.server) == ("net1.internal", 1400, 3600, GATEWAY)
    assert (lease.t1_s, lease.t2_s, lease.search) == (1800, 3150, ("a.internal", "b.internal"))
    assert lease.routes[0] == routes[0]
    assert site.disk[ip(2)].hostname == "vm1" and site.disk[ip(2)].client_id == b"\xffvm1"


def test_renew_release_and_come_back() -> None:
    site = Site()
    one = client()
    run(site, one, one.discover())
    site.wait(1800)
    run(site, one, one.renew())
    assert one.state is ClientState.BOUND and one.lease is not None and one.lease.ip == ip(2)
    run(site, one, one.release())
    assert one.lease is None and not site.disk[ip(2)].is_bound(site.now)
    run(site, one, one.reboot(ip(2)))
    assert one.lease is not None and one.lease.ip == ip(2)


def test_a_refusal_sends_it_back_to_the_start() -> None:
    site = Site()
    one = client()
    run(site, one, one.reboot(IPv4Address("10.0.0.1")))
    assert one.state is ClientState.INIT and one.lease is None


def test_a_wish_is_sent() -> None:
    site = Site()
    one = client()
    run(site, one, one.discover(ip(6)))
    assert one.lease is not None and one.lease.ip == ip(6)


def test_answers_to_others_are_ignored() -> None:
    one = client()
    one.discover()
    site = Site()
    other = DhcpClient(MAC_B, random.Random(8))
    answer = site.send(other.discover())
    assert answer is not None and one.receive(answer.reply.payload) is None
    assert one.state is ClientState.SELECTING


@given(st.binary(max_size=400), st.sampled_from([OFFER, ACK, 6]), st.booleans())
def test_no_servers_answer_raises(noise: bytes, kind: int, selecting: bool) -> None:
    one = client()
    sent = one.discover() if selecting else one.reboot(ip(3))
    options = bytes((53, 1, kind)) + encode_option(54, GATEWAY.packed) + noise
    one.receive(build(options, op=BOOTREPLY, xid=int.from_bytes(sent[4:8], "big"), chaddr=MAC_A))
    one.receive(noise)
