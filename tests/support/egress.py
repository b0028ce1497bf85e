"""A relay's doors in a kernel of their own: a guest, the private namespace it is on, the host that dials, a world.

    guest (192.0.2.2) ── veth ── inside (192.0.2.1: TUNs, listeners) ┄ relay threads ┄ host ── veth ── world

The ruleset and the policy routes are written out here, so that the relay is tested without what sets them up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from arcbox_net.relay.doors import Door
from arcbox_net.relay.egress import EgressRelay
from tests.support.netns import Host, Namespace

GUEST4, GATEWAY4 = "192.0.2.2", "192.0.2.1"
GUEST6, GATEWAY6 = "fd00:db8:1::2", "fd00:db8:1::1"
WORLD6, HOST6 = "fd00:db8:2::1", "fd00:db8:2::2"
TUN_MTU = 65520
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x20 | 0x40  # CSUM, TSO4, TSO6, USO4, USO6


class EgressBed:
    """All of it, with one relay. *options* are the relay's."""

    def __init__(self, *, shards: int = 1, **options: Any) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._build(shards, options)
        except BaseException:
            self._stack.close()
            raise

    def _build(self, shards: int, options: dict[str, Any]) -> None:
        self.host = self._stack.enter_context(Host())
        self.world = self.host.world
        self.inside = self.host.namespace("inside")
        self.guest = self.host.namespace("guest")
        self.world_ip = self.host.world_ip
        self.host.run(f"ip -6 addr add {HOST6}/64 dev {self.host.uplink} nodad")
        self.host.run(f"ip -6 route add default via {WORLD6}")
        self.world.run(f"ip -6 addr add {WORLD6}/64 dev {self.host.uplink_peer} nodad")
        self._link_guest()
        doors = [self._door(index) for index in range(shards)]
        self.listener4_port = _local_port(doors[0].listener4_fd)
        self._route(doors)
        self.relay = EgressRelay(doors, **options)
        self._stack.callback(self.relay.stop)
        self.relay.set_host_addresses([self.host.host_ip, HOST6])
        self.host.call(self.relay.start)

    def _link_guest(self) -> None:
        self.inside.run(f"ip link add g0 type veth peer name eth0 netns {self.guest.name}")
        for where, ifname, four, six in (
            (self.inside, "g0", GATEWAY4, GATEWAY6),
            (self.guest, "eth0", GUEST4, GUEST6),
        ):
            where.run(f"ip addr add {four}/24 dev {ifname}")
            where.run(f"ip -6 addr add {six}/64 dev {ifname} nodad")
            where.run(f"ip link set {ifname} up")
        self.guest.run(f"ip route add default via {GATEWAY4}")
        self.guest.run(f"ip -6 route add default via {GATEWAY6}")
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.inside.sysctl(f"net.{name}", 1)
        # A SYN that early demux finds a socket for (of an older connection, in TIME_WAIT) is not forwarded.
        self.inside.sysctl("net.ipv4.tcp_early_demux", 0)
        for name in ("all", "default", "g0"):
            self.inside.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)

    def _door(self, index: int) -> Door:
        ifname = f"out{index}"
        tun = self.inside.call(lambda: open_tun(ifname))
        self.inside.sysctl(f"net.ipv4.conf.{ifname}.accept_local", 1)  # ICMP errors come from our own address
        self.inside.run(f"ip link set {ifname} mtu {TUN_MTU} up")
        four = self.inside.call(lambda: _listener(socket.AF_INET, "127.0.0.1"))
        six = self.inside.call(lambda: _listener(socket.AF_INET6, "::1"))
        return Door(tun, four, six, GATEWAY4, GATEWAY6)

    def _route(self, doors: list[Door]) -> None:
        shards = len(doors)
        for family, loopback in (("-4", "local 0.0.0.0/0"), ("-6", "local ::/0")):
            self.inside.run(f"ip {family} route add {loopback} dev lo table 100")
            self.inside.run(f"ip {family} rule add fwmark 1 lookup 100 pref 10")
            for index in range(shards):
                self.inside.run(f"ip {family} route add default dev out{index} table {200 + index}")
                self.inside.run(f"ip {family} rule add fwmark {0x100 + index} lookup {200 + index} pref 20")
        syn = "tcp flags & (fin|syn|rst|ack) == syn"
        back = "\n".join(
            f"""
            iifname out{index} meta nfproto ipv4 {syn} tproxy ip to 127.0.0.1:{_local_port(door.listener4_fd)} goto ours
            iifname out{index} meta nfproto ipv6 {syn} tproxy ip6 to [::1]:{_local_port(door.listener6_fd)} goto ours
            """
            for index, door in enumerate(doors)
        )
        self.inside.run(
            "nft -f -",
            stdin=f"""
            table inet egress {{
                chain ours {{ meta mark set 1 accept; }}
                chain prerouting {{
                    type filter hook prerouting priority mangle
                    {back}
                    iifname != g0 accept
                    fib daddr type local accept
                    meta l4proto ipv6-icmp icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                    {syn} goto to_door
                    meta l4proto tcp socket transparent 1 meta mark set 1 accept
                    meta l4proto tcp reject with tcp reset
                    meta l4proto udp goto to_door
                    icmp type echo-request meta mark set 0x100 accept
                    icmpv6 type echo-request meta mark set 0x100 accept
                    drop
                }}
                chain to_door {{
                    meta nfproto ipv4 meta mark set jhash ip saddr . th sport mod {shards} offset 0x100 accept
                    meta nfproto ipv6 meta mark set jhash ip6 saddr . th sport mod {shards} offset 0x100 accept
                }}
            }}
            """,
        )

    def dial(self, address: str, port: int, *, timeout: float = 30.0) -> socket.socket:
        """A connection of the guest."""
        return self.guest.call(lambda: socket.create_connection((address, port), timeout=timeout))

    def stat(self, name: str) -> int:
        return self.relay.stats()[name]

    def __enter__(self) -> EgressBed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def open_tun(ifname: str) -> int:
    """A layer-3 TUN in the namespace of the caller, with all offloads and a virtio_net_hdr of 12 bytes."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", ifname.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("=i", 12))
    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_OFFLOADS)
    return fd


def _listener(family: socket.AddressFamily, address: str) -> int:
    made = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET:
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, 0))
    made.listen(4096)
    return made.detach()


def _local_port(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(where: Namespace, address: str, *, backlog: int = 4096) -> Iterator[tuple[socket.socket, int]]:
    """A TCP listener in *where*, and its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = where.call(lambda: socket.create_server((address, 0), family=family, backlog=backlog))
    made.settimeout(30)
    with made:
        yield made, made.getsockname()[1]
