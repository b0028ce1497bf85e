"""How long a network takes to be there, how long `ls` takes, and what an idle network process holds.

python -m bench.start          as root; in a network namespace of its own
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from arcbox_net import NetConfig, NetworkManager
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    quiet_check,
    show,
    table,
    write_result,
)
from tests.support.netns import Host

RUNS = 15
TARGETS = {"start_ms": 300.0, "ls_ms": 100.0, "rss_mb": 50.0}
CLI = Path(sys.executable).with_name("arcbox-net")


def start_and_stop(host: Host, number: int) -> Round:
    """`start()` until it returns and until the gateway answers a guest's first echo, and `stop()`."""
    manager = NetworkManager(NetConfig(subnet="192.168.64.0/24"), name=f"b{number}")
    began = time.perf_counter()
    host.call(manager.start)
    returned = time.perf_counter()
    try:
        host.run("ping -c 1 -W 5 192.168.64.1")
        answered = time.perf_counter()
        rss = resident_mb(manager.pid or 0)
    finally:
        stopping = time.perf_counter()
        manager.stop()
    return {
        "start_ms": (returned - began) * 1000,
        "gateway_answers_ms": (answered - began) * 1000,
        "stop_ms": (time.perf_counter() - stopping) * 1000,
        "rss_mb": rss,
    }


def list_networks() -> Round:
    """`arcbox-net ls` of one running network. Its sockets are files, so it works from any namespace."""
    began = time.perf_counter()
    subprocess.run([str(CLI), "ls"], check=True, capture_output=True)
    return {"ls_ms": (time.perf_counter() - began) * 1000}


def python_alone() -> Round:
    """The floor under every Python command line here."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return {"ls_ms": (time.perf_counter() - began) * 1000}


def resident_mb(pid: int) -> float:
    """Resident memory of *pid* in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["ARCBOX_NET_RUNTIME_DIR"] = f"{directory}/run"
        os.environ["ARCBOX_NET_STATE_DIR"] = f"{directory}/state"
        host = stack.enter_context(Host())
        quiet = quiet_check()
        start_and_stop(host, 0)  # files into the page cache
        starts = [start_and_stop(host, number + 1) for number in range(options.runs)]
        idle = NetworkManager(NetConfig(), name="idle")
        host.call(idle.start)
        try:
            commands = interleave({"ls": list_networks, "python -c pass": python_alone}, options.runs)
            time.sleep(2)
            idle_mb = resident_mb(idle.pid or 0)
        finally:
            idle.stop()
    payload: dict[str, Any] = {
        "environment": environment("ip", "nft"),
        "quiet": quiet,
        "targets": TARGETS,
        "median": {
            "start_ms": median_of(starts, "start_ms"),
            "gateway_answers_ms": median_of(starts, "gateway_answers_ms"),
            "stop_ms": median_of(starts, "stop_ms"),
            "ls_ms": median_of(commands["ls"], "ls_ms"),
            "python_ms": median_of(commands["python -c pass"], "ls_ms"),
            "idle_rss_mb": idle_mb,
        },
        "rounds": {"start": starts, **commands},
    }
    rows = [
        ["`start()` returns", median_cell(starts, "start_ms"), "ms", "300"],
        ["`start()`, then the gateway answers", median_cell(starts, "gateway_answers_ms"), "ms", "300"],
        ["`stop()`", median_cell(starts, "stop_ms"), "ms", ""],
        ["`arcbox-net ls`", median_cell(commands["ls"], "ls_ms"), "ms", "100"],
        ["`python -c pass`, for comparison", median_cell(commands["python -c pass"], "ls_ms"), "ms", ""],
        ["resident memory, idle network process", idle_mb, "MB", "50"],
    ]
    show(payload, table(["what", "median (min–max)", "unit", "target ≤"], rows))
    if not options.no_write:
        write_result("start", payload)


if __name__ == "__main__":
    main()
