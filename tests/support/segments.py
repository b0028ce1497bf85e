"""TCP segments that no socket would send, put onto a guest's link; and what comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.support.echo import wait_for_echo
from tests.support.netns import PATIENCE_S, Namespace

FIN, SYN, RST, ACK = 1, 2, 4, 16
ETH_P_ALL = 3
ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment; *options* are whole words, as they are in the header."""

    src: str
    src_port: int
    dst: str
    dst_port: int
    flags: int
    seq: int = 1000
    ack: int = 0
    window: int = 64_000
    options: bytes = b""
    payload: bytes = b""


def send(guest: Namespace, gateway_mac: str, segment: Segment) -> None:
    """Put *segment* on the guest's eth0, towards its gateway."""
    exchange(guest, gateway_mac, segment, lambda answer: False, timeout=0)


def exchange(
    guest: Namespace,
    gateway_mac: str,
    segment: Segment,
    wanted: Callable[[Segment], bool],
    *,
    timeout: float = PATIENCE_S,
) -> Segment | None:
    """The first segment for which *wanted* holds that arrives after *segment* was sent; None: there is none."""

    def talk() -> Segment | None:
        with link_of("eth0") as link:
            own = link.getsockname()[4]
            link.send(bytes.fromhex(gateway_mac.replace(":", "")) + own + packet(segment))
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                link.settimeout(left)
                try:
                    answer = parsed(link.recv(65536))
                except TimeoutError:
                    return None
                if answer is not None and wanted(answer):
                    return answer
            return None

    return guest.call(talk)


def link_of(interface: str) -> socket.socket:
    """All frames of *interface*, which the calling thread's namespace has."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    link.bind((interface, ETH_P_ALL))
    return link


def gateway_mac(guest: Namespace, gateway: str) -> str:
    """The MAC that *guest* found for its gateway."""
    wait_for_echo(guest, gateway)
    return str(guest.json(f"ip -j neigh show {gateway}")[0]["lladdr"])


@contextlib.contextmanager
def by_hand(guest: Namespace, l4_port: int, gateway: str) -> Iterator[str]:
    """Segments of *l4_port* are the test's: the guest's kernel, which knows no such connection, resets none.
    Yields the gateway's MAC.
    """
    guest.run(["nft", "add table ip t; add chain ip t out { type filter hook output priority 0; }"])
    guest.run(["nft", f"add rule ip t out tcp sport {l4_port} tcp flags rst drop"])
    try:
        yield gateway_mac(guest, gateway)
    finally:
        guest.run("nft delete table ip t")


def packet(segment: Segment) -> bytes:
    """EtherType, IP packet and all of *segment*."""
    src, dst = ip_address(segment.src), ip_address(segment.dst)
    tcp = bytearray(
        struct.pack(
            "!HHIIBBHHH",
            *(segment.src_port, segment.dst_port, segment.seq, segment.ack),
            *((5 + len(segment.options) // 4) << 4, segment.flags, segment.window, 0, 0),
        )
    )
    tcp += segment.options + segment.payload
    pseudo = src.packed + dst.packed + struct.pack("!II", len(tcp), socket.IPPROTO_TCP)
    tcp[16:18] = checksum(pseudo + tcp)
    if isinstance(src, IPv4Address):
        ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, socket.IPPROTO_TCP, 0))
        ip += src.packed + dst.packed
        ip[10:12] = checksum(ip)
    else:
        ip = bytearray(struct.pack("!IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, 64))
        ip += src.packed + dst.packed
    return ETHERTYPE[src.version] + bytes(ip) + bytes(tcp)


def parsed(frame: bytes) -> Segment | None:
    """The TCP segment in an Ethernet frame, None for anything else."""
    body = frame[14:]
    if frame[12:14] == ETHERTYPE[4] and len(body) >= 40 and body[9] == socket.IPPROTO_TCP:
        src, dst = str(IPv4Address(body[12:16])), str(IPv4Address(body[16:20]))
        tcp = body[(body[0] & 15) * 4 : int.from_bytes(body[2:4])]  # what is behind it pads the frame
    elif frame[12:14] == ETHERTYPE[6] and len(body) >= 60 and body[6] == socket.IPPROTO_TCP:
        src, dst = str(IPv6Address(body[8:24])), str(IPv6Address(body[24:40]))
        tcp = body[40:]
    else:
        return None
    src_port, dst_port, seq, ack, data, flags, window = struct.unpack_from("!HHIIBBH", tcp)
    data = (data >> 4) * 4
    return Segment(src, src_port, dst, dst_port, flags, seq, ack, window, tcp[20:data], tcp[data:])


def checksum(body: bytes | bytearray) -> bytes:
    padded = bytes(body) + b"\0" * (len(body) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
