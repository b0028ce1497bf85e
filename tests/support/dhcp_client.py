"""A DHCP client that is many clients: raw frames with any MAC, to fill pools and be cut off anywhere."""

from __future__ import annotations

import random
import socket
import struct
import time
from ipaddress import IPv4Address

from tests.support.netns import Namespace

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
ETH_P_ALL = 3
COOKIE = b"\x63\x82\x53\x63"


class ManyClients:
    """Clients behind one interface of *guest*, told apart by their MACs."""

    def __init__(self, guest: Namespace, rng: random.Random, ifname: str = "eth0") -> None:
        self._rng = rng

        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind((ifname, 0))
            return made

        self._socket = guest.call(opened)

    def acquire(self, mac: bytes, *, timeout: float = 2.0) -> IPv4Address | None:
        """The address that *mac* was acknowledged, None when no ACK came in time."""
        deadline = time.monotonic() + timeout
        xid = self._rng.randbytes(4)
        if not self._send(_message(DISCOVER, mac, xid)):
            return None
        offer = self._receive(xid, OFFER, deadline)
        if offer is None:
            return None
        address, server = offer
        wanted = b"\x32\x04" + address.packed + b"\x36\x04" + server
        if not self._send(_message(REQUEST, mac, xid, wanted)):
            return None
        answer = self._receive(xid, ACK, deadline)
        return answer[0] if answer else None

    def close(self) -> None:
        self._socket.close()

    def _send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame)
        except OSError:
            return False
        return True

    def _receive(self, xid: bytes, kind: int, deadline: float) -> tuple[IPv4Address, bytes] | None:
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(2048)
            except OSError:
                return None
            if len(frame) < 14 + 28 + 240 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
                continue
            message = frame[14 + 4 * (frame[14] & 15) + 8 :]
            if message[0] != 2 or message[4:8] != xid:
                continue
            options = _options(message)
            if options.get(53) == bytes([kind]):
                return IPv4Address(message[16:20]), options.get(54, b"\0\0\0\0")
            if options.get(53) == bytes([NAK]):
                return None
        return None


def _message(kind: int, mac: bytes, xid: bytes, options: bytes = b"") -> bytes:
    """A broadcast frame with a DHCP message; the reply may be broadcast too."""
    body = struct.pack("!BBBB4sHH16s6s10s192x4s", 1, 1, 6, 0, xid, 0, 0x8000, b"", mac, b"", COOKIE)
    body += b"\x35\x01" + bytes([kind]) + options + b"\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\0" * 4, b"\xff" * 4)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + header + udp


def _options(message: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while at + 1 < len(message) and message[at] != 255:
        if message[at] == 0:
            at += 1
            continue
        size = message[at + 1]
        found[message[at]] = message[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def _checksum(header: bytes) -> int:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
