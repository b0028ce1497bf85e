"""The v1 API over its socket: what it answers, and that wrong bodies get a clear error and change nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.errors import LimitReached
from tests.support.machine import Machine, wait_for_rest
from tests.support.netns import PATIENCE_S, wait_until


class Api:
    """Requests to one network's api.sock, without the package's own client."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = self.connect()
        headers = {"Content-Type": "application/json", **headers}
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.path))  # blocking: a full backlog is waited for
        made.settimeout(PATIENCE_S)
        return made


@pytest.fixture
def network(machine: Machine) -> Iterator[NetworkManager]:
    with machine.network(NetConfig(), name="dev") as started:
        yield started


@pytest.fixture
def api(machine: Machine, network: NetworkManager) -> Api:
    return Api(machine.runtime / "dev" / "api.sock")


@pytest.mark.parametrize(
    "target", ["/network", "/ports", "/leases", "/forwards", "/dns", "/stats", "/openapi.json"]
)
def test_listing_is_json(api: Api, target: str) -> None:
    status, body = api.ask("GET", f"/v1{target}")
    assert status == 200
    assert isinstance(body, dict | list)


def test_openapi_describes_what_is_served(api: Api) -> None:
    _, document = api.ask("GET", "/v1/openapi.json")
    assert document["openapi"].startswith("3.")
    for target in (
        "/network",
        "/ports",
        "/leases",
        "/addresses",
        "/reservations",
        "/forwards",
        "/dns",
        "/stats",
    ):
        assert any(path.removeprefix("/v1") == target for path in document["paths"]), target


BAD_REQUESTS = [
    pytest.param("POST", "/ports", b"", 400, id="ports-empty"),
    pytest.param("POST", "/ports", b"{", 400, id="ports-cut"),
    pytest.param("POST", "/ports", b"\xff\xfe{}", 400, id="ports-not-utf8"),
    pytest.param("POST", "/ports", b"[]", 400, id="ports-list"),
    pytest.param("POST", "/ports", b'{"kind": "socket"}', 400, id="ports-kind"),
    pytest.param("POST", "/ports", b'{"kind": "netns"}', 400, id="ports-netns-without-target"),
    pytest.param("POST", "/ports", b'{"kind": "netns", "netns": "/nowhere"}', 404, id="ports-netns-missing"),
    pytest.param("POST", "/ports", b'{"kind": "netns", "pid": 999999999}', 404, id="ports-pid-missing"),
    pytest.param("POST", "/ports", b'{"kind": "netns", "pid": -1}', 400, id="ports-pid-negative"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "name": "-x"}', 400, id="ports-name"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "mac": "01:00:00:00:00:00"}', 400, id="ports-multicast"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "ip": "10.1.2.3"}', 400, id="ports-ip-outside"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "ip": "192.168.64.1"}', 409, id="ports-ip-of-gateway"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "queues": 1000}', 400, id="ports-queues"),
    pytest.param("POST", "/ports", b'{"kind": "tap", "colour": 1}', 400, id="ports-unknown-field"),
    pytest.param("DELETE", "/ports/none", None, 404, id="ports-delete-unknown"),
    pytest.param("POST", "/addresses", b'{"ip": "10.1.2.3"}', 400, id="addresses-outside"),
    pytest.param("POST", "/addresses", b'{"ip": "x"}', 400, id="addresses-text"),
    pytest.param("POST", "/addresses", b'{"ip": 5}', 400, id="addresses-number"),
    pytest.param("DELETE", "/addresses/192.168.64.77", None, 404, id="addresses-not-taken"),
    pytest.param("POST", "/reservations", b'{"mac": "x", "ip": "192.168.64.9"}', 400, id="reservation-mac"),
    pytest.param("POST", "/reservations", b'{"mac": "02:00:00:00:00:01"}', 400, id="reservation-without-ip"),
    pytest.param("POST", "/forwards", b'{"rule": "x"}', 400, id="forward-text"),
    pytest.param("POST", "/forwards", b'{"rule": 80}', 400, id="forward-number"),
    pytest.param("POST", "/forwards", b'{"rule": "80:80", "x": 1}', 400, id="forward-unknown-field"),
    pytest.param("DELETE", "/forwards", None, 400, id="forward-delete-without-rule"),
    pytest.param("DELETE", "/forwards?rule=8080:80", None, 404, id="forward-delete-unknown"),
    pytest.param("POST", "/dns", b'{"name": "a b", "addresses": ["192.168.64.5"]}', 400, id="dns-name"),
    pytest.param("POST", "/dns", b'{"name": "a", "addresses": ["x"]}', 400, id="dns-address"),
    pytest.param(
        "POST", "/dns", b'{"name": "localhost", "addresses": ["192.168.64.5"]}', 409, id="dns-localhost"
    ),
    pytest.param("POST", "/dns", b'{"name": "wpad", "addresses": ["192.168.64.5"]}', 409, id="dns-wpad"),
    pytest.param("DELETE", "/dns/none", None, 404, id="dns-delete-unknown"),
    pytest.param("GET", "/nothing", None, 404, id="unknown-path"),
    pytest.param("PUT", "/network", b"{}", 405, id="wrong-method"),
    pytest.param("POST", "/forwards", b"[" * 100_000, 400, id="deep"),
]


@pytest.mark.parametrize(("method", "target", "body", "expected"), BAD_REQUESTS)
def test_bad_request_is_a_clear_error_and_changes_nothing(
    machine: Machine,
    api: Api,
    network: NetworkManager,
    method: str,
    target: str,
    body: bytes | None,
    expected: int,
) -> None:
    before, records = machine.snapshot(), network.dns_records()
    status, answer = api.ask(method, f"/v1{target}", body)
    assert status == expected, answer
    assert answer["error"]["message"]
    assert answer["error"]["code"] != "error"
    assert (network.ports(), network.forwards(), network.dns_records()) == ([], [], records)
    assert machine.snapshot() == before


def test_request_too_large_is_refused(api: Api, network: NetworkManager) -> None:
    with api.connect() as connection:
        connection.sendall(b"POST /v1/dns HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b" " * (1 << 20))
        except OSError:
            pass  # cut off before all of it was taken
    assert network.status().state == "running"


def test_k16_connection_that_never_asks_is_closed(api: Api) -> None:
    with api.connect() as silent:
        assert silent.recv(1) == b""


def test_k16_many_idle_connections_cost_nothing(api: Api, network: NetworkManager) -> None:
    idle = [api.connect() for _ in range(300)]
    try:
        wait_for_rest(network.pid, 0.25)
        with contextlib.suppress(LimitReached):
            assert network.status().state == "running"
    finally:
        for connection in idle:
            connection.close()
    wait_until(lambda: network.stats())


def test_k16_ports_come_and_go_without_residue(machine: Machine, network: NetworkManager) -> None:
    machine.guest(network, "stays")  # a bridge that has lost its last port has no carrier
    before = machine.snapshot()
    folder = Path(f"/proc/{network.pid}/fd")
    fds = len(list(folder.iterdir()))
    for _ in range(20):
        with network.attach_tap("vm1"):
            pass
    wait_until(lambda: len(network.ports()) == 1)
    assert machine.snapshot() == before
    wait_until(lambda: len(list(folder.iterdir())) <= fds + 1, message="descriptors are given back")


def test_delete_network_ends_it(machine: Machine, api: Api) -> None:
    from tests.support.machine import wait_gone

    pid = machine.network_pids()[0]
    status, _ = api.ask("DELETE", "/v1/network")
    assert status in (200, 202, 204)
    wait_gone(pid)
    assert machine.ours() == {"links": [], "tables": []}
