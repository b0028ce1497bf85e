"""The network's own port of its switch: frames that a worker hands over, and what is answered to them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from arcbox_net.network.service_port import Asker, ServicePort
from arcbox_net.services.dhcp.link import DRAIN_MAX
from arcbox_net.services.dhcp.replies import Reply
from arcbox_net.services.udp_frames import Datagram, unwrap, wrap

GATEWAY = IPv4Address("192.168.64.1")
GUEST = IPv4Address("192.168.64.10")
MAC, GUEST_MAC, GATEWAY_MAC = "02:00:00:00:00:fd", b"\x02\0\0\0\0\x10", b"\x02\0\0\0\0\xfe"
QUESTION = Datagram(GUEST_MAC, GATEWAY_MAC, int(GUEST), int(GATEWAY), 5353, 53, b"who?")
REQUEST = Datagram(GUEST_MAC, b"\xff" * 6, 0, 0xFFFFFFFF, 68, 67, b"address?")


class Holder:
    """The worker, as far as the port sees it: it keeps the socket that it is handed."""

    def add(self, port: Any, sink: Any) -> int:
        return 7

    def remove(self, number: int) -> None: ...

    def send(self, number: int, kind: int, payload: bytes = b"") -> int:
        self.end = socket.socket(fileno=struct.unpack("i", payload)[0])
        self.end.setblocking(False)
        return 0


def serving(body: Callable[[ServicePort, Holder], Awaitable[None]]) -> None:
    async def run() -> None:
        port, holder = ServicePort(GATEWAY, MAC, 1500), Holder()
        assert port.add_to(holder, None) == 7  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(body(port, holder), 30)
        finally:
            port.leave()
            port.leave()
            holder.end.close()

    asyncio.run(run())


async def received(holder: Holder) -> bytes:
    return await asyncio.get_running_loop().sock_recv(holder.end, 2048)


def test_a_question_is_answered_from_where_it_went_to() -> None:
    async def body(port: ServicePort, holder: Holder) -> None:
        asked: list[tuple[bytes, Asker, bytes]] = []
        port.ask = lambda packet, client, guest: (asked.append((packet, client, guest)), client.send(b"me"))[
            1
        ]
        holder.end.send(wrap(QUESTION))
        answer = unwrap(await received(holder), verified=True)
        assert answer == Datagram(GATEWAY_MAC, GUEST_MAC, int(GATEWAY), int(GUEST), 53, 5353, b"me")
        assert [(packet, guest) for packet, _, guest in asked] == [(b"who?", GUEST.packed)]
        holder.end.send(wrap(QUESTION))
        await received(holder)
        assert asked[0] == asked[1], "who asks again is known to"

    serving(body)


def test_dhcp_is_answered_from_the_ports_own_mac_while_it_is_open() -> None:
    async def body(port: ServicePort, holder: Holder) -> None:
        got: asyncio.Future[Datagram | None] = asyncio.get_running_loop().create_future()
        holder.end.send(wrap(REQUEST))
        while port.stats() != {"unserved": 1}:
            await asyncio.sleep(0)
        await port.open(got.set_result)
        holder.end.send(wrap(REQUEST))
        assert await got == REQUEST
        port.send(Reply(b"this one", GUEST_MAC, int(GUEST), 68))
        sent = unwrap(await received(holder), verified=True)
        assert sent == Datagram(
            bytes.fromhex(MAC.replace(":", "")), GUEST_MAC, int(GATEWAY), int(GUEST), 67, 68, b"this one"
        )
        port.leave()
        with pytest.raises(OSError, match="closed"):
            port.send(Reply(b"", GUEST_MAC, int(GUEST), 68))

    serving(body)


def test_a_probe_tells_who_has_an_address_and_that_nobody_has() -> None:
    async def body(port: ServicePort, holder: Holder) -> None:
        asking = asyncio.create_task(port.claimed_by(int(GUEST)))
        probe = Ether(await received(holder))
        assert (probe[ARP].psrc, probe[ARP].pdst, probe.src) == ("0.0.0.0", str(GUEST), MAC)
        for claimed in ("192.168.64.11", str(GUEST)):
            holder.end.send(bytes(Ether(dst=MAC) / ARP(op=2, hwsrc="02:00:00:00:00:10", psrc=claimed)))
        assert await asking == GUEST_MAC
        assert await port.claimed_by(int(GUEST)) is None

    serving(body)


def test_one_wake_up_takes_no_more_than_its_budget() -> None:
    port = ServicePort(GATEWAY, MAC, 1500)
    asked: list[bytes] = []
    port.ask = lambda packet, *_: asked.append(packet)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        for _ in range(DRAIN_MAX + 1):
            theirs.send(wrap(QUESTION))
        port._drain(ours)
        assert len(asked) == DRAIN_MAX
        port._drain(ours)
        assert len(asked) == DRAIN_MAX + 1


@given(st.binary(max_size=200), st.integers(0, 60), st.integers(0, 255))
def test_no_frame_is_taken_for_another_and_none_raises(noise: bytes, at: int, flip: int) -> None:
    port = ServicePort(GATEWAY, MAC, 1500)
    asked: list[bytes] = []
    port.ask = lambda packet, *_: asked.append(packet)
    good = bytearray(wrap(QUESTION))
    good[at % len(good)] ^= flip
    for frame in (noise, bytes(good), bytes(good[: at + 1]), bytes(good) + noise):
        port._take(frame)
    assert set(asked) <= {b"who?"}
