"""The tool's command line: `python -m arcbox_net.netspeed`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from arcbox_net.netspeed.client import (
    measure_connections,
    measure_rr,
    measure_tcp,
    measure_udp,
    measure_udp_reverse,
)
from arcbox_net.netspeed.server import run_server, serve_connections

DEFAULT_PORT = 5301
TESTS = ("tcp", "reverse", "rr", "udp")  # without an argument
MORE_TESTS = ("udp-reverse", "connections")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcbox_net.netspeed", description="Measure a network.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="serve tests until interrupted")
    server.add_argument("--host", default="0.0.0.0")
    server.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free port")
    server.add_argument("--connections-port", type=int, help="serve the connections test there, too")
    client = roles.add_parser("client", help="run tests and print JSON")
    client.add_argument("host")
    client.add_argument("port", type=int)
    client.add_argument(
        "tests", nargs="*", metavar="|".join([*TESTS, *MORE_TESTS]), help="default: the first four"
    )
    client.add_argument("--seconds", type=float, default=2.0)
    client.add_argument("--streams", type=int, default=1)
    client.add_argument("--size", type=int, default=1, help="bytes of a request and response")
    client.add_argument("--count", type=int, default=5000, help="exchanges of the rr test, or connections")
    client.add_argument("--datagram", type=int, default=64, help="bytes of a datagram")
    client.add_argument("--rate", type=float, default=0.0, help="datagrams per second; 0: no limit")
    arguments = parser.parse_args(argv)
    if arguments.role == "server":
        if arguments.connections_port is not None:
            where = (arguments.host, arguments.connections_port)
            threading.Thread(target=serve_connections, args=where, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            run_server(
                arguments.host, arguments.port, lambda port: print(json.dumps({"port": port}), flush=True)
            )
        return 0
    known = (*TESTS, *MORE_TESTS)
    if unknown := [test for test in arguments.tests if test not in known]:
        parser.error(f"unknown test {unknown[0]!r}: expected one of {', '.join(known)}")
    return _run_client(arguments, arguments.tests or list(TESTS))


def _run_client(arguments: argparse.Namespace, tests: list[str]) -> int:
    where = (arguments.host, arguments.port)
    tcp = {"seconds": arguments.seconds, "streams": arguments.streams}
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "tcp": lambda: measure_tcp(*where, **tcp),
        "reverse": lambda: measure_tcp(*where, **tcp, reverse=True),
        "rr": lambda: measure_rr(*where, size=arguments.size, count=arguments.count),
        "udp": lambda: measure_udp(
            *where, seconds=arguments.seconds, size=arguments.datagram, rate_pps=arguments.rate
        ),
        "udp-reverse": lambda: measure_udp_reverse(
            *where, seconds=arguments.seconds, size=arguments.datagram, rate_pps=arguments.rate
        ),
        "connections": lambda: measure_connections(*where, parallel=arguments.streams, count=arguments.count),
    }
    try:
        print(json.dumps({test: runs[test]() for test in tests}, indent=2))
    except OSError as exc:
        print(f"netspeed: {arguments.host} port {arguments.port}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
