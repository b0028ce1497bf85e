"""Framing, acknowledgements and dumps of the netlink codec, without a kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.errors import KernelError, PermissionDenied
from arcbox_net.host.linux import netlink, rtnl
from arcbox_net.host.linux.netlink import Message, Netlink
from arcbox_net.host.linux.rtsocket import RouteSocket
from tests.support.netns import Namespace

LISTED = 16


class FakeSocket:
    """Answers each request with the next script: functions from sequence number to datagrams."""

    def __init__(self, *scripts: Callable[[int], list[bytes]]) -> None:
        self.scripts = list(scripts)
        self.pending: list[bytes] = []
        self.requests = 0

    def send(self, request: bytes) -> int:
        self.requests += 1
        (sequence,) = struct.unpack_from("=I", request, 8)
        self.pending += self.scripts.pop(0)(sequence)
        return len(request)

    def recv(self, size: int) -> bytes:
        return self.pending.pop(0)[:size]


def scripted(*scripts: Callable[[int], list[bytes]]) -> tuple[Netlink, FakeSocket]:
    fake = FakeSocket(*scripts)
    client = Netlink.__new__(Netlink)
    client._socket = fake  # type: ignore[assignment]
    client._sequence = 0
    return client, fake


def done(sequence: int, flags: int = 0) -> bytes:
    return netlink.build(netlink.NLMSG_DONE, netlink.NLM_F_MULTI | flags, sequence, struct.pack("=i", 0))


def item(sequence: int, name: bytes, flags: int = 0) -> bytes:
    return netlink.build(LISTED, netlink.NLM_F_MULTI | flags, sequence, name)


def refusal(sequence: int, code: int, words: bytes = b"") -> bytes:
    echoed = struct.pack("=IHHII", 16, LISTED, 1, sequence, 0)
    payload = struct.pack("=i", -code) + echoed
    flags = netlink.NLM_F_CAPPED
    if words:
        payload += netlink.attr(netlink.NLMSGERR_ATTR_MSG, words + b"\0")
        flags |= netlink.NLM_F_ACK_TLVS
    return netlink.build(netlink.NLMSG_ERROR, flags, sequence, payload)


def test_a_dump_that_ends_in_the_same_datagram_is_complete() -> None:
    client, _ = scripted(lambda n: [item(n, b"aaaa") + item(n, b"bbbb") + done(n)])
    assert [message.payload for message in client.dump(LISTED, b"")] == [b"aaaa", b"bbbb"]


def test_k12_an_interrupted_dump_is_taken_again() -> None:
    torn = netlink.NLM_F_DUMP_INTR
    client, fake = scripted(
        lambda n: [item(n, b"old1", torn), done(n, torn)],
        lambda n: [item(n, b"old2"), done(n, torn)],
        lambda n: [item(n, b"new1"), done(n)],
    )
    assert [message.payload for message in client.dump(LISTED, b"")] == [b"new1"]
    assert fake.requests == 3


def test_a_dump_that_never_settles_is_an_error() -> None:
    client, _ = scripted(*[lambda n: [done(n, netlink.NLM_F_DUMP_INTR)]] * netlink.DUMP_ATTEMPTS_MAX)
    with pytest.raises(KernelError, match="keep changing"):
        client.dump(LISTED, b"")


def test_answers_to_an_earlier_request_are_skipped() -> None:
    client, _ = scripted(lambda n: [item(n - 1, b"late") + done(n - 1), item(n, b"mine"), done(n)])
    assert [message.payload for message in client.dump(LISTED, b"")] == [b"mine"]


def test_a_refusal_carries_the_kernels_words() -> None:
    client, _ = scripted(lambda n: [refusal(n, errno.EINVAL, b"Unknown device type")])
    with pytest.raises(KernelError) as caught:
        client.request(LISTED, 0, b"", operation="create", subject="abx-a")
    assert "create abx-a: Invalid argument (Unknown device type)" in str(caught.value)
    assert caught.value.errno == errno.EINVAL


def test_missing_privilege_is_told_as_such() -> None:
    client, _ = scripted(lambda n: [refusal(n, errno.EPERM)])
    with pytest.raises(PermissionDenied, match="CAP_NET_ADMIN"):
        client.request(LISTED, 0, b"", operation="create", subject="abx-a")


def test_what_the_kernel_does_not_know_is_none() -> None:
    client, _ = scripted(lambda n: [refusal(n, errno.ENODEV)])
    assert client.get(LISTED, b"") is None


@given(st.binary(max_size=200))
def test_no_datagram_breaks_the_parser(datagram: bytes) -> None:
    for message in netlink.parse(datagram):
        netlink.error_of(message)
        list(netlink.iter_attrs(message.payload))


@given(st.lists(st.tuples(st.integers(1, netlink.NLA_TYPE_MASK), st.binary(max_size=40)), max_size=8))
def test_attributes_are_read_as_written(members: list[tuple[int, bytes]]) -> None:
    payload = b"".join(netlink.attr(kind, value) for kind, value in members)
    assert len(payload) % 4 == 0
    assert list(netlink.iter_attrs(payload)) == members


def route(
    *members: bytes, prefix: int = 0, table: int = 254, protocol: int = 4, scope: int = 0
) -> rtnl.Route:
    head = rtnl.RTMSG.pack(2, prefix, 0, 0, table, protocol, scope, rtnl.RTN_UNICAST, 0)
    found = rtnl.route_of(Message(rtnl.RTM_NEWROUTE, 0, 0, head + b"".join(members)))
    assert found is not None
    return found


def test_a_route_reads_as_ip_prints_it() -> None:
    default = route(
        netlink.attr(rtnl.RTA_GATEWAY, bytes([192, 0, 2, 1])),
        netlink.attr_u32(rtnl.RTA_OIF, 2),
        netlink.attr_u32(rtnl.RTA_PRIORITY, 100),
        protocol=16,
    )
    assert rtnl.route_text(default, {2: "eth0"}) == "default via 192.0.2.1 dev eth0 proto dhcp metric 100"
    table = route(
        netlink.attr(rtnl.RTA_DST, bytes([10, 1, 0, 0])),
        netlink.attr_u32(rtnl.RTA_OIF, 9),
        netlink.attr_u32(rtnl.RTA_TABLE, 1000),
        prefix=16,
        table=252,
        scope=rtnl.RT_SCOPE_LINK,
    )
    assert rtnl.route_text(table, {}) == "10.1.0.0/16 dev #9 table 1000 proto static scope link"


@given(st.binary(max_size=64))
def test_no_multipath_breaks_the_parser(multipath: bytes) -> None:
    for _, offset in rtnl.hops(multipath):
        assert offset + 8 <= len(multipath)


@pytest.mark.e2e
def test_whoever_is_in_the_namespace_cannot_answer_for_the_kernel() -> None:
    def forge(port_id: int) -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_ROUTE) as forger:
            forger.bind((0, 0))
            forger.sendto(refusal(1, errno.EPERM), (port_id, 0))

    with Namespace("guest") as guest, RouteSocket(guest.path) as asking:
        port_id = asking._socket.getsockname()[0]
        with pytest.raises(ConnectionRefusedError):
            guest.call(lambda: forge(port_id))
        assert asking.need_link("lo").ifname == "lo"
