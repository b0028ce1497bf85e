"""The caller's side of api.sock and fd.sock: requests out, typed errors back. Stays cheap to import."""

from __future__ import annotations

import array
import http.client
import os
import resource
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from arcbox_net import paths
from arcbox_net.errors import ArcboxNetError, LimitReached, NotRunning, Unsupported, from_json
from arcbox_net.network.messages import API_VERSION, AttachTap, OpenTap, TapReply
from arcbox_net.network.peer import check_server

TIMEOUT_S = 30.0
FDS_MAX = 64
REPLY_BYTES_MAX = 65536


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket with a Python timeout does not wait for room in the listener's backlog, a blocking one does.
        limit = struct.pack("ll", int(self.timeout or 0), 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock.connect(str(self._path))
        check_server(self.sock, self._path)
        self.sock.settimeout(self.timeout)


class Client:
    """Talks to the network process of *network*. Raises what that process raised, or NotRunning."""

    def __init__(self, network: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.network = network
        self._timeout_s = timeout_s

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The decoded JSON answer to `METHOD /v1/path`."""
        target = f"/{API_VERSION}{path}"
        if query:
            target += "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        payload = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if payload is not None else {}
        connection = _UnixConnection(paths.api_socket(self.network), self._timeout_s)
        try:
            connection.request(method, target, payload, headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            raise self._silent(f"{method} {path}") from None
        except (OSError, http.client.HTTPException):
            raise not_running(self.network) from None
        finally:
            connection.close()
        if response.status == http.client.SERVICE_UNAVAILABLE and not answer.startswith(b"{"):
            raise LimitReached(  # the server's own answer, before a request is looked at
                f"network {self.network} has as many API connections as it takes",
                fix="close idle ones",
                limit="api-connections",
                value=None,
            )
        decoded = msgspec.json.decode(answer) if answer else None
        if response.status >= 400:
            raise from_json(decoded["error"] if isinstance(decoded, dict) and "error" in decoded else {})
        return decoded

    def request_fds(self, request: AttachTap | OpenTap) -> tuple[TapReply, list[int]]:
        """Send *request* to fd.sock; its reply and the fds (close-on-exec) that the caller now owns."""
        fds = array.array("i")
        self._check_taps()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(str(paths.fd_socket(self.network)))
                check_server(connection, paths.fd_socket(self.network))
                connection.send(msgspec.json.encode(request))
                room = socket.CMSG_LEN(FDS_MAX * fds.itemsize)
                body, ancillary, _, _ = connection.recvmsg(REPLY_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                raise self._silent("fd.sock") from None
            except OSError:
                raise not_running(self.network) from None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not body:
            raise not_running(self.network)
        reply = msgspec.json.decode(body, type=TapReply)
        if reply.error is not None:
            raise from_json(reply.error)
        if len(fds) != reply.fds:
            for fd in fds:
                os.close(fd)
            raise LimitReached(
                f"{len(fds)} of {reply.fds} file descriptors arrived: this program may open no more",
                fix="raise its limit (ulimit -n), or close some",
                limit="nofile",
                value=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
        return reply, list(fds)

    def _check_taps(self) -> None:
        """Raises Unsupported, or NotRunning, before there is a socket of a kind that macOS does not have."""
        if os.path.exists(paths.fd_socket(self.network)):
            return
        if not os.path.exists(paths.api_socket(self.network)):
            raise not_running(self.network)
        raise Unsupported(
            f"network {self.network} is of a system without TAPs",
            fix="attach the guest at a socket: --dgram or --stream",
            feature="tap",
        )

    def _silent(self, asked: str) -> ArcboxNetError:
        return ArcboxNetError(
            f"network {self.network} did not answer {asked} within {self._timeout_s:.0f} s",
            fix=f"look at {paths.log_file(self.network)}",
            network=self.network,
        )


def not_running(network: str) -> NotRunning:
    return NotRunning(
        f"network {network} is not running", fix=f"start it: arcbox-net up {network}", network=network
    )
