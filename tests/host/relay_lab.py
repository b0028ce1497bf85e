"""A private namespace with relay egress, its TUNs and listeners held by the test in the relay's place."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import (
    GATEWAY_LINK_LOCAL,
    TUN_VNET_HDR_BYTES,
    BridgePlan,
    FirewallPlan,
    HostAccessRedirect,
    PortPlan,
    RelayPlan,
    RelayShard,
    TunPlan,
    bridge_ifname,
    port_ifname,
    tun_ifname,
)
from tests.support.netns import Host, Namespace

NAME = "lab"
SUBNET = IPv4Network("192.168.64.0/24")
SUBNET6 = IPv6Network("fd12:3456:789a::/64")
GATEWAY, GATEWAY6 = SUBNET[1], SUBNET6[1]
ANSWER_S = 30.0
SILENCE_S = 0.3  # only beside a positive control
SYN, RST, ACK = 0x02, 0x04, 0x10
IPV6_TRANSPARENT = 75
IP_TRANSPARENT = 19


@dataclasses.dataclass
class Packet:
    """One packet read from the TUN of *shard*, as written back by `RelayLab.write`."""

    shard: int
    raw: bytes

    @property
    def ip(self) -> bytes:
        return self.raw[TUN_VNET_HDR_BYTES:]

    @property
    def version(self) -> int:
        return self.ip[0] >> 4

    @property
    def protocol(self) -> int:
        return self.ip[9] if self.version == 4 else self.ip[6]

    @property
    def src(self) -> str:
        return _text(self.ip[12:16] if self.version == 4 else self.ip[8:24])

    @property
    def dst(self) -> str:
        return _text(self.ip[16:20] if self.version == 4 else self.ip[24:40])

    @property
    def transport(self) -> bytes:
        return self.ip[(self.ip[0] & 15) * 4 if self.version == 4 else 40 :]

    @property
    def ports(self) -> tuple[int, int]:
        found: tuple[int, int] = struct.unpack_from("!HH", self.transport)
        return found

    @property
    def payload(self) -> bytes:
        return self.transport[8:]


class RelayGuest:
    """A guest with both kinds of address and a default route by the gateway."""

    def __init__(self, ns: Namespace, plan: PortPlan, ip: IPv4Address, ip6: IPv6Address) -> None:
        self.ns, self.plan, self.ip, self.ip6 = ns, plan, ip, ip6
        self.mac = plan.mac

    def address(self, version: int) -> str:
        return str(self.ip if version == 4 else self.ip6)


class RelayLab:
    def __init__(self, host: Host, *, shards: int = 2, **plan: object) -> None:
        self.host = host
        self._index = itertools.count()
        self.bridge = bridge_ifname(NAME)
        self.links = Links(host.path)
        self.tuns = [self.links.create_tun(TunPlan(NAME, tun_ifname(k))) for k in range(shards)]
        self.listeners4 = [host.call(lambda: _listener(socket.AF_INET, "127.0.0.1")) for _ in range(shards)]
        self.listeners6 = [host.call(lambda: _listener(socket.AF_INET6, "::1")) for _ in range(shards)]
        self.relay = RelayPlan(
            tuple(
                RelayShard(k, tun_ifname(k), four.getsockname()[1], six.getsockname()[1])
                for k, (four, six) in enumerate(zip(self.listeners4, self.listeners6, strict=True))
            )
        )
        self.plan = FirewallPlan(
            NAME,
            self.bridge,
            SUBNET,
            GATEWAY,
            subnet6=SUBNET6,
            gateway6=GATEWAY6,
            relay=self.relay,
            dhcp=True,
            dns=True,
            **plan,  # type: ignore[arg-type]
        )
        self.firewall = Firewall(NAME)
        host.call(lambda: self.firewall.apply(self.plan))
        self.links.apply_bridge(
            BridgePlan(
                NAME,
                self.bridge,
                1500,
                "52:54:00:00:00:01",
                IPv4Interface((GATEWAY, 24)),
                IPv6Interface((GATEWAY6, 64)),
            )
        )
        self.links.apply_policy(self.relay)

    def guest(self) -> RelayGuest:
        index = next(self._index)
        ip, ip6 = SUBNET[2 + index], SUBNET6[0x100 + index]
        ns = self.host.namespace(f"guest{index}")
        plan = PortPlan(
            NAME,
            f"vm{index}",
            port_ifname(NAME, index),
            self.bridge,
            f"02:00:00:00:00:{index + 1:02x}",
            1500,
            (ip,),
        )
        self.host.call(lambda: self.firewall.add_port(plan))
        self.host.run(f"ip link add {plan.ifname} type veth peer name eth0 netns {ns.name}")
        self.host.run(f"ip link set {plan.ifname} master {self.bridge} up")
        ns.run(f"ip link set eth0 address {plan.mac} up")
        ns.run(f"ip addr add {ip}/24 dev eth0")
        ns.run(f"ip -6 addr add {ip6}/64 dev eth0 nodad")
        ns.run(f"ip route add default via {GATEWAY}")
        ns.run(f"ip -6 route add default via {GATEWAY_LINK_LOCAL.ip} dev eth0")
        return RelayGuest(ns, plan, ip, ip6)

    def redirect(self, *redirects: HostAccessRedirect) -> None:
        self.host.call(lambda: self.firewall.add_redirects(redirects))

    def syn(self, sock: socket.socket, dst: str) -> Packet:
        """The SYN of *sock*, which dials *dst*. Another's may be there too: who waits for a second repeats it."""
        while (packet := self.read(6, dst=dst)) is not None:
            if packet.ports[0] == sock.getsockname()[1]:
                return packet
        raise AssertionError(f"no SYN to {dst}")

    def read(self, protocol: int, *, dst: str, timeout: float = ANSWER_S) -> Packet | None:
        """The next packet of *protocol* to *dst* on any TUN; the kernel's own multicast is passed over."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(self.tuns, [], [], left)
            for fd in ready:
                packet = Packet(self.tuns.index(fd), os.read(fd, 1 << 17))
                if packet.protocol == protocol and packet.dst == dst:
                    return packet
        return None

    def drain(self) -> None:
        """Pass over what is in the TUNs."""
        while ready := select.select(self.tuns, [], [], 0)[0]:
            os.read(ready[0], 1 << 17)

    def write(self, shard: int, packet: bytes) -> None:
        os.write(self.tuns[shard], bytes(TUN_VNET_HDR_BYTES) + packet)

    def let_in(self, packet: Packet) -> tuple[int, socket.socket]:
        """Write a SYN back, and return the shard whose listener got the connection, and the connection."""
        os.write(self.tuns[packet.shard], packet.raw)
        listeners = self.listeners4 if packet.version == 4 else self.listeners6
        ready, _, _ = select.select(listeners, [], [], ANSWER_S)
        assert ready, "no listener was reached"
        connection, _ = ready[0].accept()
        connection.settimeout(ANSWER_S)
        return listeners.index(ready[0]), connection

    def drops(self, reason: str) -> int:
        counts = self.host.call(self.firewall.drops)
        return sum(count for comment, count in counts.items() if comment.startswith(reason))

    def close(self) -> None:
        for fd in self.tuns:
            os.close(fd)
        for sock in (*self.listeners4, *self.listeners6):
            sock.close()
        self.links.close()


def family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


@contextlib.contextmanager
def dialling(guest: RelayGuest, address: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket of the guest that has begun to connect."""
    sock = guest.ns.call(lambda: socket.socket(family(6 if ":" in address else 4), socket.SOCK_STREAM))
    with sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((address, port))
        yield sock


def connected(sock: socket.socket) -> socket.socket:
    """*sock*, once its handshake is done; raises what it failed with."""
    _, ready, _ = select.select([], [sock], [], ANSWER_S)
    assert ready, "the handshake did not end"
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    sock.settimeout(ANSWER_S)
    return sock


def udp_socket(guest: RelayGuest, version: int) -> socket.socket:
    sock = guest.ns.call(lambda: socket.socket(family(version), socket.SOCK_DGRAM))
    sock.bind((guest.address(version), 0))
    sock.settimeout(ANSWER_S)
    return sock


def udp_packet(src: str, src_port: int, dst: str, dst_port: int, payload: bytes) -> bytes:
    head = struct.pack("!HHHH", src_port, dst_port, 8 + len(payload), 0)
    return ip_packet(src, dst, 17, head + payload, checksum_at=6)


def tcp_packet(src: str, src_port: int, dst: str, dst_port: int, flags: int, ack: int = 0) -> bytes:
    head = struct.pack("!HHIIBBHHH", src_port, dst_port, 1000, ack, 5 << 4, flags, 65535, 0, 0)
    return ip_packet(src, dst, 6, head, checksum_at=16)


def echo_packet(src: str, dst: str, kind: int, number: int) -> bytes:
    body = struct.pack("!BBHHH", kind, 0, 0, 7, number)
    protocol = 58 if ":" in src else 1
    return ip_packet(src, dst, protocol, body, checksum_at=2)


def ip_packet(src: str, dst: str, protocol: int, body: bytes, *, checksum_at: int | None = None) -> bytes:
    version = 6 if ":" in src else 4
    source, target = (socket.inet_pton(family(version), text) for text in (src, dst))
    if checksum_at is not None:
        pseudo = b"" if protocol == 1 else source + target + struct.pack("!LL", len(body), protocol)
        value = checksum(pseudo + body) or 0xFFFF
        body = body[:checksum_at] + struct.pack("!H", value) + body[checksum_at + 2 :]
    if version == 6:
        return struct.pack("!LHBB", 6 << 28, len(body), protocol, 64) + source + target + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + source + target
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def checksum(body: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(body) + 1) // 2}H", body + b"\0" * (len(body) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _listener(kind: int, address: str) -> socket.socket:
    sock = socket.socket(kind, socket.SOCK_STREAM)
    if kind == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    sock.bind((address, 0))
    sock.listen(64)
    return sock


def _text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
