"""What the kernel shall look like for one network: plain values that recipes build and `host` applies."""

from __future__ import annotations

import dataclasses
import hashlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IFNAME_PREFIX = "abx-"
GATEWAY_LINK_LOCAL = IPv6Interface("fe80::1/64")  # whom guests have as their IPv6 router
ETHERNET_BYTES = 14  # of a frame, ahead of its packet
TUN_MTU = 65_520  # IPv4's largest packet, less what keeps it aligned
TUN_VNET_HDR_BYTES = 12  # struct virtio_net_hdr_v1 before each packet of a TUN or TAP
# Packet marks of relay egress: for a socket of the relay, and (plus the shard's index) for its TUN.
RELAY_MARK_LOCAL = 0x1
RELAY_MARK_DOOR = 0x100
# What a veth takes as one frame of IPv4 TCP (BIG TCP); 65,536 is what other devices take, a TAP among them.
LARGE_FRAME_BYTES = 131_072
UPLINK = "@uplink"  # the switch's in the place of a port's name, which has no such sign
ROUTER = "@router"  # likewise, of the NAT engine's leg on the bridge
TXQUEUELEN = 10_000  # the default 500/1000 drops bursts of a guest that is slow to wake


@dataclasses.dataclass(frozen=True, slots=True)
class BridgePlan:
    """A bridge of ours. `gateway` None: no address (bridge mode). With `gateway6` it also has
    GATEWAY_LINK_LOCAL, and no other link-local address.
    """

    network: str
    ifname: str
    mtu: int
    mac: str
    gateway: IPv4Interface | None = None
    gateway6: IPv6Interface | None = None


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

    @property
    def host_mac(self) -> str:
        """The MAC of our end: as high as can be.

        A bridge without one of its own takes the lowest of its ports', and a host that got its address by that MAC
        must not lose it to a guest.
        """
        return ("fe" if not self.mac.startswith("fe") else "fa") + self.mac[2:]


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
class UplinkPlan(TapPlan):
    """The TAP by which the user-space switch joins the bridge; `port` is UPLINK."""


@dataclasses.dataclass(frozen=True, slots=True)
class LegPlan(TapPlan):
    """The TAP by which the NAT engine's router joins the bridge; `port` is ROUTER. What guests with devices of
    their own send beyond the subnet goes to its `mac`. It hears nothing else, and may send as the whole world.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class SwitchedPlan(PortPlan):
    """A guest of the user-space switch, which has no device of its own: `ifname` is the uplink's."""


@dataclasses.dataclass(frozen=True, slots=True)
class VethPlan(PortPlan):
    """`address`/`gateway` None: the guest configures itself (DHCP). `address6`: the guest has it at once; its
    IPv6 routes come from router advertisements in any case, because they change with the host's. `large_frames`:
    both ends and the bridge may send LARGE_FRAME_BYTES at once; what is cut for another device is cut to the MTU.
    """

    guest_ifname: str = "eth0"
    large_frames: bool = False
    address: IPv4Interface | None = None
    gateway: IPv4Address | None = None
    address6: IPv6Interface | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class TunPlan:
    """The layer-3 door of one relay thread."""

    network: str
    ifname: str
    mtu: int = TUN_MTU


@dataclasses.dataclass(frozen=True, slots=True)
class RelayShard:
    """One relay thread as the ruleset sees it: packets leave by `tun_ifname`, and connections that come back
    in there go to the listeners 127.0.0.1:`tcp4_port` and [::1]:`tcp6_port` (0: there is none).
    """

    index: int
    tun_ifname: str
    tcp4_port: int
    tcp6_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class RelayPlan:
    """Relay egress: everything of one guest endpoint goes to one of the shards, numbered from 0."""

    shards: tuple[RelayShard, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Dnat:
    """One host port sent to a guest by the kernel, within one IP version. `host_ip` None: any address of the
    host of the guest's version.
    """

    protocol: str
    host_ip: IPv4Address | IPv6Address | None
    host_port: int
    guest_ip: IPv4Address | IPv6Address
    guest_port: int


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class HostAccessRedirect:
    """Guests' packets to gateway:`host_port` go to our relay's listener gateway:`relay_port`."""

    protocol: str
    host_port: int
    relay_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class FirewallPlan:
    """The whole ruleset of one network. `subnet` set, neither `masquerade` nor `relay`: the host routes nothing, and
    what leaves the subnet goes to `router_mac`, on the bridge, if there is one: IPv4, and IPv6 if it `routes_ipv6`.
    `redirects_dns`: one of the redirects takes guests' questions to another server of the host.
    """

    network: str
    bridge: str
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    subnet6: IPv6Network | None = None
    gateway6: IPv6Address | None = None
    masquerade: bool = False
    router_mac: str | None = None
    routes_ipv6: bool = False
    relay: RelayPlan | None = None
    isolated: bool = False
    dhcp: bool = False
    dns: bool = False
    ports: tuple[PortPlan, ...] = ()
    dnats: tuple[Dnat, ...] = ()
    redirects: tuple[HostAccessRedirect, ...] = ()
    redirects_dns: bool = False


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


def uplink_ifname(network: str) -> str:
    """`abx-HHHHH_up`: filtered like a guest port, and none, as those end in a number."""
    return f"{port_prefix(network)}up"


def leg_ifname(network: str) -> str:
    """`abx-HHHHH_rt`: as `uplink_ifname`."""
    return f"{port_prefix(network)}rt"


def tun_ifname(shard: int) -> str:
    """`abx-out_N`: no bridge's because of '_', no port's because those have five digits before it. There is
    one network in a private namespace.
    """
    return f"{IFNAME_PREFIX}out_{shard}"


def is_door(ifname: str) -> bool:
    """Whether `tun_ifname` makes that name."""
    return ifname.startswith(f"{IFNAME_PREFIX}out_")


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
