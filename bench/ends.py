"""Both ends of a path under test: iperf3 and netspeed's datagrams, from one namespace to another."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.common import Round
from tests.support.netns import Namespace, wait_until

IPERF_PORT = 5201
SPEED_PORT = 5301


@contextlib.contextmanager
def servers(namespace: Namespace) -> Iterator[None]:
    """iperf3 and the datagram counter."""
    started = [
        namespace.popen(["iperf3", "-s", "-p", str(IPERF_PORT)], stdout=subprocess.DEVNULL),
        namespace.popen(
            [sys.executable, "-m", "arcbox_net.netspeed", "server", "--port", str(SPEED_PORT)],
            stdout=subprocess.DEVNULL,
        ),
    ]
    try:
        wait_until(lambda: all(f":{n}" in namespace.run("ss -Hltn").stdout for n in (IPERF_PORT, SPEED_PORT)))
        yield
    finally:
        for server in started:
            server.kill()
            server.wait()


def tcp(client: Namespace, address: str, options: list[str], seconds: int) -> float:
    """Received Gbit/s."""
    done = client.run(
        [
            "iperf3",
            "-J",
            "-C",
            "cubic",
            "-c",
            address,
            "-p",
            str(IPERF_PORT),
            "-t",
            str(seconds),
            *options,
        ],
        timeout=seconds + 30,
    )
    received = json.loads(done.stdout)["end"]["sum_received"]
    return float(received["bits_per_second"]) / 1e9


def udp(client: Namespace, address: str, seconds: int) -> float:
    """Delivered datagrams per second at full speed."""
    done = client.run(
        [
            *[sys.executable, "-m", "arcbox_net.netspeed", "client", address, str(SPEED_PORT), "udp"],
            *["--seconds", str(seconds), "--datagram", "64"],
        ],
        timeout=seconds + 60,
    )
    result = json.loads(done.stdout)
    result = result.get("udp", result)
    return float(result["delivered_pps"])


def share(ours: list[Round], theirs: list[Round], key: str) -> float:
    """The median of the rounds' ratios."""
    ratios = [float(mine[key]) / float(other[key]) for mine, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios)
