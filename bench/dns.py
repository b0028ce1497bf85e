"""DNS queries per second and CPU per query, ours beside dnsmasq: `python -m bench.dns [--rounds N] [--seconds S]`.

All of it runs in one network namespace of its own: dnsperf, the two forwarders and their upstreams (dnsmasq
that answers from memory). Three loads: `cached` asks 1,000 names again and again, `uncached` asks every name
once and the answers are worth caching, `zero-ttl` asks 1,000 names whose answers may not be cached.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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

INSIDE = "ARCBOX_BENCH_INSIDE"
UPSTREAM, OURS, DNSMASQ = "127.0.9.1:5301", "127.0.9.2:5302", "127.0.9.3:5303"
ZERO_TTL = "127.0.9.4:5304"
NAMES = 1000
CLIENTS = 4
OUTSTANDING = {"cached": 400, "uncached": 60, "zero-ttl": 60}
CACHE_ENTRIES = 8192
FRESH_NAMES = 400_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def dnsmasq(endpoint: str, *words: str) -> list[str]:
    host, _, port = endpoint.partition(":")
    return [
        *("dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "-u", "root", "--pid-file="),
        *(f"--listen-address={host}", "--bind-interfaces", "-p", port, "--log-facility=/dev/null"),
        *words,
    ]


def commands() -> dict[str, list[str]]:
    """The servers; dnsmasq gets as large a cache as ours, and room for all outstanding queries."""
    return {
        "upstream": dnsmasq(
            UPSTREAM,
            "--local-ttl=3600",
            "--address=/bench.example/192.0.2.7",
            "--dns-forward-max=10000",
        ),
        "upstream-zero-ttl": dnsmasq(
            ZERO_TTL, "--address=/zero.example/192.0.2.7", "--dns-forward-max=10000"
        ),
        "ours": [
            sys.executable,
            "-m",
            "tests.services.dns.serving",
            OURS,
            UPSTREAM,
            f"zero.example={ZERO_TTL}",
        ],
        "dnsmasq": dnsmasq(
            DNSMASQ,
            f"--server={UPSTREAM.replace(':', '#')}",
            f"--server=/zero.example/{ZERO_TTL.replace(':', '#')}",
            f"--cache-size={CACHE_ENTRIES}",
            "--dns-forward-max=10000",
        ),
    }


@contextlib.contextmanager
def running() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    servers = {name: subprocess.Popen(words, stdout=subprocess.PIPE) for name, words in commands().items()}
    try:
        assert servers["ours"].stdout is not None
        servers["ours"].stdout.readline()
        time.sleep(0.5)
        yield servers
    finally:
        for server in servers.values():
            server.terminate()
            server.wait(10)


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that *pid* has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def queries(load: str, folder: Path) -> Path:
    """A dnsperf input file. Names of an `uncached` round have never been asked before."""
    path = folder / f"{load}.txt"
    if load == "uncached":
        mark = secrets.token_hex(4)
        path.write_text("".join(f"u{mark}{i}.bench.example A\n" for i in range(FRESH_NAMES)))
    else:
        zone = "bench" if load == "cached" else "zero"
        path.write_text("".join(f"h{i}.{zone}.example A\n" for i in range(NAMES)))
    return path


def dnsperf(endpoint: str, path: Path, seconds: float, outstanding: int) -> dict[str, float]:
    host, _, port = endpoint.partition(":")
    done = subprocess.run(
        [
            *("dnsperf", "-s", host, "-p", port, "-d", str(path), "-l", str(seconds)),
            *("-c", str(CLIENTS), "-q", str(outstanding)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    def number(label: str) -> float:
        found = re.search(rf"{label}:\s+([\d.]+)", done.stdout)
        if found is None:
            raise RuntimeError(f"dnsperf says no {label!r}:\n{done.stdout}{done.stderr}")
        return float(found[1])

    return {
        "completed": number("Queries completed"),
        "lost": number("Queries lost"),
        "queries_per_s": number("Queries per second"),
        "latency_ms": number(r"Average Latency \(s\)") * 1000,
    }


def measure(load: str, endpoint: str, pid: int, folder: Path, seconds: float) -> Round:
    """One round. `per_core`: queries that one core, wholly used by the server, would answer in a second."""
    path = queries(load, folder)
    if load == "cached":
        dnsperf(endpoint, path, 0.5, 50)
    before = cpu_s(pid)
    found = dnsperf(endpoint, path, seconds, OUTSTANDING[load])
    used = cpu_s(pid) - before
    return {
        **found,
        "cpu_s": used,
        "cpu_s_per_100k": used / found["completed"] * 100_000,
        "per_core": found["completed"] / used,
        "rss_mib": rss_mib(pid),
    }


def run(rounds: int, seconds: float) -> None:
    payload = {"environment": environment("dnsmasq", "dnsperf"), "quiet": quiet_check(), "loads": {}}
    print(payload["environment"])
    rows = []
    with tempfile.TemporaryDirectory() as name, running() as servers:
        folder = Path(name)
        for load in OUTSTANDING:
            found = interleave(
                {
                    who: lambda load=load, who=who, endpoint=endpoint: measure(
                        load, endpoint, servers[who].pid, folder, seconds
                    )
                    for who, endpoint in (("ours", OURS), ("dnsmasq", DNSMASQ))
                },
                rounds,
            )
            payload["loads"][load] = found
            for who, each in found.items():
                rows.append(
                    [
                        load,
                        who,
                        median_cell(each, "queries_per_s"),
                        median_cell(each, "per_core"),
                        median_cell(each, "cpu_s_per_100k"),
                        median_of(each, "rss_mib"),
                        sum(one["lost"] for one in each),
                    ]
                )
    header = ["load", "server", "queries/s", "queries/s per core", "CPU s per 100k", "RSS MiB", "lost"]
    show(payload, table(header, rows))
    write_result("dns", payload)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    given = options.parse_args()
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        run(given.rounds, given.seconds)
        return
    # A namespace of our own: no traffic but ours, and no firewall rules of the machine on loopback.
    words = ["unshare", "-n", sys.executable, "-m", "bench.dns", *sys.argv[1:]]
    sys.exit(subprocess.run(words, env={**os.environ, INSIDE: "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
