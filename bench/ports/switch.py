"""The user-space switch between two TAPs beside the Linux bridge between two veths: `python -m bench.ports.switch`.

As root, in network namespaces of its own. A worker of this process has both TAPs, and its switch checks what the two
guests send as it does in a network: MAC, IPv4, ARP. The bridge checks nothing, and frames cross it without leaving the
kernel. TCP is iperf3 with cubic, one stream each way; UDP is 64-byte datagrams at full speed. Within a round each test
runs on both, one right after the other; a share is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker import Worker
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.tap import TapPort
from bench.common import Round, environment, median_cell, quiet_check, show, table, write_result
from bench.ends import servers, share, tcp, udp
from tests.support.datapath import give_queue, open_tap
from tests.support.netns import Namespace

NAME = "ports.switch"
ROUNDS = 5
SECONDS = 2
CLIENT, SERVER = "192.0.2.1", "192.0.2.2"
OURS, BRIDGE = "our switch", "Linux bridge"
FRAME_MAX = 1514
Ends = tuple[Namespace, Namespace]


@contextlib.contextmanager
def our_switch() -> Iterator[Ends]:
    with Namespace("client") as client, Namespace("server") as server:
        with PacketPool() as pool, Worker(pool, "bench") as worker:
            switch = Switch()
            for namespace, address in ((client, CLIENT), (server, SERVER)):
                number = worker.add(TapPort(frame_max=FRAME_MAX), switch)
                for fd in open_tap(namespace, f"{address}/24"):
                    give_queue(worker, number, fd)
                namespace.run("ip link set tap0 txqueuelen 10000")
                mac = json.loads(namespace.run("ip -j link show tap0").stdout)[0]["address"]
                switch.bind(worker, number, PortBinding(mac=mac, ipv4=(IPv4Address(address),)))
            yield client, server


@contextlib.contextmanager
def linux_bridge() -> Iterator[Ends]:
    with Namespace("bridge") as middle, Namespace("client") as client, Namespace("server") as server:
        middle.run("ip link add br0 type bridge")
        middle.run("ip link set br0 up")
        for name, namespace, address in (("g0", client, CLIENT), ("g1", server, SERVER)):
            middle.run(f"ip link add {name} type veth peer name eth0 netns {namespace.name}")
            middle.run(f"ip link set {name} master br0 up")
            namespace.run(f"ip addr add {address}/24 dev eth0")
            namespace.run("ip link set eth0 up")
        yield client, server


def tests(seconds: int) -> dict[str, Callable[[Namespace], float]]:
    """What is measured from a client, by its key in the result."""
    return {
        "tcp_gbit_s": lambda client: tcp(client, SERVER, [], seconds),
        "tcp_reverse_gbit_s": lambda client: tcp(client, SERVER, ["-R"], seconds),
        "udp_delivered_pps": lambda client: udp(client, SERVER, seconds),
    }


def measure_round(clients: dict[str, Namespace], seconds: int) -> dict[str, Round]:
    found: dict[str, Round] = {name: {} for name in clients}
    for key, test in tests(seconds).items():
        for name, client in clients.items():
            found[name][key] = test(client)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        clients: dict[str, Namespace] = {}
        for name, built in {OURS: our_switch(), BRIDGE: linux_bridge()}.items():
            clients[name], server = stack.enter_context(built)
            stack.enter_context(servers(server))
        quiet = quiet_check(wait_s=10)
        rounds: dict[str, list[Round]] = {name: [] for name in clients}
        for number in range(options.rounds):
            print(f"# round {number + 1}/{options.rounds}", file=sys.stderr, flush=True)
            for name, one in measure_round(clients, options.seconds).items():
                rounds[name].append(one)
    keys = list(tests(options.seconds))
    shares = {key: share(rounds[OURS], rounds[BRIDGE], key) for key in keys}
    text = table(
        ["test", *rounds, f"share of {BRIDGE}"],
        [[key, *(median_cell(one, key) for one in rounds.values()), f"{shares[key]:.0%}"] for key in keys],
    )
    payload = {
        "environment": environment("ip", "iperf3"),
        "quiet": quiet,
        "shares": shares,
        "seconds_per_test": options.seconds,
        "rounds": rounds,
    }
    show(payload, text)
    write_result(NAME, payload)


if __name__ == "__main__":
    main()
