"""A small speed measuring tool: TCP throughput and latency, UDP packets per second, connections per second.

    python -m arcbox_net.netspeed server [--host H] [--port N] [--connections-port N]
    python -m arcbox_net.netspeed client HOST PORT [--seconds S] [--streams N] [tcp|reverse|rr|udp|udp-reverse]…
    python -m arcbox_net.netspeed client HOST CONNECTIONS_PORT connections [--streams N] [--count N]

Every test is one TCP connection to the server's port that begins with one JSON line; UDP datagrams go to the
same port number. On the connections port every connection is a byte each way, and the server closes first. Bytes
are counted where they arrive. Payload is never looked at: senders use `sendfile` and receivers discard in the
kernel (`MSG_TRUNC`), so that the network between them is measured, not Python.
"""

from __future__ import annotations

from arcbox_net.netspeed.client import (
    measure_connections,
    measure_rr,
    measure_tcp,
    measure_udp,
    measure_udp_reverse,
)
from arcbox_net.netspeed.server import SpeedServer, run_server, serve_connections

__all__ = [
    "SpeedServer",
    "measure_connections",
    "measure_rr",
    "measure_tcp",
    "measure_udp",
    "measure_udp_reverse",
    "run_server",
    "serve_connections",
]
