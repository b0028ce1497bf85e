"""Loopback port forward: the splice relay against socat and against no proxy.

python -m bench.forward        no root needed; socat and iperf3 are used where they are installed

Two kinds of ends: iperf3 copies at both ends, as programs do; netspeed's ends do not touch the bytes (sendfile,
discard in the kernel), so there the proxy is all that costs. Exchanges are measured in rounds of their own, with both
ends on one core, on two, and anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arcbox_net import netspeed
from arcbox_net.relay import probe
from arcbox_net.relay.splice import SpliceRelay
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
from bench.exchanges import exchange_rounds, placements

ROUNDS = 5
SECONDS = 1.0
IPERF3_ATTEMPTS = 5
EXCHANGE_ROUNDS = 15
EXCHANGE_BYTES = 16384
EXCHANGES = 3000
CONNECTIONS = 2000
LISTENERS = 10_000
LISTENERS_FIRST_PORT = 15_000
TARGETS = {"throughput_ratio": 0.70, "rr_p50_extra_us": 40.0, "listeners_10000_s": 1.0}
HOST = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")
SERVERS = ("netspeed", "iperf3", "connections")


def measure(ports: dict[str, int], cpu_s: Callable[[], float]) -> Round:
    """One round of one contender; *cpu_s* is the proxy's processor time so far."""
    found: Round = {}
    before, moved = cpu_s(), 0
    for streams in (1, 4):
        for reverse in (False, True):
            name = f"netspeed_{streams}{'_reverse' if reverse else ''}_gbit_s"
            result = netspeed.measure_tcp(
                HOST, ports["netspeed"], seconds=SECONDS, streams=streams, reverse=reverse
            )
            found[name] = result["gbit_s"]
            moved += result["bytes"]
    if "iperf3" in ports:
        for streams in (1, 4):
            for reverse in (False, True):
                rate, received = iperf3(ports["iperf3"], streams, reverse)
                found[f"iperf3_{streams}{'_reverse' if reverse else ''}_gbit_s"] = rate
                moved += received
    found["cpu_s_per_gb"] = (cpu_s() - before) / (moved / 1e9)
    seconds = probe.connect_many(socket.inet_aton(HOST), ports["connections"], CONNECTIONS)
    found["connections_s"] = CONNECTIONS / seconds
    return found


def iperf3(port: int, streams: int, reverse: bool) -> tuple[float, int]:
    """Gbit/s and bytes as the receiver saw them."""
    # cubic for all: bbr, the default of some hosts, paces the direct connection and would flatter the relay.
    command = f"iperf3 -c {HOST} -p {port} -J -t {SECONDS} -P {streams} -C cubic".split()
    if reverse:
        command.append("-R")
    for _ in range(IPERF3_ATTEMPTS):
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
        report = json.loads(done.stdout)
        if received := report["end"].get("sum_received"):
            return received["bits_per_second"] / 1e9, int(received["bytes"])
        time.sleep(0.2)  # the server is still ending the test before
    raise RuntimeError(f"iperf3: {report.get('error')}")


def listeners_added() -> dict[str, float]:
    """Seconds to bind a range of LISTENERS ports, to add it, and to remove it."""
    relay = SpliceRelay()
    relay.start()
    began = time.perf_counter()
    listeners = []
    for host_port in range(LISTENERS_FIRST_PORT, LISTENERS_FIRST_PORT + LISTENERS):
        with contextlib.suppress(OSError):  # somebody's port: one fewer
            listeners.append(socket.create_server((HOST, host_port)))
    bound = time.perf_counter()
    ids = relay.add_tcp_many([(one.detach(), (HOST, 9)) for one in listeners])
    added = time.perf_counter()
    relay.remove_many(ids)
    removed = time.perf_counter()
    relay.stop()
    return {
        "count": len(ids),
        "bind_s": bound - began,
        "add_s": added - bound,
        "remove_s": removed - added,
        "total_s": added - began,
    }


@contextlib.contextmanager
def servers() -> Iterator[tuple[dict[str, int], int]]:
    """The ends that every contender leads to, each in a process or thread of its own, and the pid of netspeed's."""
    with contextlib.ExitStack() as stack:
        speed = stack.enter_context(
            _child(sys.executable, "-m", "arcbox_net.netspeed", "server", "--port", "0")
        )
        assert speed.stdout is not None
        ports = {"netspeed": int(json.loads(speed.stdout.readline())["port"])}
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=1024))
        threading.Thread(target=probe.accept_many, args=(listener.fileno(),), daemon=True).start()
        stack.callback(listener.shutdown, socket.SHUT_RDWR)
        ports["connections"] = listener.getsockname()[1]
        if shutil.which("iperf3"):
            ports["iperf3"] = _free_port()
            server = ("iperf3", "-s", "-B", HOST, "-p", str(ports["iperf3"]))
            stack.enter_context(_child(*server, silent=True))
            _wait_for(ports["iperf3"])
        yield ports, speed.pid


@contextlib.contextmanager
def relay(targets: dict[str, int]) -> Iterator[tuple[dict[str, int], Callable[[], float]]]:
    """The relay, alone in a process, so that its processor time is its own."""
    with _child(sys.executable, "-m", "bench.forward", "--relay", json.dumps(targets)) as child:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline()), lambda: cpu_seconds([child.pid])


def serve_relay(targets: dict[str, int]) -> None:
    """What `relay` runs in its child: until the parent ends it."""
    forwarder = SpliceRelay()
    forwarder.start()
    ports = {}
    for name, port in targets.items():
        listener = socket.create_server((HOST, 0), backlog=1024)
        ports[name] = listener.getsockname()[1]
        forwarder.add_tcp(listener.detach(), (HOST, port))
    print(json.dumps(ports), flush=True)
    threading.Event().wait()


@contextlib.contextmanager
def socat(targets: dict[str, int]) -> Iterator[tuple[dict[str, int], Callable[[], float]]]:
    """socat with a buffer of 64 KiB (its default of 8 KiB is slower), one process per connection."""
    with contextlib.ExitStack() as stack:
        ports, pids = {}, []
        for name, port in targets.items():
            ports[name] = _free_port()
            child = stack.enter_context(
                _child(
                    "socat",
                    "-b",
                    "65536",
                    f"TCP-LISTEN:{ports[name]},bind={HOST},reuseaddr,fork,backlog=1024",
                    f"TCP:{HOST}:{port},nodelay",
                )
            )
            pids.append(child.pid)
            _wait_for(ports[name])
        yield ports, lambda: cpu_seconds(pids)


def cpu_seconds(pids: list[int]) -> float:
    """Processor time of the processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(word) for word in fields[11:15])
    return ticks / TICKS


@contextlib.contextmanager
def _child(*command: str, silent: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    # A server that reports every test would stop when nobody reads its pipe.
    stdout = subprocess.DEVNULL if silent else subprocess.PIPE
    child = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def report(
    rounds: dict[str, list[Round]], exchanges: dict[str, list[Round]], listeners: list[Round]
) -> dict[str, Any]:
    """The medians that the targets speak of."""
    direct, spliced = rounds["direct"], rounds["splice"]

    def extra_us(key: str) -> float:
        return median_of(exchanges["splice"], key) - median_of(exchanges["direct"], key)

    keys = [key for key in direct[0] if key.endswith("gbit_s")]
    return {
        "ratio": {key: median_of(spliced, key) / median_of(direct, key) for key in keys},
        "rr_p50_extra_us": {where: extra_us(f"rr_{where}_p50_us") for where in placements()},
        "rr_p99_extra_us": {where: extra_us(f"rr_{where}_p99_us") for where in placements()},
        "listeners_10000_s": median_of(listeners, "total_s"),
        **{name: {key: median_of(found, key) for key in found[0]} for name, found in rounds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        serve_relay(json.loads(options.relay))
        return
    with contextlib.ExitStack() as stack:
        targets, server_pid = stack.enter_context(servers())
        exchange_ports = {"direct": targets["netspeed"]}
        contenders: dict[str, Callable[[], Round]] = {"direct": lambda: measure(targets, lambda: 0.0)}
        splice_ports, splice_cpu = stack.enter_context(relay(targets))
        contenders["splice"] = lambda: measure(splice_ports, splice_cpu)
        exchange_ports["splice"] = splice_ports["netspeed"]
        if shutil.which("socat"):
            socat_ports, socat_cpu = stack.enter_context(socat(targets))
            contenders["socat"] = lambda: measure(socat_ports, socat_cpu)
            exchange_ports["socat"] = socat_ports["netspeed"]
        quiet = quiet_check()
        rounds = interleave(contenders, options.rounds)
        exchanges = exchange_rounds(
            exchange_ports, HOST, server_pid, size=EXCHANGE_BYTES, count=EXCHANGES, rounds=EXCHANGE_ROUNDS
        )
    listeners = [listeners_added() for _ in range(options.rounds)]
    medians = report(rounds, exchanges, listeners)
    versions = environment("socat", "iperf3")
    rows = [
        [key, *(median_cell(found, key) for found in measured.values())]
        for measured in (rounds, exchanges)
        for key in measured["direct"][0]
    ]
    lines = [
        table(["median (min–max)", *rounds], rows),
        "",
        f"- 10,000 listeners bound and added: {median_cell(listeners, 'total_s')} s (target ≤ 1)",
        *(
            f"- 16 kB exchange over direct, ends {where.replace('_', ' ')}: {extra:.1f} µs at the median (target ≤ 40)"
            for where, extra in medians["rr_p50_extra_us"].items()
        ),
        *(f"- {key}: {ratio:.0%} of direct (target ≥ 70 %)" for key, ratio in medians["ratio"].items()),
    ]
    payload: dict[str, Any] = {
        "environment": versions,
        "quiet": quiet,
        "targets": TARGETS,
        "median": medians,
        "rounds": {**rounds, "listeners": listeners},
        "exchanges": exchanges,
    }
    show(payload, "\n".join(lines))
    if not options.no_write:
        write_result("forward", payload)


if __name__ == "__main__":
    main()
