"""The side that asks for a test and knows its result."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import Any

from arcbox_net.netspeed.bulk import drain, fill
from arcbox_net.netspeed.control import TIMEOUT_S, ask, connect, enlarge, read_line, send_line
from arcbox_net.relay import probe


def measure_tcp(
    host: str, port: int, *, seconds: float, streams: int = 1, reverse: bool = False
) -> dict[str, Any]:
    """Throughput of *streams* connections together: towards the server, or from it when *reverse*."""
    results: list[dict[str, Any]] = []
    failures: list[Exception] = []
    together = threading.Barrier(streams)

    def one() -> None:
        try:
            with connect(host, port) as connection:
                together.wait(TIMEOUT_S)
                run = _download if reverse else _upload
                results.append(run(connection, seconds))
        except (OSError, ValueError, threading.BrokenBarrierError) as exc:
            failures.append(exc)
            together.abort()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((exc for exc in failures if isinstance(exc, OSError)), failures[0])
    total = sum(result["bytes"] for result in results)
    elapsed = max(result["seconds"] for result in results)
    return {
        "gbit_s": total * 8 / elapsed / 1e9,
        "bytes": total,
        "seconds": elapsed,
        "streams": streams,
        "reverse": reverse,
    }


def measure_rr(host: str, port: int, *, size: int, count: int) -> dict[str, Any]:
    """Latency of *count* exchanges of *size* bytes each way on one connection, after a short warm-up."""
    with connect(host, port) as connection:
        ask(connection, test="rr", size=size)
        probe.rr_client(connection.fileno(), size, max(count // 20, 1))
        times = probe.rr_client(connection.fileno(), size, count)
    ordered = sorted(times)
    return {
        "p50_us": ordered[len(ordered) // 2] / 1000,
        "p99_us": ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] / 1000,
        "min_us": ordered[0] / 1000,
        "size": size,
        "count": count,
    }


def measure_udp(
    host: str,
    port: int,
    *,
    seconds: float,
    size: int = 64,
    rate_pps: float = 0.0,
    udp_port: int | None = None,
) -> dict[str, Any]:
    """Datagrams sent for *seconds* (as fast as possible, or *rate_pps*) and how many of them arrived."""
    token = secrets.token_bytes(8)
    with connect(host, port) as control:
        ask(control, test="udp", token=token.hex())
        family = control.family
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((host, udp_port if udp_port is not None else port))
            begin = time.monotonic()
            sent = probe.udp_send(sender.fileno(), token, size, seconds, rate_pps)
            elapsed = time.monotonic() - begin
        control.sendall(b"end\n")
        answer = read_line(control)
    return _udp_result(sent, answer["packets"], elapsed, size)


def measure_udp_reverse(
    host: str, port: int, *, seconds: float, size: int = 64, rate_pps: float = 0.0
) -> dict[str, Any]:
    """`measure_udp` with the server as the sender."""
    token = secrets.token_bytes(8)
    with connect(host, port) as control, socket.socket(control.family, socket.SOCK_DGRAM) as receiver:
        enlarge(receiver)
        receiver.connect((host, port))
        ask(control, test="udp-down", token=token.hex(), seconds=seconds, size=size, rate_pps=rate_pps)
        receiver.send(token)
        delivered, _ = probe.udp_count(receiver.fileno(), control.fileno(), token)
        answer = read_line(control)
    return _udp_result(answer["sent"], delivered, answer["seconds"], size)


def measure_connections(host: str, port: int, *, parallel: int, count: int) -> dict[str, Any]:
    """Connections a second of *parallel* clients that open *count* together, one after the other each."""
    address = socket.inet_aton(socket.gethostbyname(host))
    each = max(1, count // parallel)
    failures: list[OSError] = []

    def one() -> None:
        try:
            probe.connect_many(address, port, each)
        except OSError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(parallel)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    if failures:
        raise failures[0]
    return {"per_s": each * parallel / elapsed, "parallel": parallel, "count": each * parallel}


def _udp_result(sent: int, delivered: int, seconds: float, size: int) -> dict[str, Any]:
    return {
        "sent_pps": sent / seconds,
        "delivered_pps": delivered / seconds,
        "loss": 1 - delivered / sent if sent else 0.0,
        "sent": sent,
        "delivered": delivered,
        "size": size,
        "seconds": seconds,
    }


def _upload(connection: socket.socket, seconds: float) -> dict[str, Any]:
    ask(connection, test="up")
    fill(connection, seconds)
    return read_line(connection)


def _download(connection: socket.socket, seconds: float) -> dict[str, Any]:
    send_line(connection, {"test": "down", "seconds": seconds})
    return drain(connection)
