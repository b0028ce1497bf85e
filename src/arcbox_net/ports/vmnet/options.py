"""What a vmnet interface or network is to be, what the system made of it, and its forwarding rules. Plain values."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import uuid
from typing import NamedTuple

from arcbox_net.errors import ConfigError

MTU_MIN, MTU_MAX = 1280, 9000
SUBNET_BITS_MAX = 30  # the host, one guest, and the two that no one has


class VmnetMode(enum.IntEnum):
    """`operating_modes_t`."""

    HOST = 1000
    SHARED = 1001
    BRIDGED = 1002


@dataclasses.dataclass(frozen=True, slots=True)
class VmnetOptions:
    """One interface, or the network that interfaces share. What is None or 0 is left to the system.

    *subnet*'s first address is the host's; those behind it, up to *dhcp_last* or the last but one, are what the
    system's DHCP server gives (host and shared mode).
    *shared_interface* is what bridged mode bridges. *interface_id* gets the same MAC address each time;
    *network_identifier* joins host-mode interfaces. *offloads*: super-frames and unfinished checksums, from macOS 15.4.
    *checksums*: packets come without those of TCP and UDP, and nothing tells which (from macOS 12, and not with
    *offloads*): for a program that knows what to do with them, and not for a `VmnetPort`. Raises ConfigError.
    """

    mode: VmnetMode
    subnet: ipaddress.IPv4Network | None = None
    dhcp_last: ipaddress.IPv4Address | None = None
    nat66_prefix: ipaddress.IPv6Network | None = None
    mtu: int = 0
    isolated: bool = False
    offloads: bool = True
    checksums: bool = False
    interface_id: uuid.UUID | None = None
    network_identifier: uuid.UUID | None = None
    shared_interface: str = ""

    def __post_init__(self) -> None:
        if self.mtu and not MTU_MIN <= self.mtu <= MTU_MAX:
            raise ConfigError(f"vmnet's MTU is {MTU_MIN} to {MTU_MAX}", field="mtu", value=self.mtu)
        if (self.mode is VmnetMode.BRIDGED) != bool(self.shared_interface):
            raise ConfigError(
                "an interface to bridge, in bridged mode only",
                fix="arcbox-net doctor lists those that can be bridged",
                field="shared_interface",
                value=self.shared_interface,
            )
        if self.subnet is not None:
            if self.mode is VmnetMode.BRIDGED:
                raise ConfigError("a bridged network has no subnet", field="subnet", value=str(self.subnet))
            if not any(map(self.subnet.subnet_of, _PRIVATE)) or self.subnet.prefixlen > SUBNET_BITS_MAX:
                raise ConfigError(
                    f"vmnet takes subnets of 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16, up to /{SUBNET_BITS_MAX}",
                    field="subnet",
                    value=str(self.subnet),
                )
        if self.nat66_prefix is not None and (
            self.mode is not VmnetMode.SHARED
            or self.nat66_prefix.prefixlen != 64
            or not self.nat66_prefix.subnet_of(_ULA)
        ):
            raise ConfigError(
                "a unique local prefix of 64 bits, in shared mode", field="ipv6", value=str(self.nat66_prefix)
            )
        if self.checksums and self.offloads:
            raise ConfigError("either offloads or checksums alone", field="checksums", value=True)
        if self.network_identifier is not None and self.mode is not VmnetMode.HOST:
            raise ConfigError(
                "host mode only", field="network_identifier", value=str(self.network_identifier)
            )

    def texts(self) -> dict[str, str]:
        """What the framework takes as text, by the names that vmnet_shim.h has for it."""
        found = {"shared_interface": self.shared_interface}
        if self.subnet is not None:
            found |= {
                "start_address": str(self.subnet[1]),
                "end_address": str(self.dhcp_last or self.subnet[-2]),
                "subnet_mask": str(self.subnet.netmask),
            }
        if self.nat66_prefix is not None:
            found["nat66_prefix"] = str(self.nat66_prefix.network_address)
        if self.interface_id is not None:
            found["interface_id"] = str(self.interface_id)
        if self.network_identifier is not None:
            found["network_identifier"] = str(self.network_identifier)
        return found


_PRIVATE = [*map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))]  # RFC 1918
_ULA = ipaddress.IPv6Network("fd00::/8")


class VmnetFacts(NamedTuple):
    """What the system made of it; None, 0 or "" is what it did not say.

    *gateway* is the host's address with the network's length, *mac* what the guest is to use if it asks for one.
    """

    mac: str
    mtu: int
    max_packet_bytes: int
    read_max_packets: int
    write_max_packets: int
    virtio_headers: bool
    tso: bool
    checksums: bool
    gateway: ipaddress.IPv4Interface | None
    end_address: ipaddress.IPv4Address | None
    nat66_prefix: ipaddress.IPv6Network | None
    interface_id: uuid.UUID | None


class VmnetForward(NamedTuple):
    """*external_port* of the host goes to *internal_port* of *internal_address*; *protocol* is tcp or udp."""

    protocol: str
    external_port: int
    internal_address: ipaddress.IPv4Address | ipaddress.IPv6Address
    internal_port: int


class VmnetReservation(NamedTuple):
    """The system's DHCP server gives *address* to *mac* (macOS 26)."""

    mac: str
    address: ipaddress.IPv4Address


def facts_of(numbers: dict[str, int], texts: dict[str, str]) -> VmnetFacts:
    """The facts of an interface from what the shim copied out. Raises ValueError for text that is none of the kind."""
    first, mask, end = texts["start_address"], texts["subnet_mask"], texts["end_address"]
    prefix, identifier = texts["nat66_prefix"], texts["interface_id"]
    return VmnetFacts(
        mac=texts["mac"].lower(),
        mtu=numbers["mtu"],
        max_packet_bytes=numbers["max_packet_bytes"],
        read_max_packets=numbers["read_max_packets"],
        write_max_packets=numbers["write_max_packets"],
        virtio_headers=bool(numbers["virtio_headers"]),
        tso=bool(numbers["tso"]),
        checksums=bool(numbers["checksums"]),
        gateway=ipaddress.IPv4Interface(f"{first}/{mask}") if first and mask else None,
        end_address=ipaddress.IPv4Address(end) if end else None,
        nat66_prefix=ipaddress.IPv6Network(f"{prefix.split('/')[0]}/64") if prefix else None,
        interface_id=uuid.UUID(identifier) if identifier else None,
    )
