"""Both ends of a path under test: iperf3, and netspeed's datagrams and round trips, from one namespace to another."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from bench.common import (
    Round,
    environment,
    machine_cpu_s,
    median_cell,
    quiet_check,
    show,
    table,
    write_result,
)
from tests.support.netns import Namespace, wait_until

IPERF_PORT = 5201
SPEED_PORT = 5301
ROUNDS = 5
SECONDS = 2
Ends = tuple[Namespace, Namespace]  # where a test's client runs, and its servers
Test = Callable[[Namespace], Round]


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


def tcp_and_cpu(client: Namespace, address: str, options: list[str], seconds: int) -> tuple[float, float]:
    """Received Gbit/s, and the seconds of processor time that the machine spent for a GB."""
    before = machine_cpu_s()
    gbit_s = tcp(client, address, options, seconds)
    return gbit_s, (machine_cpu_s() - before) / (gbit_s * seconds / 8)


def udp(client: Namespace, address: str, seconds: int) -> float:
    """Delivered datagrams per second at full speed."""
    return float(netspeed(client, address, seconds, "udp", "--datagram", "64")["delivered_pps"])


def round_trip(client: Namespace, address: str) -> float:
    """Microseconds, at the median, for one byte and back on one TCP connection."""
    return float(netspeed(client, address, 0, "rr")["p50_us"])


def netspeed(client: Namespace, address: str, seconds: int, test: str, *options: str) -> Round:
    """What netspeed's client found in one test."""
    done = client.run(
        [
            *[sys.executable, "-m", "arcbox_net.netspeed", "client", address, str(SPEED_PORT), test],
            *["--seconds", str(seconds), *options],
        ],
        timeout=seconds + 60,
    )
    found: Round = json.loads(done.stdout)[test]
    return found


def ratios(ours: list[Round], theirs: list[Round], key: str) -> list[float]:
    """Ours to theirs, round by round."""
    return [float(mine[key]) / float(other[key]) for mine, other in zip(ours, theirs, strict=True)]


def share(ours: list[Round], theirs: list[Round], key: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(ratios(ours, theirs, key))


def both_ways(address: str, seconds: int) -> list[Test]:
    """What is measured from a client; each test gives one key or two of the result."""

    def bulk(name: str, *options: str) -> Test:
        def measure(client: Namespace) -> Round:
            gbit_s, cpu_s_per_gb = tcp_and_cpu(client, address, list(options), seconds)
            return {f"{name}_gbit_s": gbit_s, f"{name}_cpu_s_per_gb": cpu_s_per_gb}

        return measure

    return [
        bulk("tcp"),
        bulk("tcp_reverse", "-R"),
        lambda client: {"udp_delivered_pps": udp(client, address, seconds)},
        lambda client: {"rr_p50_us": round_trip(client, address)},
    ]


def compare(
    name: str,
    doc: str,
    ours: tuple[str, AbstractContextManager[Ends]],
    other: tuple[str, AbstractContextManager[Ends]],
    address: str,
    *tools: str,
) -> None:
    """The command line of a benchmark of two paths to *address*: within a round each test runs on both, in turn."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    options = parser.parse_args()
    measured = both_ways(address, options.seconds)
    rounds: dict[str, list[Round]] = {ours[0]: [], other[0]: []}
    with contextlib.ExitStack() as stack:
        clients: dict[str, Namespace] = {}
        for label, built in (ours, other):
            clients[label], server = stack.enter_context(built)
            stack.enter_context(servers(server))
        quiet = quiet_check(wait_s=10)
        for number in range(options.rounds):
            print(f"# round {number + 1}/{options.rounds}", file=sys.stderr, flush=True)
            for label in clients:
                rounds[label].append({})
            for test in measured:
                for label, client in clients.items():
                    rounds[label][-1] |= test(client)
    keys = list(rounds[ours[0]][0])
    shares = {key: share(rounds[ours[0]], rounds[other[0]], key) for key in keys}
    payload = {
        "environment": environment("ip", "iperf3", *tools),
        "quiet": quiet,
        "shares": shares,
        "seconds_per_test": options.seconds,
        "rounds": rounds,
    }
    text = table(
        ["test", *rounds, f"share of {other[0]}"],
        [[key, *(median_cell(one, key) for one in rounds.values()), f"{shares[key]:.0%}"] for key in keys],
    )
    show(payload, text)
    write_result(name, payload)
