"""The NAT engine as a network's way out, beside nft masquerade: `python -m bench.ports.egress`.

As root, in network namespaces of its own. Ours: a guest's TAP, the switch with its checks, the router and its engine,
and a packet socket on a veth to outside. The kernel's: a guest's veth, forwarding with conntrack and masquerade, and
such a veth to outside. TCP is iperf3 with cubic, one stream each way, with the processor time of the whole machine; UDP
is 64-byte datagrams at full speed; RR is one byte and back. Within a round each test runs on both, one right after the
other; a share is the median of the rounds' ratios.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.ends import Ends, compare
from tests.support.engine_egress import EXTERNAL, FAR, GATEWAY, GUEST, NEXT_HOP, engine_egress
from tests.support.netns import Namespace

NAME = "ports.egress"


@contextlib.contextmanager
def engine() -> Iterator[Ends]:
    with engine_egress() as site:
        yield site.guest, site.outside


@contextlib.contextmanager
def masquerade() -> Iterator[Ends]:
    with Namespace("nft") as middle, Namespace("client") as guest, Namespace("server") as outside:
        middle.run(f"ip link add g0 type veth peer name eth0 netns {guest.name}")
        middle.run(f"ip link add wire0 type veth peer name eth0 netns {outside.name}")
        for name, address in (("g0", GATEWAY), ("wire0", EXTERNAL)):
            middle.run(f"ip addr add {address}/24 dev {name}")
            middle.run(f"ip link set {name} up")
        middle.run(f"ip route add default via {NEXT_HOP}")
        middle.sysctl("net.ipv4.ip_forward", 1)
        middle.run(
            [
                "nft",
                "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
                'add rule ip nat post oifname "wire0" masquerade',
            ]
        )
        guest.run(f"ip addr add {GUEST}/24 dev eth0")
        guest.run("ip link set eth0 up")
        guest.run(f"ip route add default via {GATEWAY}")
        outside.run(f"ip addr add {NEXT_HOP}/24 dev eth0")
        outside.run(f"ip addr add {FAR}/32 dev lo")
        outside.run("ip link set eth0 up")
        yield guest, outside


if __name__ == "__main__":
    compare(NAME, __doc__ or "", ("NAT engine", engine()), ("nft masquerade", masquerade()), FAR, "nft")
