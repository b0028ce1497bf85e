"""api.sock and fd.sock at their edges: bad requests, vanished clients, no descriptors left."""

import array
import asyncio
import contextlib
import errno
import json
import os
import socket
import threading

import pytest

from arcbox_net import paths
from arcbox_net.errors import LimitReached, NotRunning, StartFailed
from arcbox_net.manager import NetworkManager
from arcbox_net.network import api, fdpass
from arcbox_net.network.api import application
from arcbox_net.network.client import Client
from arcbox_net.network.fdpass import CLIENTS_MAX, PATH_BYTES_MAX, FdServer, listen
from arcbox_net.network.messages import AttachTap, PortInfo, TapReply
from tests.support.descriptors import can_refuse_descriptors, open_descriptors

PORT = PortInfo(
    name="vm1", kind="tap", ifname="abx-x_0", mac="02:00:00:00:00:01", ip=None, state="up", mtu=1500
)


class Network:
    """Answers what the edges need, and fails where nobody foresaw it."""

    def __init__(self):
        self.detached = []

    async def ports(self):
        return [PORT]

    async def detach(self, name):
        self.detached.append(name)

    async def stats(self):
        raise RuntimeError("unforeseen")


def request(method, path, body=b"", network=None):
    """`(status, decoded body)` of one request to the API, without a socket."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    with contextlib.suppress(RuntimeError):  # starlette raises what it has answered
        asyncio.run(application(network or Network())(scope, receive, send))
    raw = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(raw) if raw else None


def test_head_is_answered_as_get_is():
    assert request("HEAD", "/v1/ports") == request("GET", "/v1/ports")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/network", 404),
        ("PUT", "/v1/ports", 405),
        ("BREW", "/v1/ports", 405),
        ("DELETE", "/v1/ports/a/b", 404),
    ],
)
def test_k16_unknown_request_is_named_in_its_error(method, path, status):
    got, answer = request(method, path)
    assert got == status
    assert answer["error"]["message"].startswith(f"{method} {path}: ")
    assert "openapi.json" in answer["error"]["fix"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b"[" * 60_000, b"{}" * 40_000, b'{"kind": 1}', b'{"kind": "tap", "x": 1}'],
)
def test_k16_bad_body_is_the_callers_error(body):
    status, answer = request("POST", "/v1/ports", body)
    assert status == 400
    assert answer["error"]["code"] == "config"


def test_what_nobody_foresaw_is_told_without_a_traceback():
    status, answer = request("GET", "/v1/stats")
    assert status == 500
    assert answer["error"]["message"] == "internal error: RuntimeError: unforeseen"


# -- the caller's side


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCBOX_NET_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "dev").mkdir()
    return tmp_path


class Recorder:
    """An api.sock that notes request lines and answers 204."""

    def __init__(self):
        self.lines = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(paths.api_socket("dev")))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.lines.append(connection.recv(65536).split(b"\r\n")[0].decode())
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize("name", ["a b", "a/../b", "a?b=c", "a#b", "ä", "a\r\nX: y", "%2e"])
def test_any_name_reaches_the_network_as_one_part_of_the_path(runtime, name):
    recorder = Recorder()
    try:
        NetworkManager(name="dev").detach(name)
    finally:
        recorder.close()
    (line,) = recorder.lines
    method, target, _ = line.split(" ")
    assert method == "DELETE"
    assert target.count("/") == 3 and "?" not in target


def test_tap_whose_descriptors_do_not_all_arrive_is_an_error_and_leaks_none(runtime):
    listener = listen(paths.fd_socket("dev"), socket.SOCK_SEQPACKET)
    listener.setblocking(True)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            ends = os.pipe()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends[:1]))]
            connection.sendmsg([json.dumps({"port": json.loads(encoded(PORT)), "fds": 2}).encode()], rights)
            for end in ends:
                os.close(end)

    thread = threading.Thread(target=serve)
    before = open_descriptors()
    thread.start()
    with pytest.raises(LimitReached, match="1 of 2 file descriptors"):
        Client("dev").request_fds(AttachTap())
    thread.join()
    assert open_descriptors() == before
    listener.close()


def encoded(value):
    import msgspec

    return msgspec.json.encode(value)


def test_nobody_there_is_not_running(runtime):
    with pytest.raises(NotRunning):
        Client("dev").request_fds(AttachTap())


# -- api.sock


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"G", id="a-byte"),
        pytest.param(b"GET /v1/ports HTTP/1.1\r\nHost: x\r\n", id="no-end-of-the-head"),
        pytest.param(b"POST /v1/dns HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", id="half-a-body"),
    ],
)
def test_k16_a_request_that_never_ends_does_not_keep_its_place(tmp_path, monkeypatch, beginning):
    monkeypatch.setattr(api, "REQUEST_S", 0.01)

    async def scenario():
        loop = asyncio.get_running_loop()
        server = api.ApiServer(listen(tmp_path / "api.sock", socket.SOCK_STREAM), Network())
        await server.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as slow:
            await loop.sock_connect(slow, str(tmp_path / "api.sock"))
            await loop.sock_sendall(slow, beginning)
            said = await asyncio.wait_for(loop.sock_recv(slow, 1), 20)
        await server.stop()
        return said

    assert asyncio.run(scenario()) == b""


def test_k16_connections_beyond_the_last_are_closed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "CONNECTIONS_OPEN_MAX", 2)

    async def scenario():
        loop = asyncio.get_running_loop()
        server = api.ApiServer(listen(tmp_path / "api.sock", socket.SOCK_STREAM), Network())
        await server.start()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(3):
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                clients.append(stack.enter_context(client))
                await loop.sock_connect(client, str(tmp_path / "api.sock"))
            refused = await asyncio.wait_for(loop.sock_recv(clients[2], 1), 20)
            await loop.sock_sendall(clients[0], b"GET /v1/ports HTTP/1.1\r\nHost: x\r\n\r\n")
            answered = await asyncio.wait_for(loop.sock_recv(clients[0], 12), 20)
        await server.stop()
        return refused, answered

    assert asyncio.run(scenario()) == (b"", b"HTTP/1.1 200")


# -- fd.sock


class Exhausted:
    """A listener whose accept finds no descriptor left for a while."""

    def __init__(self, listener, failures):
        self._listener = listener
        self.failures = failures
        self.calls = 0

    def __getattr__(self, name):
        return getattr(self._listener, name)

    def accept(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


async def answer_tap(_request):
    return TapReply(port=PORT, fds=0), []


async def fail(_request):
    raise RuntimeError("unforeseen")


async def ask(loop, path, message=b'{"op": "attach-tap"}'):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as client:
        await loop.sock_connect(client, str(path))
        await loop.sock_sendall(client, message)
        return json.loads(await asyncio.wait_for(loop.sock_recv(client, 65536), 20))


def test_k5_no_descriptor_left_makes_no_spin_and_the_client_is_served_later(tmp_path):
    async def scenario():
        listener = Exhausted(listen(tmp_path / "fd.sock", socket.SOCK_SEQPACKET), 3)
        server = FdServer(listener, answer_tap)
        server.start()
        reply = await ask(asyncio.get_running_loop(), tmp_path / "fd.sock")
        await server.stop()
        return listener.calls, reply

    calls, reply = asyncio.run(scenario())
    assert calls == 4
    assert reply["port"]["name"] == "vm1"


def test_clients_beyond_the_limit_wait_for_their_turn(tmp_path):
    async def scenario():
        loop = asyncio.get_running_loop()
        server = FdServer(listen(tmp_path / "fd.sock", socket.SOCK_SEQPACKET), answer_tap)
        server.start()
        idle = [
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            for _ in range(CLIENTS_MAX)
        ]
        for one in idle:
            await loop.sock_connect(one, str(tmp_path / "fd.sock"))
        waiting = asyncio.ensure_future(ask(loop, tmp_path / "fd.sock"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        idle.pop().close()
        reply = await waiting
        for one in idle:
            one.close()
        await server.stop()
        return done, reply

    done, reply = asyncio.run(scenario())
    assert not done
    assert reply["port"]["name"] == "vm1"


def test_k16_a_client_that_says_nothing_does_not_keep_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(fdpass, "IDLE_S", 0.01)

    async def scenario():
        loop = asyncio.get_running_loop()
        server = FdServer(listen(tmp_path / "fd.sock", socket.SOCK_SEQPACKET), answer_tap)
        server.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as silent:
            await loop.sock_connect(silent, str(tmp_path / "fd.sock"))
            said = await asyncio.wait_for(loop.sock_recv(silent, 1), 20)
        await server.stop()
        return said

    assert asyncio.run(scenario()) == b""


def test_an_attachment_under_way_when_the_server_stops_is_finished_and_its_descriptors_are_closed(tmp_path):
    async def scenario():
        loop = asyncio.get_running_loop()
        asked, made = asyncio.Event(), asyncio.Event()
        end, queue = os.pipe2(os.O_NONBLOCK)

        async def attach(_request):
            asked.set()
            await made.wait()
            return TapReply(port=PORT), [queue]

        server = FdServer(listen(tmp_path / "fd.sock", socket.SOCK_SEQPACKET), attach)
        server.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as client:
            await loop.sock_connect(client, str(tmp_path / "fd.sock"))
            await loop.sock_sendall(client, b'{"op": "attach-tap"}')
            await asked.wait()
            await loop.sock_sendall(client, b'{"op": "attach-tap"}')  # one that comes too late
            stopping = asyncio.ensure_future(server.stop())
            said = await loop.sock_recv(client, 1)
            is_waited_for = not stopping.done()
            made.set()
            await stopping
        with open(end, "rb", buffering=0) as pipe:
            return said, is_waited_for, pipe.read()  # None while the other end is open

    said, is_waited_for, rest = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert is_waited_for
    assert (said, rest) == (b"", b"")


@pytest.mark.parametrize(
    ("handler", "message", "said"),
    [
        (fail, b'{"op": "attach-tap"}', "internal error: RuntimeError"),
        (answer_tap, b"{", "fd.sock"),
        (answer_tap, b'{"op": "attach-tap", "quues": 2}', "quues"),
        (answer_tap, b'{"op": "open-tap", "name": 7}', "fd.sock"),
        (answer_tap, b"\xff" * 5000, "fd.sock"),
    ],
)
def test_every_request_on_fd_sock_gets_an_answer(tmp_path, handler, message, said):
    async def scenario():
        server = FdServer(listen(tmp_path / "fd.sock", socket.SOCK_SEQPACKET), handler)
        server.start()
        reply = await ask(asyncio.get_running_loop(), tmp_path / "fd.sock", message)
        await server.stop()
        return reply

    assert said in asyncio.run(scenario())["error"]["message"]


def test_a_path_that_no_socket_can_have_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / ("x" * (PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 1))
    listen(path, socket.SOCK_STREAM).close()
    with pytest.raises(StartFailed, match=f"at most {PATH_BYTES_MAX} bytes"):
        listen(path.with_name(path.name + "x"), socket.SOCK_STREAM)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_descriptors_of_a_client_are_refused_by_the_kernel(tmp_path, kind):
    if not can_refuse_descriptors():
        pytest.skip("needs SO_PASSRIGHTS, of Linux 6.16 on")
    with listen(tmp_path / "a.sock", kind), socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(tmp_path / "a.sock"))
        with pytest.raises(PermissionError):
            socket.send_fds(client, [b"GET"], [0])
