"""The running service over real sockets on loopback: UDP, TCP, upstreams that misbehave, and resolv.conf."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from arcbox_net.errors import ServiceError
from arcbox_net.services.dns import DnsService, DnsSettings, LocalNames, attempts, listener
from arcbox_net.services.dns.settings import TCP_CONNECTIONS_PER_GUEST_MAX
from tests.oracle.dns import DOMAIN, GATEWAY, SUBNET, message, question, response, texts
from tests.support.descriptors import open_descriptors

HOST = "127.0.5.1"
RECORD = "@ 60 IN A 198.51.100.7"
DEADLINE_S = 30.0
Answering = Callable[[bytes, bool], bytes | list[bytes] | None]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream of ours that is kept from its core is not one that is silent; test_lookups.py has those."""
    for name in ("HEDGE_S", "UDP_TIMEOUT_S", "TCP_TIMEOUT_S", "TOTAL_TIMEOUT_S"):
        monkeypatch.setattr(attempts, name, DEADLINE_S)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 4 * DEADLINE_S)

    asyncio.run(bounded())


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, looking often; the deadline only ends a broken test."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, "it never happened"
        await asyncio.sleep(0.005)


class Upstream:
    """A scripted server on UDP and TCP: *script(query, stream)* gives the packets to send."""

    def __init__(self, host: str, script: Answering) -> None:
        self.host = host
        self.script = script
        self.asked: list[tuple[bytes, tuple[str, int], bool]] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.port = free_port(self.host)
        self.udp.bind((self.host, self.port))
        self.server = await asyncio.start_server(self._tcp, self.host, self.port)
        loop.add_reader(self.udp, self._readable)

    def _readable(self) -> None:
        packet, peer = self.udp.recvfrom(65535)
        if b"arcbox-loop" in packet:
            return
        self.asked.append((packet, peer, False))
        for reply in _packets(self.script(packet, False)):
            self.udp.sendto(reply, peer)

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        packet = await reader.readexactly(size)
        self.asked.append((packet, writer.get_extra_info("peername"), True))
        for reply in _packets(self.script(packet, True)):
            writer.write(struct.pack("!H", len(reply)) + reply)
        writer.close()

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        self.server.close()


def _packets(found: bytes | list[bytes] | None) -> list[bytes]:
    return [found] if isinstance(found, bytes) else found or []


def good(query: bytes, stream: bool) -> bytes:
    return response(query, [RECORD])


@asynccontextmanager
async def serving(
    *scripts: Answering, **settings: object
) -> AsyncIterator[tuple[DnsService, int, list[Upstream]]]:
    """A service on a free port of HOST that asks upstreams with these scripts."""
    upstreams = [Upstream(f"127.0.6.{i + 1}", script) for i, script in enumerate(scripts)]
    for upstream in upstreams:
        await upstream.start()
    settings.setdefault("upstreams", tuple((u.host, u.port) for u in upstreams))
    settings.setdefault("queries_per_s", 0)
    port = free_port(HOST)
    names = LocalNames(DOMAIN, [GATEWAY], SUBNET)
    names.put("vm1", ["192.168.64.5"], "lease")
    service = DnsService(
        DnsSettings(listen=((HOST, port),), domain=DOMAIN, subnet=SUBNET, **settings),  # type: ignore[arg-type]
        names,
    )
    await service.start()
    try:
        yield service, port, upstreams
    finally:
        await service.stop()
        for upstream in upstreams:
            upstream.stop()


def free_port(host: str) -> int:
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((host, 0))
            with contextlib.suppress(OSError):  # others have it for UDP
                udp.bind(tcp.getsockname())
                return int(tcp.getsockname()[1])


async def ask(port: int, packet: bytes) -> bytes:
    """The reply to *packet* over UDP."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, (HOST, port))
        await loop.sock_sendall(sock, packet)
        return await asyncio.wait_for(loop.sock_recv(sock, 65535), DEADLINE_S)


def framed(*packets: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(packet)) + packet for packet in packets)


async def read_reply(reader: asyncio.StreamReader) -> dns.message.Message:
    size = struct.unpack("!H", await asyncio.wait_for(reader.readexactly(2), DEADLINE_S))[0]
    return message(await reader.readexactly(size))


# -- UDP -------------------------------------------------------------------------------------------


def test_names_are_answered_from_upstream_cache_and_network() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, (upstream,)):
            for _ in range(2):
                reply = message(await ask(port, question("www.example.com")))
                assert texts(reply.answer) == ["www.example.com. 60 IN A 198.51.100.7"]
            assert len(upstream.asked) == 1
            assert texts(message(await ask(port, question("vm1"))).answer) == ["vm1. 10 IN A 192.168.64.5"]
            stats = service.stats()
            assert (stats["cache_hits"], stats["asked"], stats["local"], stats["lookups"]) == (1, 1, 1, 0)
            assert service.upstreams == [f"127.0.6.1:{upstream.port}"]
            service.flush()
            await ask(port, question("www.example.com"))
            assert len(upstream.asked) == 2

    run(body)


def test_r6_each_query_has_a_port_of_its_own() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, (upstream,)):
            for i in range(30):
                await ask(port, question(f"n{i}.example.com"))
            assert len({peer for _, peer, _ in upstream.asked}) >= 29
            assert service.stats()["upstream_sockets"] <= 1  # the probe's

    run(body)


def test_r6_answers_from_another_address_never_arrive() -> None:
    async def body() -> None:
        def silent(query: bytes, stream: bool) -> None:
            return None

        async with serving(silent) as (_, port, (upstream,)):
            task = asyncio.create_task(ask(port, question("www.example.com")))
            await eventually(lambda: upstream.asked)
            query, peer, _ = upstream.asked[0]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind(("127.0.6.66", 0))
                stranger.sendto(response(query, ["@ 60 IN A 203.0.113.66"]), peer)
            upstream.udp.sendto(response(query, [RECORD]), peer)
            assert texts(message(await task).answer) == ["www.example.com. 60 IN A 198.51.100.7"]

    run(body)


def test_r6_wrong_packets_before_the_right_one_and_then_tc_to_tcp() -> None:
    async def body() -> None:
        def script(query: bytes, stream: bool) -> bytes | list[bytes]:
            right = response(query, [RECORD])
            if stream:
                return right
            wrong_id = bytes([query[0] ^ 1]) + response(query, ["@ 60 IN A 203.0.113.66"])[1:]
            other = response(
                question("other.example.com", id=int.from_bytes(query[:2], "big")), ["@ 60 IN A 203.0.113.66"]
            )
            return [wrong_id, other, b"", right[:20], response(query, flags=dns.flags.TC)]

        async with serving(script) as (service, port, (upstream,)):
            reply = message(await ask(port, question("www.example.com")))
            assert texts(reply.answer) == ["www.example.com. 60 IN A 198.51.100.7"]
            assert [stream for _, _, stream in upstream.asked] == [False, True]
            assert service.stats()["upstream_mismatch"] == 4

    run(body)


def test_r7_hundred_clients_with_one_question_make_one_query() -> None:
    async def body() -> None:
        def hold(query: bytes, stream: bool) -> None:
            return None

        async with serving(hold) as (service, port, (upstream,)):
            tasks = [asyncio.create_task(ask(port, question("www.example.com"))) for _ in range(40)]
            await eventually(lambda: upstream.asked and service.stats().get("coalesced") == 39)
            assert service.stats()["lookups"] == 1
            query, peer, _ = upstream.asked[-1]
            upstream.udp.sendto(response(query, [RECORD]), peer)
            replies = await asyncio.gather(*tasks)
            assert all(message(reply).answer for reply in replies)

    run(body)


# -- TCP -------------------------------------------------------------------------------------------


def test_r16_many_queries_on_one_connection_are_answered_in_any_order() -> None:
    async def body() -> None:
        held: list[bytes] = []

        def hold(query: bytes, stream: bool) -> bytes | None:
            if b"slow" not in query.lower():
                return response(query, [RECORD])
            held.append(query)
            return None

        async with serving(hold) as (_, port, (upstream,)):
            reader, writer = await asyncio.open_connection(HOST, port)
            names = ["slow.example.com", "fast.example.com", "vm1", "other.example.com"]
            writer.write(framed(*(question(name, id=i) for i, name in enumerate(names))))
            first = [(await read_reply(reader)).id for _ in range(3)]
            assert sorted(first) == [1, 2, 3]
            query, peer, _ = upstream.asked[0]
            upstream.udp.sendto(response(query, [RECORD]), peer)
            assert (await read_reply(reader)).id == 0
            writer.write(framed(question("vm1", id=9)))
            assert (await read_reply(reader)).id == 9
            writer.close()

    run(body)


def test_r16_query_that_comes_byte_by_byte_is_answered() -> None:
    async def body() -> None:
        async with serving(good) as (_, port, _upstreams):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in framed(question("vm1")):
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await read_reply(reader)).answer
            writer.close()

    run(body)


def test_r16_client_that_has_said_all_still_gets_its_answers() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(framed(question("a.example.com"), question("b.example.com")))
            writer.write_eof()
            assert [bool((await read_reply(reader)).answer) for _ in range(2)] == [True, True]
            assert await reader.read() == b""
            await eventually(lambda: service.stats()["tcp_connections"] == 0)

    run(body)


@pytest.mark.parametrize("start", [b"\0\0", b"\0\1x", b"\0\x0b" + b"x" * 11])
def test_r16_length_that_holds_no_message_ends_the_connection(start: bytes) -> None:
    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(start)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), DEADLINE_S)
            await eventually(lambda: service.stats()["tcp_connections"] == 0)
            assert service.stats()["tcp_bad_length"] == 1

    run(body)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="half-a-length"),
        pytest.param(b"\xff\xff", id="length"),
        pytest.param(b"\xff\xff" + bytes(1000), id="part-of-a-long-message"),
        pytest.param(b"\0\x20abc", id="part-of-a-message"),
        pytest.param(framed(b"\0\1\x80" + bytes(9)), id="message-that-gets-no-answer"),
    ],
)
def test_r16_stalled_client_blocks_nobody_and_is_closed_when_idle(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "SWEEP_S", 0.01)

    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            _reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(start)
            await eventually(lambda: service.stats()["tcp_connections"] == 1)
            assert message(await ask(port, question("vm1"))).answer
            other_reader, other_writer = await asyncio.open_connection(HOST, port)
            other_writer.write(framed(question("vm1")))
            assert (await read_reply(other_reader)).answer
            assert service._sockets is not None
            tcp = service._sockets.tcp
            real = tcp.clock
            tcp.clock = lambda: real() + 10.1
            await eventually(lambda: service.stats()["tcp_connections"] == 0)
            assert service.stats()["tcp_idle"] == 2
            writer.close()
            other_writer.close()

    run(body)


def test_r16_guest_has_sixteen_connections_and_no_more() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            writers = []
            for _ in range(TCP_CONNECTIONS_PER_GUEST_MAX):
                reader, writer = await asyncio.open_connection(HOST, port, local_addr=("127.0.7.1", 0))
                writer.write(framed(question("vm1")))
                assert (await read_reply(reader)).answer
                writers.append(writer)
            reader, writer = await asyncio.open_connection(HOST, port, local_addr=("127.0.7.1", 0))
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), DEADLINE_S)
            other, other_writer = await asyncio.open_connection(HOST, port, local_addr=("127.0.7.2", 0))
            other_writer.write(framed(question("vm1")))
            assert (await read_reply(other)).answer
            assert service.stats()["tcp_connections_full"] == 1
            for each in [*writers, writer, other_writer]:
                each.close()

    run(body)


def test_r16_half_a_message_and_a_reset_end_the_connection_without_spinning() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            loop = asyncio.get_running_loop()
            sock = socket.create_connection((HOST, port))
            sock.sendall(framed(question("vm1"))[:9])
            await eventually(lambda: service.stats()["tcp_connections"] == 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            await eventually(lambda: service.stats()["tcp_connections"] == 0)
            selector = loop._selector  # type: ignore[attr-defined]
            turns = 0
            select = selector.select

            def counted(timeout: float | None = None) -> object:
                nonlocal turns
                turns += 1
                return select(timeout)

            selector.select = counted
            await asyncio.sleep(0.3)
            selector.select = select
            assert turns < 20

    run(body)


def test_r16_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "TCP_UNSENT_BYTES_MAX", 10_000)

    async def body() -> None:
        def large(query: bytes, stream: bool) -> bytes:
            if not stream:
                return response(query, flags=dns.flags.TC)
            return response(query, [f'@ 60 IN TXT "{"x" * 250}{i}"' for i in range(50)])

        async with serving(large) as (service, port, _upstreams):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((HOST, port))
            sock.setblocking(False)
            query = framed(question("big.example.com", "TXT"))

            def send_more() -> bool:
                try:
                    sock.send(query * 20)
                except BlockingIOError:
                    pass
                except OSError:
                    return True
                return bool(service.stats().get("tcp_unread"))

            await eventually(send_more)
            await eventually(lambda: service.stats()["tcp_connections"] == 0)
            assert message(await ask(port, question("vm1"))).answer
            sock.close()

    run(body)


# -- upstreams -------------------------------------------------------------------------------------


def test_r17_dead_upstream_is_passed_over() -> None:
    async def body() -> None:
        async with serving(good, good) as (service, port, (first, second)):
            first.stop()
            for i in range(5):
                assert message(await ask(port, question(f"n{i}.example.com"))).answer
            assert len(second.asked) == 5
            assert service.stats()["upstream_unreachable"] >= 1
            await first.start()

    run(body)


def test_r17_upstream_closing_its_tcp_early_is_a_failure_not_a_hang() -> None:
    async def body() -> None:
        def script(query: bytes, stream: bool) -> bytes | None:
            return None if stream else response(query, flags=dns.flags.TC)

        async with serving(script) as (_, port, _upstreams):
            assert message(await ask(port, question("www.example.com"))).rcode() == dns.rcode.SERVFAIL

    run(body)


def test_r17_resolv_conf_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"

    async def body() -> None:
        async with serving(upstreams=(), resolv_conf=path) as (service, port, _):
            assert service.upstreams == []
            path.write_text("nameserver 127.0.6.1\nnameserver 127.0.6.2\n")
            await eventually(lambda: service.upstreams == ["127.0.6.1:53", "127.0.6.2:53"])
            path.write_text("")
            path.unlink()
            (tmp_path / "new").write_text("# by a tool\nsearch lan\nnameserver 127.0.6.3\n")
            os.rename(tmp_path / "new", path)
            await eventually(lambda: service.upstreams == ["127.0.6.3:53"])
            assert message(await ask(port, question("vm1"))).answer

    run(body)


def test_r20_host_only_service_opens_no_socket_to_anybody() -> None:
    async def body() -> None:
        async with serving(good, recursion=False) as (service, port, (upstream,)):
            assert message(await ask(port, question("www.example.com"))).rcode() == dns.rcode.REFUSED
            assert message(await ask(port, question("vm1"))).answer
            assert upstream.asked == []
            assert service.stats()["upstream_sockets"] == 0

    run(body)


def test_name_registered_later_wins_over_a_cached_answer() -> None:
    async def body() -> None:
        async with serving(good) as (service, port, _upstreams):
            await ask(port, question("app.example.com"))
            service._names.put("app.example.com", ["192.168.64.8"], "api")
            reply = message(await ask(port, question("app.example.com")))
            assert texts(reply.answer) == ["app.example.com. 10 IN A 192.168.64.8"]

    run(body)


# -- listening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("address", [HOST, "0.0.0.0"])
def test_taken_port_is_an_error_that_names_the_holder(kind: socket.SocketKind, address: str) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind((address, 0))
            port = other.getsockname()[1]
            if kind == socket.SOCK_STREAM:
                other.listen()
            service = DnsService(DnsSettings(listen=((HOST, port),), domain=DOMAIN), LocalNames(DOMAIN))
            with pytest.raises(ServiceError) as caught:
                await service.start()
            assert f"pid {os.getpid()}" in caught.value.message
            assert caught.value.fix
            assert caught.value.facts["protocol"] == ("udp" if kind == socket.SOCK_DGRAM else "tcp")
            await service.stop()

    run(body)


def test_r23_socket_holds_a_flood_while_we_are_busy() -> None:
    with listener.bind((HOST, 0), socket.SOCK_DGRAM) as sock:
        held = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if os.geteuid() == 0:
        assert held >= listener.UDP_BUFFER_BYTES
    else:
        assert held >= min(listener.UDP_BUFFER_BYTES, int(Path("/proc/sys/net/core/rmem_max").read_text()))


def test_address_may_appear_after_the_service() -> None:
    async def body() -> None:
        service = DnsService(
            DnsSettings(listen=(("192.0.2.77", free_port(HOST)),), domain=DOMAIN), LocalNames(DOMAIN)
        )
        await service.start()
        await service.stop()

    run(body)


def test_start_and_stop_leave_nothing_open() -> None:
    async def body() -> None:
        async def once() -> None:
            async with serving(good) as (_, port, _upstreams):
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(framed(question("a.example.com")))
                await read_reply(reader)
                writer.close()
                await writer.wait_closed()

        await once()
        before = open_descriptors()
        for _ in range(3):
            await once()
        await eventually(lambda: open_descriptors() <= before)

    run(body)
