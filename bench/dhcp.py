"""DHCP: four-way exchanges a second and their latency, ours and dnsmasq's, asked by ISC's perfdhcp.

python -m bench.dhcp          as root; in network namespaces of its own. Needs perfdhcp (kea-admin) and dnsmasq.

Both servers write a lease to the same file system and fsync it before its ACK. Two populations: the 250 guests of
a /24 that ask again and again, and guests that are all new. For each: `paced` offers 1,000 exchanges a second and
takes the latencies, `flood` offers more than either can do and counts what is completed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    percentile,
    quiet_check,
    show,
    table,
    write_result,
)
from tests.support.netns import Host, Namespace, wait_until

GATEWAY = "10.77.0.1"
RELAY = "10.77.255.254"  # perfdhcp speaks as a relay, from an address of its own
SUBNET = IPv4Network("10.77.0.0/16")
FIRST, LAST = "10.77.0.2", "10.77.255.250"
POPULATIONS = {"guests of a /24": 250, "all new": 60_000}
PACED_PER_S = 1000
FLOOD_PER_S = 8_000
ROUNDS = 5
SECONDS = 5
TARGETS = {"paced_per_s_min": 990.0, "flood_per_s_min": 1000.0, "p99_ms_max": 20.0}


@contextlib.contextmanager
def ours(host: Host, directory: Path) -> Iterator[subprocess.Popen[Any]]:
    command = [sys.executable, "-m", "bench.dhcp", "--serve", str(directory / "leases.db")]
    with running(host, command) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


@contextlib.contextmanager
def dnsmasq(host: Host, directory: Path) -> Iterator[subprocess.Popen[Any]]:
    """With what helps it: no ping of an address before it is offered, no log line a message."""
    leases = directory / "dnsmasq.leases"
    command = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file",
        "--port=0",
        "--interface=br0",
        "--bind-interfaces",
        "--no-ping",
        "--quiet-dhcp",
        "--dhcp-authoritative",
        "--dhcp-lease-max=100000",
        f"--dhcp-range={FIRST},{LAST},1h",
        f"--dhcp-leasefile={leases}",
    ]
    with running(host, command) as process:
        wait_until(lambda: leases.exists() and ":67 " in host.run("ss -Hlnu").stdout)
        yield process


@contextlib.contextmanager
def running(host: Host, command: list[str]) -> Iterator[subprocess.Popen[Any]]:
    process = host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


SERVERS = {"arcbox-net": ours, "dnsmasq": dnsmasq}


def measure(server: str, guests: int) -> Round:
    """Paced, then flooded, each with a fresh server and an empty lease file."""
    with Host(world=False) as host:
        # A fixed MAC, since a bridge takes a port's otherwise.
        host.run("ip link add br0 address 02:00:00:00:77:01 type bridge")
        host.run(f"ip addr add {GATEWAY}/16 dev br0")
        host.run("ip link set br0 up")
        guest = host.namespace("guest")
        host.run(f"ip link add v0 type veth peer name eth0 netns {guest.name}")
        host.run("ip link set v0 master br0 up")
        guest.run(f"ip addr add {RELAY}/16 dev eth0")
        guest.run("ip link set eth0 up")
        found: Round = {}
        for part, per_s in (("paced", PACED_PER_S), ("flood", FLOOD_PER_S)):
            with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
                with SERVERS[server](host, Path(directory)) as process:
                    cpu_before = cpu_s(process.pid)
                    asked = ask(guest, guests, per_s)
                    cpu = cpu_s(process.pid) - cpu_before
            found |= {f"{part}_{key}": value for key, value in asked.items()}
            found[f"{part}_cpu_us_an_exchange"] = cpu / max(1.0, asked["per_s"] * SECONDS) * 1e6
        return found


def ask(guest: Namespace, guests: int, per_s: int) -> Round:
    """One perfdhcp run: exchanges completed a second, unanswered messages, and latencies of the server's answers."""
    text = guest.run(
        [
            "perfdhcp",
            "-4",
            "-l",
            "eth0",
            "-r",
            str(per_s),
            "-p",
            str(SECONDS),
            "-R",
            str(guests),
            "-x",
            "t",
            GATEWAY,
        ],
        check=False,  # it exits with 3 when a message went unanswered
        timeout=SECONDS + 60,
    ).stdout
    rate = re.search(r"^Rate: ([\d.e+]+) 4-way", text, re.MULTILINE)
    if rate is None:
        raise SystemExit(f"perfdhcp: {text}")
    found: Round = {"per_s": float(rate.group(1))}
    sections = dict(re.findall(r"\*\*\*Timestamps for packets: (\S+)\*\*\*\n((?:sent .*\n)*)", text))
    for name, key in (("DISCOVER-OFFER", "offer"), ("REQUEST-ACK", "ack")):
        pairs = re.findall(r": (\S+) / (\S+)$", sections[name], re.MULTILINE)
        latencies = [(float(received) - float(sent)) * 1000 for sent, received in pairs]
        found |= {f"{key}_p50_ms": percentile(latencies, 0.5), f"{key}_p99_ms": percentile(latencies, 0.99)}
    found["unanswered"] = sum(int(count) for count in re.findall(r"^drops: (\d+)$", text, re.MULTILINE))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of *pid* so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def serve(path: str) -> None:
    """The server under test: the service of the network process, with its state file."""
    from arcbox_net.network.state import State
    from arcbox_net.services.dhcp.leases import LeaseTable
    from arcbox_net.services.dhcp.link import InterfaceLink
    from arcbox_net.services.dhcp.settings import DhcpSettings
    from arcbox_net.services.dhcp.shell import DhcpService, system_clock

    gateway = IPv4Address(GATEWAY)
    settings = DhcpSettings(
        subnet=SUBNET,
        gateway=gateway,
        pool=(IPv4Address(FIRST), IPv4Address(LAST)),
        dns=(gateway,),
        domain="bench.internal",
        requests_per_s=0,  # perfdhcp is one guest that speaks for all
    )

    async def run() -> None:
        state = State.open(Path(path))
        table_ = LeaseTable(settings, state.leases(), now=system_clock())
        service = DhcpService(
            settings,
            table_,
            state,
            InterfaceLink("br0", gateway),
            port_of=lambda mac: None,
            on_lease=lambda lease, active: None,
        )
        await service.start()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        print("ready", flush=True)
        await ended.wait()
        await service.stop()
        state.close()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    quiet = quiet_check()
    began = time.monotonic()
    rounds = interleave(
        {
            f"{server}, {population}": (lambda s=server, n=guests: measure(s, n))
            for population, guests in POPULATIONS.items()
            for server in SERVERS
        },
        options.rounds,
    )
    shown = ("paced_per_s", "paced_offer_p99_ms", "paced_ack_p50_ms", "paced_ack_p99_ms", "flood_per_s")
    text = table(
        ("server, guests", *shown),
        [(name, *(median_cell(r, k) for k in shown)) for name, r in rounds.items()],
    )
    met = {}
    for population in POPULATIONS:
        own, other = (rounds[f"{server}, {population}"] for server in SERVERS)
        met[population] = {
            "paced_per_s": median_of(own, "paced_per_s") >= TARGETS["paced_per_s_min"],
            "flood_per_s": median_of(own, "flood_per_s") >= TARGETS["flood_per_s_min"],
            "p99_ms": median_of(own, "paced_ack_p99_ms") < TARGETS["p99_ms_max"],
            "ahead_of_dnsmasq": median_of(own, "flood_per_s") > median_of(other, "flood_per_s"),
        }
    payload: dict[str, Any] = {
        "environment": environment("perfdhcp", "dnsmasq"),
        "quiet": quiet,
        "seconds": round(time.monotonic() - began),
        "targets": TARGETS,
        "met": met,
        "rounds": rounds,
    }
    show(payload, text)
    print(met)
    write_result("dhcp", payload)


if __name__ == "__main__":
    main()
