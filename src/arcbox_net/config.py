"""What a network shall be: values, defaults and checks. How files have it is in `config_mapping`.

Everything here is checked when it is built, so the rest of the code reads it freely.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import re

from arcbox_net.addresses import Subnet, parse_mac, parse_subnet, parse_subnet6
from arcbox_net.config_dhcp import DhcpConfig
from arcbox_net.config_dns import DnsConfig
from arcbox_net.config_engine import check_engine
from arcbox_net.config_ports import QUEUES_MAX, PortConfig, check_ports
from arcbox_net.config_types import check_types
from arcbox_net.config_values import (
    check_ifname,
    check_network_name,
    ipv4_of,
)
from arcbox_net.errors import ConfigError
from arcbox_net.rules import ForwardRule

MTU_MIN = 576  # RFC 791: every IPv4 host takes 576 bytes
MTU_MAX = 65535
MTU_IPV6_MIN = 1280  # RFC 8200 section 5
WORKERS_MAX = 8
IFNAME_BYTES_MAX = 15
AUTO = "auto"
OFF = "none"
SUBNET_NAT = "192.168.64.0/24"
SUBNET_HOST_ONLY = "10.0.0.0/24"


class NetworkMode(enum.Enum):
    """The kind of a network."""

    NAT = "nat"
    BRIDGE = "bridge"
    HOST_ONLY = "host-only"
    NONE = "none"


class Egress(enum.Enum):
    """How guests' packets leave: see the recipes."""

    AUTO = "auto"
    MASQUERADE = "masquerade"
    RELAY = "relay"
    ENGINE = "engine"
    NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class HostAccess:
    """A port of the host's loopback that guests reach at the gateway's address."""

    protocol: str
    host_port: int

    def __post_init__(self) -> None:
        check_types(self, "host_access.")
        if self.protocol not in ("tcp", "udp") or not 1 <= self.host_port <= 65535:
            raise ConfigError(
                f"host_access {self.host_port}/{self.protocol}: expected 1-65535/tcp or /udp",
                field="host_access",
                value=f"{self.host_port}/{self.protocol}",
            )

    def __str__(self) -> str:
        return f"{self.host_port}/{self.protocol}"


@dataclasses.dataclass(frozen=True, slots=True)
class NetConfig:
    """One network.

    `mac`: the MAC of the first guest that does not bring its own. `mtu`: bytes of an IP packet, set on every
    link and told to guests. `bridge` (bridge mode): an existing bridge to put guests on. `nic` (bridge mode): an
    interface to put under a bridge of ours instead. `multiqueue`/`num_queues`: queue pairs of each TAP.
    `subnet`: a CIDR, or "auto" for the mode's default or the next free one. `isolated`: guests do not see each
    other. `anti_spoof`: a guest may only use the MAC and addresses it was given. `subnet6`: a /64 of unique
    local IPv6 addresses, "auto" for one that is chosen once and remembered, or "none".

    Egress engine: `uplink`, the interface that guests leave by ("tap:NAME" for a TAP whose other end the host has);
    `external_ip` and `external_ip6`, the addresses they have there, with or without prefix length; `next_hop` and
    `next_hop6`, None for the host's default route by that interface; `filtering`: who may send to a guest's external
    port, see `NatEngineConfig`.

    `ports`: guests that are attached from the start. `workers`: threads for guests at sockets; None: by the number of
    cores, one on two.
    """

    mode: NetworkMode = NetworkMode.NAT
    mac: str | None = None
    mtu: int = 1500
    bridge: str | None = None
    multiqueue: bool = False
    num_queues: int = 1
    name: str | None = None
    subnet: str = AUTO
    gateway: str | None = None
    egress: Egress = Egress.AUTO
    nic: str | None = None
    isolated: bool = False
    anti_spoof: bool = True
    host_access: tuple[HostAccess, ...] = ()
    forwards: tuple[ForwardRule, ...] = ()
    dhcp: DhcpConfig = dataclasses.field(default_factory=DhcpConfig)
    dns: DnsConfig = dataclasses.field(default_factory=DnsConfig)
    subnet6: str = AUTO
    uplink: str | None = None
    external_ip: str | None = None
    external_ip6: str | None = None
    next_hop: str | None = None
    next_hop6: str | None = None
    filtering: str | None = None
    workers: int | None = None
    ports: tuple[PortConfig, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        if self.mac is not None:
            parse_mac(self.mac)
        if not MTU_MIN <= self.mtu <= MTU_MAX:
            raise ConfigError(f"mtu {self.mtu}: expected {MTU_MIN} to {MTU_MAX}", field="mtu", value=self.mtu)
        if not 1 <= self.num_queues <= QUEUES_MAX:
            raise ConfigError(
                f"num_queues {self.num_queues}: expected 1 to {QUEUES_MAX}",
                field="num_queues",
                value=self.num_queues,
            )
        if self.workers is not None and not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(
                f"workers {self.workers}: expected 1 to {WORKERS_MAX}", field="workers", value=self.workers
            )
        if self.num_queues > 1 and not self.multiqueue:
            raise ConfigError(
                f"num_queues is {self.num_queues} but multiqueue is off",
                fix="set multiqueue=True",
                field="num_queues",
                value=self.num_queues,
            )
        if self.name is not None:
            check_network_name(self.name)
        self._check_bridge()
        self._check_subnet()
        self._check_subnet6()
        check_ports(self.ports, self._may_be_guests)
        check_engine(self, has_engine=self.egress is Egress.ENGINE)
        for i, rule in enumerate(self.forwards):
            for other in self.forwards[:i]:
                if rule.overlaps(other):
                    raise ConfigError(
                        f"forwards {other} and {rule} overlap", field="forwards", value=str(rule)
                    )

    def _check_bridge(self) -> None:
        for field in ("bridge", "nic"):
            ifname = getattr(self, field)
            if ifname is None:
                continue
            if self.mode is not NetworkMode.BRIDGE:
                raise ConfigError(
                    f"{field} = {ifname!r} needs mode bridge, not {self.mode.value}",
                    field=field,
                    value=ifname,
                )
            check_ifname(field, ifname)
        if self.mode is NetworkMode.BRIDGE and (self.bridge is None) == (self.nic is None):
            raise ConfigError(
                "mode bridge needs a bridge or a nic, and not both",
                fix="name an existing bridge (bridge), or an interface to put under a bridge of ours (nic)",
                field="bridge",
                value=self.bridge,
            )

    def _check_subnet(self) -> None:
        if self.subnet == AUTO:
            if self.gateway is not None:
                raise ConfigError("gateway needs an explicit subnet", field="gateway", value=self.gateway)
            return
        subnet = parse_subnet(self.subnet)
        if self.gateway is not None:
            gateway = ipv4_of("gateway", self.gateway)
            if gateway not in subnet.hosts():
                raise ConfigError(
                    f"gateway {gateway} is not a host address of {subnet}",
                    field="gateway",
                    value=self.gateway,
                )
        pool_of(self, subnet)

    def _may_be_guests(self, address: ipaddress.IPv4Address) -> bool:
        """Whether nothing that is known before the start says that *address* is no guest's."""
        if self.subnet == AUTO:
            return True
        subnet = parse_subnet(self.subnet)
        return address in subnet.hosts() and address != gateway_of(self, subnet)

    def _check_subnet6(self) -> None:
        if self.subnet6 in (AUTO, OFF):
            return
        parse_subnet6(self.subnet6)
        if self.mode is NetworkMode.BRIDGE:
            raise ConfigError(
                "mode bridge has no subnet6: the LAN gives IPv6 addresses",
                fix="leave subnet6 out",
                field="subnet6",
                value=self.subnet6,
            )
        if self.mtu < MTU_IPV6_MIN:
            raise ConfigError(
                f"mtu {self.mtu} is too small for IPv6, which needs {MTU_IPV6_MIN}",
                fix='raise mtu, or set subnet6 = "none"',
                field="subnet6",
                value=self.subnet6,
            )

    @property
    def has_ipv6(self) -> bool:
        """Whether the network may have IPv6 addresses of its own; the host decides too."""
        return (
            self.subnet6 != OFF
            and self.mode in (NetworkMode.NAT, NetworkMode.HOST_ONLY)
            and self.mtu >= MTU_IPV6_MIN
        )

    @property
    def has_dhcp(self) -> bool:
        return _enabled(self.dhcp.enabled, self.mode)

    @property
    def has_dns(self) -> bool:
        return _enabled(self.dns.enabled, self.mode)

    def default_subnet(self) -> Subnet:
        """The subnet asked for, or where `auto` starts to look."""
        if self.subnet != AUTO:
            return parse_subnet(self.subnet)
        return parse_subnet(SUBNET_HOST_ONLY if self.mode is NetworkMode.HOST_ONLY else SUBNET_NAT)


def gateway_of(config: NetConfig, subnet: Subnet) -> ipaddress.IPv4Address:
    """The gateway's address: the configured one, or the first host address of *subnet*."""
    return ipaddress.IPv4Address(config.gateway) if config.gateway else subnet.network_address + 1


def pool_of(config: NetConfig, subnet: Subnet) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """First and last address of the DHCP pool inside *subnet*. Raises ConfigError."""
    if config.dhcp.pool is None:
        first = subnet.network_address + 1
        if first == gateway_of(config, subnet):
            first += 1
        return first, subnet.broadcast_address - 1
    first, last = (ipv4_of("dhcp.pool", text) for text in config.dhcp.pool)
    if not (subnet.network_address < first <= last < subnet.broadcast_address):
        raise ConfigError(
            f"dhcp.pool {first}–{last} is not inside {subnet}", field="dhcp.pool", value=f"{first}-{last}"
        )
    return first, last


def local_domain(config: NetConfig, network: str) -> str:
    """The domain guests are named under, without a trailing dot."""
    return (config.dns.domain or f"{network}.internal").rstrip(".").lower()


def parse_host_access(text: str) -> HostAccess:
    """`8080`, `8080/tcp` or `53/udp`. Raises ConfigError."""
    number, _, protocol = str(text).partition("/")
    if not re.fullmatch(r"[0-9]{1,5}", number):
        raise ConfigError(f"host_access {text!r}: expected PORT[/tcp|udp]", field="host_access", value=text)
    return HostAccess(protocol=protocol or "tcp", host_port=int(number))


def _enabled(asked: bool | None, mode: NetworkMode) -> bool:
    return mode in (NetworkMode.NAT, NetworkMode.HOST_ONLY) if asked is None else asked
