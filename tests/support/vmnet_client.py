"""A guest of a network of macOS that has a DHCP client and asks names, at its datagram socket."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from random import Random

from arcbox_net.addresses import parse_mac
from arcbox_net.attachments import SocketAttachment
from arcbox_net.services.dhcp.client import DhcpClient, LeaseOffer
from arcbox_net.services.udp_frames import Datagram, unwrap, wrap
from tests.oracle.dns import message, question
from tests.support.vmnet_network import DgramGuest

GATEWAY_MAC = bytes.fromhex("0200000000fe")  # whatever the guest was told by ARP
BROADCAST = 0xFFFFFFFF


class NetworkGuest:
    """The guest at *port*. `send` and `answer` are of datagrams; frames that are none of UDP are passed over."""

    def __init__(self, port: SocketAttachment, folder: Path, *, hostname: str | None = None) -> None:
        self.mac = parse_mac(port.mac)
        self.dgram = DgramGuest(port.socket, str(folder / f"{port.port}.own"))
        self.client = DhcpClient(self.mac, Random(1), hostname=hostname)
        self.ip = IPv4Address(0)

    def lease(self) -> LeaseOffer:
        """Ask for a lease and have its address."""
        say: bytes | None = self.client.discover()
        while self.client.lease is None:
            if say is not None:
                self.send(say, src_port=68, dst_port=67)
            say = self.client.receive(self.answer(68).payload)
        self.ip = self.client.lease.ip
        return self.client.lease

    def ask(
        self, name: str, qtype: str = "A", *, server: str = "192.168.64.1", **options: object
    ) -> list[str]:
        """The flags and records that answer."""
        self.send(
            question(name, qtype, **options), to=server, dst_mac=GATEWAY_MAC, src_port=5353, dst_port=53
        )
        answer = self.answer(5353)
        assert (answer.src_mac, answer.src_ip, answer.src_port) == (
            GATEWAY_MAC,
            int(IPv4Address(server)),
            53,
        )
        return message(answer.payload).to_text().splitlines()

    def send(
        self,
        payload: bytes,
        *,
        to: str | None = None,
        dst_mac: bytes = b"\xff" * 6,
        src_port: int,
        dst_port: int,
    ) -> None:
        target = int(IPv4Address(to)) if to else BROADCAST
        self.dgram.send(wrap(Datagram(self.mac, dst_mac, int(self.ip), target, src_port, dst_port, payload)))

    def answer(self, dst_port: int) -> Datagram:
        """The next datagram to that port, with checksums that are right."""
        while True:
            found = unwrap(self.dgram.receive(), dst_port=dst_port, verified=True)
            if found is not None:
                return found
