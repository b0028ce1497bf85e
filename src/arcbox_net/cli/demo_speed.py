"""TCP speed for `demo`: iperf3 where it is installed, else the built-in tool. Both sides."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

LOOPBACK = "127.0.0.1"
READY_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Where to measure. `tool`: the path of iperf3, None for the built-in one."""

    l4_port: int
    tool: str | None


@contextlib.contextmanager
def serving() -> Iterator[Speed]:
    """A measuring server on the host's loopback."""
    tool = shutil.which("iperf3")
    if tool is None:
        from arcbox_net.netspeed import SpeedServer

        with SpeedServer(LOOPBACK) as server:
            yield Speed(server.port, None)
        return
    l4_port = free_l4_port()
    words = [tool, "-s", "-B", LOOPBACK, "-p", str(l4_port)]
    server_process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for_listener(l4_port)
        yield Speed(l4_port, tool)
    finally:
        server_process.send_signal(signal.SIGTERM)
        server_process.wait()


def measure(host: str, speed: Speed, *, seconds: float, reverse: bool) -> dict[str, Any]:
    """Throughput of one connection to *host*, or from it when *reverse*."""
    if speed.tool is None:
        from arcbox_net.netspeed import measure_tcp

        result = measure_tcp(host, speed.l4_port, seconds=seconds, reverse=reverse)
        return {"gbit_s": result["gbit_s"], "tool": "built-in"}
    words = [speed.tool, "-c", host, "-p", str(speed.l4_port), "-t", f"{seconds:.0f}", "-J"]
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        done = subprocess.run([*words, "-R"] if reverse else words, capture_output=True, text=True)
        report = json.loads(done.stdout)
        if "error" not in report:
            break
        # The server takes one test at a time, and ends one a little later than its client does.
        if "busy" not in report["error"] or time.monotonic() > deadline:
            raise OSError(report["error"])
        time.sleep(0.05)
    return {"gbit_s": report["end"]["sum_received"]["bits_per_second"] / 1e9, "tool": "iperf3"}


def free_l4_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for_listener(l4_port: int) -> None:
    """Return when somebody listens; read from the kernel, for iperf3 takes a connection for a test."""
    wanted = f"0100007F:{l4_port:04X}"
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with open("/proc/net/tcp") as table:
            if any(line.split()[1] == wanted and line.split()[3] == "0A" for line in table):
                return
        time.sleep(0.02)
    raise TimeoutError(f"iperf3 does not listen on {LOOPBACK}:{l4_port}")
