"""The user-space switch between two TAPs beside the Linux bridge between two veths: `python -m bench.ports.switch`.

As root, in network namespaces of its own. A worker of this process has both TAPs, and its switch checks what the two
guests send as it does in a network: MAC, IPv4, ARP. The bridge checks nothing, and frames cross it without leaving the
kernel. TCP is iperf3 with cubic, one stream each way, with the processor time of the whole machine; UDP is 64-byte
datagrams at full speed; RR is one byte and back. Within a round each test runs on both, one right after the other; a
share is the median of the rounds' ratios.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from ipaddress import IPv4Address

from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker import Worker
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.tap import TapPort
from bench.ends import Ends, compare
from tests.support.datapath import give_queue, open_tap
from tests.support.netns import Namespace

NAME = "ports.switch"
CLIENT, SERVER = "192.0.2.1", "192.0.2.2"
FRAME_MAX = 1514


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


if __name__ == "__main__":
    compare(NAME, __doc__ or "", ("our switch", our_switch()), ("Linux bridge", linux_bridge()), SERVER)
