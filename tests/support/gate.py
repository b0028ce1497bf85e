"""A relay whose TUN is a socket pair: the test is the guest's kernel, packet by packet.

The relay dials from a host of its own, with a world behind it that has a port for each way to answer a SYN.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from typing import Any

from scapy.packet import Packet

from arcbox_net.relay.doors import Door
from arcbox_net.relay.egress import EgressRelay
from tests.support import packets
from tests.support.netns import PATIENCE_S, Host
from tests.support.relay import wait_until

WORLD6, HOST6 = "fd00:db8:2::1", "fd00:db8:2::2"
GATEWAY4, GATEWAY6 = "192.0.2.1", "fd00:db8:1::1"
SILENT, REFUSED, NO_HOST, NO_NET, PROHIBITED = 7001, 7002, 7003, 7004, 7005
RULES = f"""
table inet answers {{
    chain input {{
        type filter hook input priority 0
        tcp dport {SILENT} drop
        tcp dport {NO_HOST} meta nfproto ipv4 reject with icmp type host-unreachable
        tcp dport {NO_NET} meta nfproto ipv4 reject with icmp type net-unreachable
        tcp dport {NO_HOST} meta nfproto ipv6 reject with icmpv6 type addr-unreachable
        tcp dport {NO_NET} meta nfproto ipv6 reject with icmpv6 type no-route
    }}
}}
"""
HOST_RULES = f"""
table inet answers {{
    chain output {{
        type filter hook output priority 0
        tcp dport {PROHIBITED} reject with icmpx type admin-prohibited
    }}
}}
"""


class GateBed:
    """*options* are the relay's; packets go in by `send` and come out by `receive`."""

    def __init__(self, *, started: bool = True, **options: Any) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.host = self._stack.enter_context(Host())
            self.world = self.host.world
            self.host.run(f"ip -6 addr add {HOST6}/64 dev {self.host.uplink} nodad")
            self.host.run(f"ip -6 route add default via {WORLD6}")
            self.world.run(f"ip -6 addr add {WORLD6}/64 dev {self.host.uplink_peer} nodad")
            self.world.run("nft -f -", stdin=RULES)
            self.host.run("nft -f -", stdin=HOST_RULES)
            ours, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.tun = self._stack.enter_context(ours)
            self.tun.settimeout(PATIENCE_S)
            self.tun.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            door = Door(tun.detach(), -1, -1, GATEWAY4, GATEWAY6)
            self.relay = EgressRelay([door], **options)
            self._stack.callback(self.relay.stop)
            self.relay.set_host_addresses([self.host.host_ip, HOST6])
            if started:
                self.start()
        except BaseException:
            self._stack.close()
            raise
        self._ports = itertools.count(20000)

    def start(self) -> None:
        self.host.call(self.relay.start)

    def send(self, frame: bytes) -> None:
        self.tun.send(frame)

    def syn(self, address: str, dport: int, **fields: Any) -> bytes:
        """Send the SYN of a new connection; the frame."""
        frame = packets.tcp(address, dport, **{"sport": next(self._ports), **fields})
        self.send(frame)
        return frame

    def receive(self) -> Packet:
        return packets.read(self.tun.recv(70000))

    def receive_frame(self) -> bytes:
        return self.tun.recv(70000)

    def settle(self) -> None:
        """Until the relay has seen all that was sent before, with nothing to say to the guest."""
        before = self.stat("drop_tcp_port")
        self.send(packets.tcp("198.51.100.1", 0))
        self.wait_for("drop_tcp_port", before + 1)

    def is_silent(self) -> bool:
        """Whether nothing waits that the relay sent."""
        self.settle()
        return not select.select([self.tun], [], [], 0)[0]

    def stat(self, name: str) -> int:
        return self.relay.stats()[name]

    def wait_for(self, name: str, value: int) -> None:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.stat(name) == value, name)
        found = {key: count for key, count in self.relay.stats().items() if count}
        assert self.stat(name) == value, f"{name}: {found}"

    def __enter__(self) -> GateBed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
