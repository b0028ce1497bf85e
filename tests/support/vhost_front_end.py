"""A vhost-user front end in Python at a port's socket, for tests.ports.vhost_user.guest.Guest as its guest.

As a program it is a guest that floods: `python -m tests.support.vhost_front_end SOCKET MAC IP GATEWAY_MAC`, until its
standard input ends.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from arcbox_net.ports.vhost_user import messages, port_messages
from arcbox_net.ports.vhost_user.messages import NEED_REPLY, VERSION, Request
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from tests.ports.vhost_user.guest import USUAL, Guest
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.vhost_user import number_in, one_region, packed, state, u64
from tests.support.virtqueue import HEADER

GATEWAY = "192.168.64.1"
BUFFER_BYTES = 2048
ECHO_ID = 7
TURNS_BETWEEN_LOOKS = 100
REPLY_BYTES = messages.HEADER.size + messages.U64.size


class PortAtSocket:
    """A vhost-user port, asked by its session to do what a session's messages to it would."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))

    def message(self, kind: int, payload: bytes = b"") -> int:
        if kind == PortMessage.FEATURES:
            self._ask(Request.SET_FEATURES, payload)
        elif kind == PortMessage.MEMORY_ADD:
            gpa, size, user, offset, fd = port_messages.REGION.unpack(payload)
            self._ask(Request.ADD_MEM_REG, one_region((gpa, size, user, offset)), os.dup(fd))
        elif kind == PortMessage.RING_START:
            self._start(*port_messages.RING_START.unpack(payload))
        elif kind == PortMessage.RESET:
            self.socket.close()
        else:
            raise AssertionError(f"no request does {PortMessage(kind).name}")
        return 0

    def _start(
        self, index: int, size: int, descriptors: int, available: int, used: int, base: int, *fds: int
    ) -> None:
        _, kick, call = fds
        self._ask(Request.SET_VRING_NUM, state(index, size))
        self._ask(Request.SET_VRING_BASE, state(index, base))
        ring = messages.RING_ADDRESSES.pack(index, 0, descriptors, used, available, 0)
        self._ask(Request.SET_VRING_ADDR, ring)
        self._ask(Request.SET_VRING_CALL, u64(index), call)
        self._ask(Request.SET_VRING_KICK, u64(index), kick)

    def _ask(self, request: Request, payload: bytes, *fds: int) -> None:
        socket.send_fds(self.socket, [packed(request, payload, VERSION | NEED_REPLY)], fds)
        for fd in fds:
            os.close(fd)
        assert number_in(self.socket.recv(REPLY_BYTES)) == 0, request.name


class PythonGuest(Guest):
    """A guest of a running network, which was told its address. Its receive buffers are offered again and again."""

    def __init__(self, path: Path, *, mac: str, ip: str, gateway_mac: str) -> None:
        super().__init__(USUAL, port=PortAtSocket(path))
        self.mac, self.ip, self.gateway_mac = mac, ip, gateway_mac
        self.to_gateway = Ether(src=mac, dst=gateway_mac)
        self.to_all = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")

    def listen(self) -> None:
        """Take frames from now on."""
        self.supply(*[BUFFER_BYTES] * self.rings[0].size)

    def send(self, *frames: Packet) -> None:
        for one in frames:
            self.transmit(bytes(one))
        os.eventfd_write(self.kicks[1], 1)

    def frames(self) -> list[Ether]:
        """What came since the last call."""
        ring = self.rings[0]
        found = []
        for head, size in ring.finished():
            found.append(Ether(self.content(ring, head, size)[HEADER.size :]))
            ring.offer(head)
        return found

    def announce(self) -> None:
        self.send(self.to_all / ARP(hwsrc=self.mac, psrc=self.ip, pdst=GATEWAY))

    def ping(self, number: int) -> None:
        """Ask until the gateway has answered."""

        def answered() -> bool:
            self.announce()  # in place of an answer to whoever asks for its MAC
            self.send(self.to_gateway / IP(src=self.ip, dst=GATEWAY) / ICMP(id=ECHO_ID, seq=number))
            return any(_is_answer(one, number) for one in self.frames())

        wait_until(answered)

    def flood(self) -> None:
        """Send what fills tables and queues, as fast as it is taken, until standard input ends."""
        ring = self.rings[1]
        for one in self._nuisances(ring.size):
            self.transmit(bytes(one)[: 1 if one is self.to_all else None])
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(TURNS_BETWEEN_LOOKS):
                os.eventfd_write(self.kicks[1], 1)
                while ring.used_index != ring.index:
                    pass
                ring.set_index((ring.index + ring.size) & 0xFFFF)

    def _nuisances(self, count: int) -> list[Packet]:
        ip = self.to_gateway / IP(src=self.ip, dst=GATEWAY)
        away = self.to_gateway / IP(src=self.ip, dst="203.0.113.200")
        made: list[Packet] = []
        while len(made) < count:
            number = len(made)
            made += [
                away / TCP(sport=1000 + number, dport=80, flags="S"),
                away / UDP(sport=1000 + number, dport=1000 + number) / Raw(bytes(32)),
                ip / UDP(sport=1000 + number, dport=53) / DNS(qd=DNSQR(qname=f"n{number}.test")),
                self.to_all
                / IP(src="0.0.0.0", dst="255.255.255.255")
                / UDP(sport=68, dport=67)
                / BOOTP(chaddr=bytes.fromhex(self.mac.replace(":", "")), xid=number)
                / DHCP(options=[("message-type", "discover"), "end"]),
                self.to_all / ARP(hwsrc=self.mac, psrc=self.ip, pdst=f"192.168.64.{100 + number}"),
                self.to_gateway
                / IP(src=self.ip, dst="203.0.113.200", flags="MF", id=number)
                / Raw(bytes(64)),
                self.to_all,
            ]
        return made[:count]


def _is_answer(frame: Packet, number: int) -> bool:
    return ICMP in frame and (frame[ICMP].type, frame[ICMP].id, frame[ICMP].seq) == (0, ECHO_ID, number)


if __name__ == "__main__":
    path, mac, ip, gateway_mac = sys.argv[1:]
    PythonGuest(Path(path), mac=mac, ip=ip, gateway_mac=gateway_mac).flood()
