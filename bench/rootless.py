"""A guest of an ordinary user: arcbox-net against pasta, slirp4netns, gvproxy, and what the kernel does as root.

    python -m bench.rootless --pasta PATH --gvproxy FOLDER       as root, which makes the user and the namespaces
    python -m bench.rootless --only tcp --tests up_1,down_1 --contenders arcbox-net,pasta

The server is in another namespace, on an address of the host's network; section `loopback` has it on the host's
loopback. Rounds are interleaved. Each section can be measured on its own, and replaces itself in the results.
TCP is iperf3 with cubic, all else is arcbox_net.netspeed; UDP datagrams have 64 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import (
    RESULTS,
    Round,
    environment,
    interleave,
    machine_cpu_s,
    merged,
    quiet_check,
    read_result,
    show,
    write_result,
)
from bench.contenders import CONNECTIONS_PORT, IPERF_PORTS, SERVER, SPEED_PORT, Contender, available
from bench.rootless_tables import tables

ROUNDS = 5
SECONDS = 2.0
ATTEMPTS = 5  # of a test in one round
RATES = (50_000, 100_000, 200_000)
Test = Callable[[Contender, str, float], Round]


def tcp(*flows: tuple[str, ...]) -> Test:
    """Gbit/s that arrived, of every iperf3 client of *flows* (its options) at the same time; CPU seconds per GB."""

    def measure(contender: Contender, server: str, seconds: float) -> Round:
        words = [
            "iperf3",
            "-J",
            "-C",
            "cubic",
            "-c",
            server,
            "-t",
            str(max(1, round(seconds))),
        ]  # 0: for ever
        tool, machine = contender.cpu_s(), machine_cpu_s()
        clients = [
            contender.popen(*words, "-p", str(port), *options)
            for port, options in zip(IPERF_PORTS, flows, strict=False)
        ]
        try:
            printed = [client.communicate(timeout=seconds + 30)[0] for client in clients]
        finally:
            for client in clients:
                client.kill()
                client.wait()
        tool, machine = contender.cpu_s() - tool, machine_cpu_s() - machine
        answers = [json.loads(text or "{}") for text in printed]
        ends = [answer.get("end", {}).get("sum_received", {}) for answer in answers]
        gb = sum(end.get("bytes", 0) for end in ends) / 1e9
        if not gb or not all(ends):
            raise RuntimeError(f"iperf3: {[answer.get('error', 'nothing arrived') for answer in answers]}")
        return {
            "gbit_s": sum(end["bits_per_second"] for end in ends) / 1e9,
            "tool_s_per_gb": tool / gb,
            "machine_s_per_gb": machine / gb,
        }

    return measure


def udp(direction: str, rate: int) -> Test:
    def measure(contender: Contender, server: str, seconds: float) -> Round:
        words = ["--seconds", str(seconds), "--rate", str(rate)]
        found = netspeed(contender, server, SPEED_PORT, direction, *words)
        return {name: found[name] for name in ("loss", "delivered_pps", "sent_pps")}

    return measure


def latency(contender: Contender, server: str, seconds: float) -> Round:
    found = netspeed(contender, server, SPEED_PORT, "rr", "--count", str(int(seconds * 3000)))
    return {name: found[name] for name in ("p50_us", "p99_us")}


def connections(parallel: int) -> Test:
    def measure(contender: Contender, server: str, seconds: float) -> Round:
        words = ["--streams", str(parallel), "--count", str(int(seconds * 1500 * min(parallel, 4)))]
        return {"per_s": netspeed(contender, server, CONNECTIONS_PORT, "connections", *words)["per_s"]}

    return measure


def memory(contender: Contender, server: str, seconds: float) -> Round:
    """Idle, then the most it ever was, after work with 4 and 16 connections at a time."""
    idle = contender.memory_mb("VmRSS")
    for work in (tcp(("-P", "4")), tcp(("-R",)), connections(16), udp("udp", 0)):
        work(contender, server, seconds)
    return {"idle_mb": idle, "peak_mb": contender.memory_mb("VmHWM")}


BULK: dict[str, Test] = {"up_1": tcp(()), "down_1": tcp(("-R",))}
SECTIONS: dict[str, dict[str, Test]] = {
    "tcp": {
        **BULK,
        "both_1": tcp((), ("-R",)),
        "up_4": tcp(("-P", "4")),
        "down_4": tcp(("-R", "-P", "4")),
    },
    "loopback": {**BULK, "rr": latency, "connections_1": connections(1), "connections_16": connections(16)},
    "latency": {"rr": latency},
    "connections": {"1": connections(1), "16": connections(16)},
    "udp": {
        **{f"up_{rate // 1000}k": udp("udp", rate) for rate in RATES},
        "up_blast": udp("udp", 0),
        **{f"down_{rate // 1000}k": udp("udp-reverse", rate) for rate in RATES},
        "down_blast": udp("udp-reverse", 0),
    },
    "memory": {"memory": memory},
}


def netspeed(contender: Contender, server: str, port: int, test: str, *words: str) -> dict[str, Any]:
    client = [sys.executable, "-m", "arcbox_net.netspeed", "client", server, str(port), test, *words]
    for attempt in itertools.count(1):
        try:
            printed = contender.run(*client)
            break
        except RuntimeError:  # pasta resets one connection in several
            if attempt == ATTEMPTS:
                raise
    found: dict[str, Any] = json.loads(printed)[test]
    return found


def one_round(contender: Contender, section: str, tests: dict[str, Test], seconds: float) -> Round:
    """The figures of each test, by `test.figure`; a test that failed has none, and its reason."""
    server = contender.loopback if section == "loopback" else SERVER
    found: Round = {}
    for name, test in tests.items():
        try:
            figures = test(contender, server or SERVER, seconds)
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            found[f"{name}.failure"] = str(error)[:300]
        else:
            found |= {f"{name}.{figure}": value for figure, value in figures.items()}
    return found


@contextlib.contextmanager
def running(
    names: list[str], options: argparse.Namespace
) -> Iterator[tuple[dict[str, Contender], list[str]]]:
    with contextlib.ExitStack() as stack:
        setups, missing = available(options.pasta, options.gvproxy)
        made: dict[str, Contender] = {}
        for name in names or setups:
            if name not in setups:
                raise SystemExit(f"no contender {name!r}: there are {', '.join(setups)}")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made[name] = stack.enter_context(setups[name](directory))
        yield made, missing


def measure_section(
    section: str, contenders: dict[str, Contender], options: argparse.Namespace
) -> dict[str, Any]:
    tests = SECTIONS[section]
    if options.tests:
        tests = {name: test for name, test in tests.items() if name in options.tests}
    measured = {
        name: partial(one_round, contender, section, tests, options.seconds)
        for name, contender in contenders.items()
        if (section != "loopback" or contender.loopback) and (section != "memory" or contender.pids)
    }
    quiet = quiet_check(wait_s=options.wait)
    begin = time.monotonic()
    rounds = interleave(measured, options.rounds)
    took = time.monotonic() - begin
    return {"quiet": quiet, "seconds_per_test": options.seconds, "took_s": round(took), "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    words = {"type": lambda text: [word for word in text.split(",") if word], "default": []}
    parser.add_argument("--only", help=f"sections: {','.join(SECTIONS)}", **words)
    parser.add_argument("--tests", help="tests of the sections", **words)
    parser.add_argument("--contenders", **words)
    parser.add_argument(
        "--pasta", default=os.environ.get("ABX_BENCH_PASTA"), help="a pasta built from source"
    )
    parser.add_argument(
        "--gvproxy", default=os.environ.get("ABX_BENCH_GVPROXY"), help="folder of its programs"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    kept = read_result("rootless") if (RESULTS / "rootless.json").exists() and not options.no_write else {}
    sections = kept.get("sections", {})
    with running(options.contenders, options) as (contenders, missing):
        for section in options.only or SECTIONS:
            fresh = measure_section(section, contenders, options)
            if section in sections and (options.tests or options.contenders):
                fresh["rounds"] = merged(sections[section]["rounds"], fresh["rounds"])
            sections[section] = fresh
    quiets = [section["quiet"] for section in sections.values()]
    payload = {
        "environment": environment("ip", "nft", "iperf3", "slirp4netns", "pasta"),
        "quiet": min(quiets, key=lambda quiet: (quiet["quiet"], -quiet["busy_share"])),
        "missing": missing,
        "pasta_from_source": version_of(options.pasta) or kept.get("pasta_from_source"),
        "sections": sections,
    }
    show(payload, tables(payload))
    if not options.no_write:
        write_result("rootless", payload)


def version_of(program: str | None) -> str | None:
    if not program or not Path(program).exists():
        return None
    return os.popen(f"{program} --version").read().split("\n")[0].removeprefix("pasta ").strip() or None


if __name__ == "__main__":
    main()
