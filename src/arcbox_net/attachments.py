"""What a program gets for a guest that it attached: where the guest is, and what it was given."""

from __future__ import annotations

import dataclasses
import os
from ipaddress import IPv4Address

from arcbox_net.network.messages import PortInfo


@dataclasses.dataclass(slots=True)
class TapAttachment:
    """A guest's TAP. `fds` are its queues, this program's to close or to hand to a monitor; `fd` is the first.

    Frames carry a 12-byte virtio-net header (IFF_VNET_HDR). The port is detached when its last fd is closed.
    """

    port: str
    ifname: str
    mac: str
    ip: IPv4Address | None
    mtu: int
    fds: list[int]

    @classmethod
    def of(cls, port: PortInfo, fds: list[int]) -> TapAttachment:
        return cls(port.name, port.ifname, port.mac, _address(port), port.mtu, fds)

    @property
    def fd(self) -> int:
        return self.fds[0]

    def close(self) -> None:
        """Close the fds that are still this program's."""
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self) -> TapAttachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class NetnsAttachment:
    """A guest that is a network namespace: `ifname` is its device inside, `host_ifname` the bridge's end."""

    port: str
    ifname: str
    host_ifname: str
    mac: str
    ip: IPv4Address | None
    mtu: int

    @classmethod
    def of(cls, port: PortInfo, ifname: str) -> NetnsAttachment:
        return cls(port.name, ifname, port.ifname, port.mac, _address(port), port.mtu)


@dataclasses.dataclass(frozen=True, slots=True)
class SocketAttachment:
    """A guest at a unix socket. `connects`: its monitor listens at `socket`, and the network connects there."""

    port: str
    kind: str
    socket: str
    connects: bool
    mac: str
    ip: IPv4Address | None
    mtu: int
    queues: int

    @classmethod
    def of(cls, port: PortInfo, socket: str) -> SocketAttachment:
        return cls(
            port.name, port.kind, socket, port.connects, port.mac, _address(port), port.mtu, port.queues
        )


def _address(port: PortInfo) -> IPv4Address | None:
    return IPv4Address(port.ip) if port.ip else None
