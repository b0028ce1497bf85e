"""What the kernel shall look like for one network: plain values that recipes build and `host` applies."""

from __future__ import annotations

import dataclasses
import hashlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

IFNAME_PREFIX = "abx-"
TXQUEUELEN = 10_000  # the default 500/1000 drops bursts of a guest that is slow to wake


@dataclasses.dataclass(frozen=True, slots=True)
class BridgePlan:
    """A bridge of ours. `gateway` None: no address (bridge mode)."""

    network: str
    ifname: str
    mtu: int
    mac: str
    gateway: IPv4Interface | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PortPlan:
    """What TAP and veth ports share. `ips` are the IPv4 sources the guest may use."""

    network: str
    port: str
    ifname: str
    bridge: str
    mac: str
    mtu: int
    ips: tuple[IPv4Address, ...] = ()
    isolated: bool = False
    anti_spoof: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class TapPlan(PortPlan):
    """`vnet_hdr` False: a client reads and writes plain frames. `offload`: it takes 64 KB segments and
    partial checksums (with `vnet_hdr` only). `multi_queue`: queues may be opened later, though there is one
    now.
    """

    queues: int = 1
    multi_queue: bool = False
    vnet_hdr: bool = True
    offload: bool = True
    persist: bool = False
    owner_uid: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class VethPlan(PortPlan):
    """`address`/`gateway` None: the guest configures itself (DHCP)."""

    guest_ifname: str = "eth0"
    address: IPv4Interface | None = None
    gateway: IPv4Address | None = None


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Dnat:
    """One host port sent to a guest by the kernel. `host_ip` None: any address of the host."""

    protocol: str
    host_ip: IPv4Address | None
    host_port: int
    guest_ip: IPv4Address
    guest_port: int


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class HostAccessRedirect:
    """Guests' packets to gateway:`host_port` go to our relay's listener gateway:`relay_port`."""

    protocol: str
    host_port: int
    relay_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class FirewallPlan:
    """The whole ruleset of one network. `masquerade` False and `subnet` set: host-only."""

    network: str
    bridge: str
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    masquerade: bool = False
    isolated: bool = False
    dhcp: bool = False
    dns: bool = False
    ports: tuple[PortPlan, ...] = ()
    dnats: tuple[Dnat, ...] = ()
    redirects: tuple[HostAccessRedirect, ...] = ()


def _digest(text: str, size: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:size]


def bridge_ifname(network: str) -> str:
    """At most 15 bytes: `abx-NAME`, or a prefix and a hash of a long name ('.' cannot occur in a network
    name).
    """
    return f"abx-{network}" if len(network) <= 11 else f"abx-{network[:4]}.{_digest(network, 6)}"


def port_ifname(network: str, index: int) -> str:
    """`abx-HHHHH_N`; '_' cannot occur in a network name, so it never equals a bridge's."""
    return f"{port_prefix(network)}{index}"


def port_prefix(network: str) -> str:
    return f"{IFNAME_PREFIX}{_digest(network, 5)}_"


def alias(network: str, port: str | None = None) -> str:
    """The ifalias by which reconcile knows a link as ours."""
    return f"arcbox-net network={network}" + (f" port={port}" if port else "")


def parse_alias(text: str | None) -> tuple[str, str | None] | None:
    """`(network, port)` of an ifalias made by `alias`, None for anything else."""
    words = (text or "").split(" ")
    if len(words) not in (2, 3) or words[0] != "arcbox-net" or not words[1].startswith("network="):
        return None
    port = words[2].removeprefix("port=") if len(words) == 3 and words[2].startswith("port=") else None
    return words[1].removeprefix("network="), port


def table_name(network: str) -> str:
    """Name of the network's nftables tables (`inet` and `bridge`)."""
    return "abx_" + network.replace("-", "_")
