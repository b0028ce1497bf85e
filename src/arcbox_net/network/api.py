"""api.sock: HTTP and JSON over a unix socket, versioned under /v1. Decodes, calls the network, encodes.

There is no TCP listener: a guest has no address at which to reach this API. The socket is 0600 in a 0700
directory, and every connection's peer credentials are checked before a byte of it is read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from arcbox_net.errors import ArcboxNetError, ConfigError
from arcbox_net.network import messages as m
from arcbox_net.network.core import Network
from arcbox_net.network.fdpass import LISTEN_BACKLOG
from arcbox_net.network.guest_port import PortRequest
from arcbox_net.network.openapi import document
from arcbox_net.network.peer import check_peer
from arcbox_net.rules import parse_forward

BODY_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 256  # beyond which requests are refused with 503,
CONNECTIONS_OPEN_MAX = 1024  # and beyond which nobody is heard
KEEP_ALIVE_S = 5
REQUEST_S = 10  # from a request's first byte to its last

log = logging.getLogger("arcbox_net.api")


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. `body` and `answer` are msgspec types, and become the OpenAPI schema."""

    method: str
    path: str
    summary: str
    call: Callable[[Network, Request, Any], Awaitable[Any]]
    answer: Any = None
    body: Any = None
    query: tuple[str, ...] = ()
    status: int = 200


async def _stop(network: Network, _request: Request, _body: None) -> None:
    network.request_stop()


async def _show(network: Network, _request: Request, _body: None) -> m.NetworkStatus:
    return await network.status()


async def _ports(network: Network, _request: Request, _body: None) -> list[m.PortInfo]:
    return await network.ports()


async def _attach(network: Network, _request: Request, body: m.AttachRequest) -> m.PortInfo:
    fields = msgspec.structs.asdict(body)
    port, fds = await network.attach(PortRequest(**fields, persist=body.kind == "tap"))
    network.close_fds(fds)
    return port


async def _detach(network: Network, request: Request, _body: None) -> None:
    await network.detach(request.path_params["name"])


async def _leases(network: Network, _request: Request, _body: None) -> list[m.LeaseInfo]:
    return network.leases()


async def _release_lease(network: Network, request: Request, _body: None) -> None:
    await network.release_ip(request.path_params["ip"])


async def _allocate(network: Network, _request: Request, body: m.AllocateRequest) -> m.LeaseInfo:
    return await network.allocate_ip(ip=body.ip, mac=body.mac, hostname=body.hostname)


async def _reserve(network: Network, _request: Request, body: m.ReserveRequest) -> m.LeaseInfo:
    return await network.reserve(body.mac, body.ip, body.hostname)


async def _forwards(network: Network, _request: Request, _body: None) -> list[m.ForwardInfo]:
    return network.forwards()


async def _expose(network: Network, _request: Request, body: m.ForwardRequest) -> m.ForwardInfo:
    return await network.expose(parse_forward(body.rule))


async def _unexpose(network: Network, request: Request, _body: None) -> None:
    await network.unexpose(parse_forward(request.query_params.get("rule", "")))


async def _records(network: Network, _request: Request, _body: None) -> list[m.DnsRecordInfo]:
    return network.dns_records()


async def _register(network: Network, _request: Request, body: m.DnsRecordRequest) -> m.DnsRecordInfo:
    return await network.register_dns(body.name, body.addresses)


async def _deregister(network: Network, request: Request, _body: None) -> None:
    await network.deregister_dns(request.path_params["name"])


async def _stats(network: Network, _request: Request, _body: None) -> dict[str, Any]:
    return await network.stats()


async def _flows(network: Network, _request: Request, _body: None) -> list[m.FlowInfo]:
    return await network.flows()


ENDPOINTS = (
    Endpoint("GET", "/network", "The network, its ports, forwards and warnings", _show, m.NetworkStatus),
    Endpoint("DELETE", "/network", "Stop the network and remove all that is its", _stop, status=202),
    Endpoint("GET", "/ports", "Guest ports", _ports, list[m.PortInfo]),
    Endpoint("POST", "/ports", "Attach a guest port", _attach, m.PortInfo, m.AttachRequest, status=201),
    Endpoint("DELETE", "/ports/{name}", "Detach a guest port", _detach, status=204),
    Endpoint("GET", "/leases", "Leases, reservations and allocations", _leases, list[m.LeaseInfo]),
    Endpoint("DELETE", "/leases/{ip}", "Release a lease", _release_lease, status=204),
    Endpoint(
        "POST", "/addresses", "Allocate an address", _allocate, m.LeaseInfo, m.AllocateRequest, status=201
    ),
    Endpoint("DELETE", "/addresses/{ip}", "Release an allocated address", _release_lease, status=204),
    Endpoint(
        "POST",
        "/reservations",
        "Reserve an address for a MAC",
        _reserve,
        m.LeaseInfo,
        m.ReserveRequest,
        status=201,
    ),
    Endpoint("GET", "/forwards", "Port forwards", _forwards, list[m.ForwardInfo]),
    Endpoint("POST", "/forwards", "Add a port forward", _expose, m.ForwardInfo, m.ForwardRequest, status=201),
    Endpoint("DELETE", "/forwards", "Remove a port forward", _unexpose, query=("rule",), status=204),
    Endpoint("GET", "/dns", "Names answered by the network itself", _records, list[m.DnsRecordInfo]),
    Endpoint("POST", "/dns", "Register a name", _register, m.DnsRecordInfo, m.DnsRecordRequest, status=201),
    Endpoint("DELETE", "/dns/{name}", "Deregister a name", _deregister, status=204),
    Endpoint(
        "GET",
        "/flows",
        "Guests' connections to the outside, and the last that ended",
        _flows,
        list[m.FlowInfo],
    ),
    Endpoint("GET", "/stats", "Counters", _stats, dict[str, Any]),
)


def application(network: Network) -> Starlette:
    """The API over *network* as an ASGI application."""

    def route(path: str) -> Route:
        by_method = {endpoint.method: endpoint for endpoint in ENDPOINTS if endpoint.path == path}

        async def serve(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await _answer(network, by_method[method], request)

        return Route(f"/{m.API_VERSION}{path}", serve, methods=list(by_method))

    async def openapi(_request: Request) -> Response:
        return Response(msgspec.json.encode(document(ENDPOINTS)), media_type="application/json")

    routes = [route(path) for path in dict.fromkeys(endpoint.path for endpoint in ENDPOINTS)]
    routes.append(Route(f"/{m.API_VERSION}/openapi.json", openapi))
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _unexpected})


async def _answer(network: Network, endpoint: Endpoint, request: Request) -> Response:
    try:
        body = None
        if endpoint.body is not None:
            body = _decode(await _read(request), endpoint.body)
        answer = await endpoint.call(network, request, body)
    except ArcboxNetError as error:
        return _error(error)
    if endpoint.answer is None:
        return Response(status_code=endpoint.status)
    return Response(msgspec.json.encode(answer), endpoint.status, media_type="application/json")


async def _read(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > BODY_BYTES_MAX:
            raise ConfigError(f"the body is over {BODY_BYTES_MAX} bytes", field="body", value=len(received))
    return bytes(received)


def _decode(raw: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"body: {error}", field="body", value=raw[:80].decode(errors="replace")) from None


def _error(error: ArcboxNetError) -> Response:
    body = msgspec.json.encode({"error": error.to_json()}, enc_hook=str)
    return Response(body, error.status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body: dict[str, Any] = {
        "error": {
            "code": "http",
            "message": f"{request.method} {request.url.path}: {error.detail}",
            "fix": f"see /{m.API_VERSION}/openapi.json",
            "facts": {},
        }
    }
    return Response(
        msgspec.json.encode(body), error.status_code, headers=error.headers, media_type="application/json"
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(
        ArcboxNetError(f"internal error: {type(error).__name__}: {error}", fix="see the network's log")
    )


class _Guarded(H11Protocol):
    """uvicorn's HTTP protocol behind a look at who connects, and with an end to everything that takes a place."""

    _too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer: socket.socket = transport.get_extra_info("socket")
        try:
            check_peer(peer)
        except ArcboxNetError as error:
            log.warning("api: %s", error)
            transport.abort()
            return
        if len(self.connections) >= CONNECTIONS_OPEN_MAX:
            transport.abort()
            return
        super().connection_made(transport)
        # uvicorn begins this clock with its first answer; one that never asks must not take a place for ever.
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_partial():
            self._cancel_too_slow()
        elif self._too_slow is None:
            self._too_slow = self.loop.call_later(REQUEST_S, self.transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_too_slow()
        super().connection_lost(error)

    def _is_partial(self) -> bool:
        """Whether a request has begun and its end has not come."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _cancel_too_slow(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None


class ApiServer:
    """Serves the application on a listening unix socket. uvicorn's protocol, without its signal handlers and tick."""

    def __init__(self, listener: socket.socket, network: Network) -> None:
        self._listener = listener
        self._config = Config(
            application(network),
            http=_Guarded,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
            date_header=False,
        )
        self._state = ServerState()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        self._config.load()
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return _Guarded(config=self._config, server_state=self._state, app_state={}, _loop=loop)

        self._server = await loop.create_unix_server(protocol, sock=self._listener, backlog=LISTEN_BACKLOG)

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1)
