"""The measuring tool measures: every test runs over loopback and its numbers are consistent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from arcbox_net import netspeed
from arcbox_net.netspeed.__main__ import main
from arcbox_net.relay import probe
from tests.support.relay import wait_until


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    try:
        running = netspeed.SpeedServer(request.param)
    except OSError:
        pytest.skip(f"{request.param} is not available here")
    with running:
        yield request.param, running.port


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("streams", [1, 3])
def test_throughput_counts_the_bytes_that_arrived(
    server: tuple[str, int], streams: int, reverse: bool
) -> None:
    result = netspeed.measure_tcp(*server, seconds=0.1, streams=streams, reverse=reverse)
    assert result["bytes"] > 0
    assert result["gbit_s"] == pytest.approx(result["bytes"] * 8 / result["seconds"] / 1e9)


@pytest.mark.parametrize("size", [1, 16384, 300_000])
def test_request_response_reports_ordered_percentiles(server: tuple[str, int], size: int) -> None:
    result = netspeed.measure_rr(*server, size=size, count=50)
    assert 0 < result["min_us"] <= result["p50_us"] <= result["p99_us"]


def sent_by(measure: Callable[..., dict[str, Any]], server: tuple[str, int]) -> dict[str, Any]:
    """What was measured once something was sent: who is kept from its core for the whole time sends nothing."""
    found: list[dict[str, Any]] = []

    def has_sent() -> bool:
        found.append(measure(*server, seconds=0.1, size=1200, rate_pps=2000))
        return found[-1]["sent"] > 0

    wait_until(has_sent, "datagrams")
    return found[-1]


def test_udp_at_a_low_rate_arrives_completely(server: tuple[str, int]) -> None:
    result = sent_by(netspeed.measure_udp, server)
    assert 0 < result["delivered"] == result["sent"] <= 200
    assert result["loss"] == 0


def test_udp_from_the_server_arrives_completely_at_a_low_rate(server: tuple[str, int]) -> None:
    for _ in range(2):
        result = sent_by(netspeed.measure_udp_reverse, server)
        assert 0 < result["delivered"] == result["sent"] <= 200


def test_connections_are_all_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probed:
        port = probed.getsockname()[1]
    threading.Thread(target=netspeed.serve_connections, args=("127.0.0.1", port), daemon=True).start()
    wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the server listens")
    result = netspeed.measure_connections("127.0.0.1", port, parallel=4, count=100)
    assert result["count"] == 100
    assert result["per_s"] > 0


def test_udp_without_a_rate_never_counts_more_than_was_sent(server: tuple[str, int]) -> None:
    result = netspeed.measure_udp(*server, seconds=0.05)
    assert 0 < result["delivered"] <= result["sent"]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"test": "rr", "size": 0}\n',
        b"{" * 5000,
        b'{"test": "udp", "token": "x"}\n',
    ],
)
def test_a_broken_request_closes_that_connection_and_the_server_goes_on(
    server: tuple[str, int], line: bytes
) -> None:
    with socket.create_connection(server, timeout=30) as connection:
        connection.sendall(line)
        try:
            while connection.recv(100):
                pass
        except ConnectionResetError:
            pass
    assert netspeed.measure_rr(*server, size=1, count=1)["count"] == 1


def test_run_server_tells_the_port_it_took() -> None:
    ports: list[int] = []
    ready = threading.Event()

    def told(port: int) -> None:
        ports.append(port)
        ready.set()

    threading.Thread(target=netspeed.run_server, args=("127.0.0.1", 0, told), daemon=True).start()
    assert ready.wait(30)
    assert netspeed.measure_rr("127.0.0.1", ports[0], size=1, count=1)["count"] == 1


def test_the_client_prints_json(server: tuple[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", server[0], str(server[1]), "rr", "udp", "--seconds", "0.05"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"rr", "udp"}


def test_an_unreachable_server_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert main(["client", "127.0.0.1", str(port), "rr"]) == 1
    assert f"127.0.0.1 port {port}" in capsys.readouterr().err


def test_an_unknown_test_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as raised:
        main(["client", "127.0.0.1", "1", "smtp"])
    assert raised.value.code == 2


@pytest.mark.parametrize("size", [0, 7, 65508])
def test_udp_send_refuses_sizes_that_no_datagram_has(size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(ValueError):
        probe.udp_send(sender.fileno(), b"12345678", size, 0.1)


def test_connect_many_and_accept_many_meet() -> None:
    counts: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=lambda: counts.append(probe.accept_many(listener.fileno())))
        server.start()
        assert probe.connect_many(socket.inet_aton("127.0.0.1"), listener.getsockname()[1], 20) > 0
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
    assert counts == [20]


def test_connect_many_says_which_connection_was_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionRefusedError, match="connection 0"):
        probe.connect_many(socket.inet_aton("127.0.0.1"), port, 1)
