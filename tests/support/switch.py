"""A switch among ports that are lists, and the frames that its guests send."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.switch import Switch

NO_OFFLOAD = bytes(12)
BROADCAST = "ff:ff:ff:ff:ff:ff"
GATEWAY_MAC = "02:00:00:00:00:fe"
GATEWAY = "192.168.64.1"
SUBNET6 = IPv6Network("fd00:64::/64")
GATEWAYS6 = (IPv6Address("fe80::1"), IPv6Address("fd00:64::1"))
UPLINK = 3  # the port number: guests have 0 to 2


def mac_of(number: int) -> str:
    return f"02:00:00:00:00:{number + 0x10:02x}"


def ip_of(number: int) -> str:
    return f"192.168.64.{number + 10}"


def ip6_of(number: int) -> str:
    return f"fd00:64::{number + 10:x}"


def link_local_of(number: int) -> str:
    return f"fe80::ff:fe00:{number + 0x10:x}"


def network() -> SwitchNetwork:
    return SwitchNetwork(subnet6=SUBNET6, gateways6=GATEWAYS6, subnet=IPv4Network("192.168.64.0/24"))


def guest(number: int, *, isolated: bool = False) -> PortBinding:
    return PortBinding(mac=mac_of(number), ipv4=(IPv4Address(ip_of(number)),), isolated=isolated)


class Segment:
    """Guests on ports 0 to 2, an uplink on port 3."""

    def __init__(self, *, guests: Iterable[PortBinding] | None = None, frame_max: int = 1514) -> None:
        self.switch = Switch()
        self.lab = Lab(self.switch, 4, frame_max=frame_max)
        bindings = list(guests) if guests is not None else [guest(i) for i in range(3)]
        for number, binding in enumerate(bindings):
            self.bind(number, binding)
        self.bind(UPLINK, PortBinding("uplink", mac=GATEWAY_MAC))
        self.switch.set_network(self.lab, UPLINK, network())

    def bind(self, number: int, binding: PortBinding) -> None:
        self.switch.bind(self.lab, number, binding)

    def send(
        self, number: int, *frames: Packet | bytes, offload: bytes = NO_OFFLOAD
    ) -> dict[int, list[bytes]]:
        """What each port is given of these frames, without virtio-net headers."""
        found = self.lab.rx(number, [offload + bytes(frame) for frame in frames])
        return {port: [one[len(NO_OFFLOAD) :] for one in given] for port, given in found.items()}

    def reaches(self, number: int, frame: Packet | bytes) -> set[int]:
        """The ports that the frame gets to, unchanged."""
        found = self.send(number, frame)
        assert all(given == [bytes(frame)] for given in found.values())
        return set(found)

    def reason(self, number: int, frame: Packet | bytes) -> str:
        """Why the frame is dropped: the one counter of its port that goes up."""
        before = self.lab.drops(number)
        assert self.send(number, frame) == {}
        after = self.lab.drops(number)
        (reason,) = [name for name in after if after[name] != before.get(name, 0)]
        assert after[reason] == before.get(reason, 0) + 1
        return reason


def ether(source: int, destination: int | str, **fields: object) -> Packet:
    to = destination if isinstance(destination, str) else mac_of(destination)
    return Ether(**({"src": mac_of(source), "dst": to} | fields))


def tcp4(source: int, destination: int, *, size: int = 0) -> Packet:
    return (
        ether(source, destination)
        / IP(src=ip_of(source), dst=ip_of(destination))
        / TCP(sport=1024, dport=80)
        / Raw(bytes(size))
    )


def udp6(source: int, destination: int, *, src: str | None = None) -> Packet:
    return (
        ether(source, destination)
        / IPv6(src=src or ip6_of(source), dst=ip6_of(destination))
        / UDP(sport=1024, dport=53)
    )


def arp(source: int, target_ip: str, **fields: object) -> Packet:
    sender = {"hwsrc": mac_of(source), "psrc": ip_of(source), "pdst": target_ip}
    return ether(source, BROADCAST) / ARP(**(sender | fields))


def dhcp(source: int, message: str, *, sport: int = 68, dport: int = 67, **ip: object) -> Packet:
    addresses = {"src": "0.0.0.0", "dst": "255.255.255.255"} | ip
    return (
        ether(source, BROADCAST)
        / IP(**addresses)
        / UDP(sport=sport, dport=dport)
        / BOOTP(chaddr=bytes(16))
        / DHCP(options=[("message-type", message), "end"])
    )
