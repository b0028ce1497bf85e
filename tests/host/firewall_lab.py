"""A host, a network of ours on it built with plain `ip`, and guests: for the firewall tests."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from arcbox_net.addresses import bridge_mac
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import (
    GATEWAY_LINK_LOCAL,
    Dnat,
    FirewallPlan,
    HostAccessRedirect,
    PortPlan,
    bridge_ifname,
    port_ifname,
)
from tests.support.netns import Host, Namespace

REFUSED_S = 0.4  # how long silence must last to be taken for a drop; every such test has a positive control
ANSWER_S = 30.0
REPEAT_S = 1.0  # a datagram may be lost, so that one is sent again
ETH_P_ALL = 3
BROADCAST = "ff:ff:ff:ff:ff:ff"
_marks = itertools.count(1)


def apply_anew(firewall: Firewall, **changes: object) -> None:
    """What is applied now, once more, with *changes* of the plan's fields."""
    assert firewall.plan is not None
    firewall.apply(dataclasses.replace(firewall.plan, **changes))  # type: ignore[arg-type]


@dataclasses.dataclass
class Guest:
    """A guest in a namespace of its own: `ns`, its port's plan and its one address."""

    ns: Namespace
    plan: PortPlan
    ip: IPv4Address
    ip6: IPv6Address | None = None

    @property
    def mac(self) -> str:
        return self.plan.mac


class Lab:
    """Network *name* of *host*: bridge, firewall and guests. `plan` values go to FirewallPlan."""

    def __init__(
        self, host: Host, name: str = "lab", subnet: str = "192.168.64.0/24", **plan: object
    ) -> None:
        self.host = host
        self.name = name
        self.bridge = bridge_ifname(name)
        self.subnet = IPv4Network(subnet)
        self.gateway = self.subnet.network_address + 1
        self.firewall = Firewall(name)
        values = {"masquerade": True, "dhcp": True, "dns": True, **plan}
        self.plan = FirewallPlan(name, self.bridge, self.subnet, self.gateway, **values)  # type: ignore[arg-type]
        host.call(lambda: self.firewall.apply(self.plan))
        host.run(f"ip link add {self.bridge} address {bridge_mac(name)} type bridge")
        host.run(f"ip addr add {self.gateway}/{self.subnet.prefixlen} dev {self.bridge}")
        host.run(f"ip link set {self.bridge} up")
        host.sysctl("net.ipv4.ip_forward", 1)
        if self.plan.gateway6 is not None:
            host.run(f"ip -6 addr add {self.plan.gateway6}/64 dev {self.bridge} nodad")
            host.run(f"ip -6 addr add {GATEWAY_LINK_LOCAL} dev {self.bridge} nodad")
            host.sysctl("net.ipv6.conf.all.forwarding", 1)
        self._index = itertools.count()

    def guest(self, *, ips: int = 1, anti_spoof: bool = True, speaks_ipv6: bool = True) -> Guest:
        index = next(self._index)
        ip = self.subnet.network_address + 2 + index
        ns = self.host.namespace(f"{self.name}-guest{index}")
        if not speaks_ipv6:
            ns.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        plan = PortPlan(
            network=self.name,
            port=f"vm{index}",
            ifname=port_ifname(self.name, index),
            bridge=self.bridge,
            mac=f"02:00:00:00:{int(self.gateway) >> 8 & 0xFF:02x}:{index + 1:02x}",
            mtu=1500,
            ips=(ip,) if ips else (),
            anti_spoof=anti_spoof,
        )
        self.host.call(lambda: self.firewall.add_port(plan))
        self.host.run(f"ip link add {plan.ifname} type veth peer name eth0 netns {ns.name}")
        self.host.run(f"ip link set {plan.ifname} master {self.bridge} up")
        ns.run(f"ip link set eth0 address {plan.mac} up")
        ns.run(f"ip addr add {ip}/{self.subnet.prefixlen} dev eth0")
        ns.run(f"ip route add default via {self.gateway}")
        if self.plan.subnet6 is None or self.plan.gateway6 is None or not speaks_ipv6:
            return Guest(ns, plan, ip)
        ip6 = self.plan.subnet6[0x100 + index]
        ns.run(f"ip -6 addr add {ip6}/64 dev eth0 nodad")
        ns.run(f"ip -6 route add default via {GATEWAY_LINK_LOCAL.ip} dev eth0")
        return Guest(ns, plan, ip, ip6)

    def forward(self, *dnats: Dnat) -> None:
        self.host.call(lambda: self.firewall.add_dnats(dnats))

    def unforward(self, *dnats: Dnat) -> None:
        self.host.call(lambda: self.firewall.remove_dnats(dnats))

    def redirect(self, *redirects: HostAccessRedirect) -> None:
        self.host.call(lambda: self.firewall.add_redirects(redirects))

    def close(self) -> None:
        self.host.call(self.firewall.remove)

    def drops(self, reason: str) -> int:
        """Packets dropped for the reasons that start so."""
        counts = self.host.call(self.firewall.drops)
        return sum(count for comment, count in counts.items() if comment.startswith(reason))


@contextlib.contextmanager
def server(ns: Namespace, port: int, protocol: str = "tcp", address: str = "0.0.0.0") -> Iterator[None]:
    """Answers every client in *ns* with the address and port that it sees as the client's."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

    def bound() -> socket.socket:
        sock = socket.socket(family(address), kind)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen(64)
        return sock

    listener = ns.call(bound)
    ending, wake = socket.socketpair()

    def serve() -> None:
        while True:
            ready, _, _ = select.select([listener, ending], [], [])
            if ending in ready:
                return
            if protocol == "tcp":
                connection, peer = listener.accept()
                with connection:
                    connection.sendall(f"{peer[0]} {peer[1]}".encode())
            else:
                _, peer = listener.recvfrom(2048)
                with contextlib.suppress(OSError):
                    listener.sendto(f"{peer[0]} {peer[1]}".encode(), peer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        wake.close()
        thread.join()
        ending.close()
        listener.close()


def family(address: object) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in str(address) else socket.AF_INET


def client(
    ns: Namespace,
    protocol: str = "tcp",
    source: tuple[str, int] | None = None,
    *,
    to: object = "0.0.0.0",
) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = ns.call(lambda: socket.socket(family(to), kind))
    if source is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(source)
    return sock


def ask(
    ns: Namespace,
    address: object,
    port: int,
    protocol: str = "tcp",
    *,
    source: tuple[str, int] | None = None,
    timeout: float = ANSWER_S,
) -> str | None:
    """Who `server` at *address* says that we are (`address port`); None when there is no answer."""
    with client(ns, protocol, source, to=address) as sock:
        return ask_on(sock, address, port, timeout=timeout)


def ask_on(sock: socket.socket, address: object, port: int, *, timeout: float = ANSWER_S) -> str | None:
    try:
        sock.settimeout(timeout)
        sock.connect((str(address), port))
        if sock.type == socket.SOCK_STREAM:
            return sock.recv(100).decode() or None
        for left in seconds_left(timeout):
            sock.settimeout(min(left, REPEAT_S))
            with contextlib.suppress(TimeoutError):
                sock.send(b"?")
                return sock.recv(100).decode() or None
    except OSError:
        pass
    return None


def seconds_left(timeout: float) -> Iterator[float]:
    """What is left of *timeout*, as long as something is."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        yield left


def silent(ns: Namespace, address: object, port: int, protocol: str = "tcp") -> bool:
    """Whether nobody answers at all: neither data nor a refusal."""
    with client(ns, protocol, to=address) as sock:
        sock.settimeout(REFUSED_S)
        try:
            sock.connect((str(address), port))
            if protocol == "udp":
                sock.send(b"?")
                sock.recv(100)
        except TimeoutError:
            return True
        except OSError:
            return False
    return False


def ping(ns: Namespace, address: object, timeout: float = ANSWER_S) -> bool:
    """Whether *address* answers an echo request, which is repeated."""
    sock = ns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    with sock, contextlib.suppress(OSError):
        return any(_echoed(sock, str(address), min(left, REPEAT_S)) for left in seconds_left(timeout))
    return False


def _echoed(sock: socket.socket, address: str, timeout: float) -> bool:
    number = next(_marks)
    sock.sendto(icmp_echo(number), (address, 0))
    with contextlib.suppress(TimeoutError):
        for left in seconds_left(timeout):
            sock.settimeout(left)
            packet, peer = sock.recvfrom(2048)
            if packet[20:21] == b"\0" and packet[24:28] == struct.pack("!HH", 7, number):
                return peer[0] == address
    return False


@contextlib.contextmanager
def bridge_netfilter_off(host: Host) -> Iterator[None]:
    """Where br_netfilter is loaded, bridged frames pass by the hooks of IP for as long as this lasts."""
    names = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
    try:
        before = {name: host.sysctl(name) for name in names}
    except FileNotFoundError:
        yield
        return
    try:
        for name in names:
            host.sysctl(name, 0)
        yield
    finally:
        for name, value in before.items():
            host.sysctl(name, value)


# -- frames


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(dst: str, src: str, kind: int, payload: bytes) -> bytes:
    return (mac(dst) + mac(src) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def checksum(body: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(body) + 1) // 2}H", body + b"\0" * (len(body) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp_echo(number: int) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 7, number) + b"arcbox"
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def ipv4(src: object, dst: object, protocol: int, payload: bytes, *, ttl: int = 64) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, ttl, protocol, 0)
    head += IPv4Address(str(src)).packed + IPv4Address(str(dst)).packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(src_port: int, dst_port: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", src_port, dst_port, 8 + len(payload), 0) + payload  # 0: no checksum (RFC 768)


def arp(operation: int, src_mac: str, src_ip: object, dst_ip: object, *, head: bytes | None = None) -> bytes:
    fixed = head if head is not None else struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    addresses = mac(src_mac) + IPv4Address(str(src_ip)).packed + b"\0" * 6 + IPv4Address(str(dst_ip)).packed
    return fixed + addresses


def ipv6(
    next_header: int, payload: bytes, *, src: str = "fe80::1", dst: str = "ff02::1", hops: int = 255
) -> bytes:
    source, destination = (socket.inet_pton(socket.AF_INET6, text) for text in (src, dst))
    return struct.pack("!LHBB", 6 << 28, len(payload), next_header, hops) + source + destination + payload


def icmpv6(kind: int, size: int = 16) -> bytes:
    return bytes([kind, 0, 0, 0]) + b"\0" * size


def neighbour_discovery(kind: int, target: str) -> bytes:
    """A solicitation (135) or advertisement (136) of *target*, without options."""
    return icmpv6(kind, 4)[:8] + socket.inet_pton(socket.AF_INET6, target)


def arrives(sender: Guest, frame: bytes, receiver: Guest, *, timeout: float = ANSWER_S) -> bool:
    """Whether *frame*, sent by *sender* as it is, reaches the device of *receiver*.

    An honest frame is sent after it: when that one has arrived and *frame* has not, it never will.
    """
    mark = b"mark %d" % next(_marks)
    honest = ipv4(sender.ip, receiver.ip, 17, udp(9, 9, mark))
    tap = receiver.ns.call(_packet_socket)
    out = sender.ns.call(_packet_socket)
    try:
        out.send(frame)
        out.send(ethernet(receiver.mac, sender.mac, 0x0800, honest))
        tap.settimeout(timeout)
        found = False
        while True:
            seen, where = tap.recvfrom(2048)
            if where[2] == socket.PACKET_OUTGOING:
                continue
            if mark in seen:
                return found
            found = found or seen.ljust(60, b"\0")[:60] == frame[:60] or _without_vlan(frame) == seen[:60]
    finally:
        tap.close()
        out.close()


def send(sender: Guest, *frames: bytes) -> None:
    with contextlib.closing(sender.ns.call(_packet_socket)) as out:
        for frame in frames:
            out.send(frame)


def send_raw(sender: Guest, network: Lab, address: str, port: int, payload: bytes) -> None:
    """A datagram to *address* handed to the gateway as a frame, whatever the guest's routes say."""
    gateway = str(network.host.links()[network.bridge]["address"])
    send(sender, ethernet(gateway, sender.mac, 0x0800, ipv4(sender.ip, address, 17, udp(9, port, payload))))


def _without_vlan(frame: bytes) -> bytes | None:
    """How a packet socket shows a tagged frame: the tag is in its auxiliary data."""
    return (frame[:12] + frame[16:])[:60] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else None


def _packet_socket() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind(("eth0", 0))
    return sock
