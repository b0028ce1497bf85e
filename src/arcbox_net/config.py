"""What a network shall be: values, defaults, checks, and the TOML file. No I/O but `load_networks`.

Everything here is checked when it is built, so the rest of the code reads it freely.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcbox_net.addresses import Subnet, parse_mac, parse_subnet, parse_subnet6
from arcbox_net.config_engine import NEEDED, OPTIONAL, check_engine
from arcbox_net.config_ports import QUEUES_MAX, PortConfig, check_ports, ports_from
from arcbox_net.config_values import (
    check_domain,
    check_ifname,
    check_network_name,
    check_port_name,
    check_type,
    enum_of,
    ip_of,
    ipv4_of,
    items_of,
    known_keys,
    parse_endpoint,
    texts_of,
)
from arcbox_net.errors import ConfigError
from arcbox_net.rules import ForwardRule, parse_forward

MTU_MIN = 576  # RFC 791: every IPv4 host takes 576 bytes
MTU_MAX = 65535
MTU_IPV6_MIN = 1280  # RFC 8200 section 5
WORKERS_MAX = 8
IFNAME_BYTES_MAX = 15
LEASE_S_MIN = 120
LEASE_S_DEFAULT = 3600
LEASE_S_MAX = 7 * 86400
ADDRESSES_PER_PORT_MAX = 4
DHCP_REQUESTS_PER_S = 20
AUTO = "auto"
OFF = "none"
SUBNET_NAT = "192.168.64.0/24"
SUBNET_HOST_ONLY = "10.0.0.0/24"

_OPTION = re.compile(r"[0-9]{1,3}")


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
class Reservation:
    """A fixed address for a MAC (and a host name for DNS)."""

    mac: str
    ip: str
    hostname: str | None = None

    def __post_init__(self) -> None:
        parse_mac(self.mac)
        ipv4_of("reservations.ip", self.ip)
        if self.hostname is not None:
            check_port_name(self.hostname, field="reservations.hostname")


@dataclasses.dataclass(frozen=True, slots=True)
class DhcpConfig:
    """The DHCP server. `enabled=None`: on for NAT and host-only, off for bridge.

    `options` maps an option number to its payload: text, or hex with the prefix `0x`. `requests_per_s` is the
    limit for each guest; 0 is none.
    """

    enabled: bool | None = None
    pool: tuple[str, str] | None = None
    lease_s: int = LEASE_S_DEFAULT
    max_lease_s: int = LEASE_S_MAX
    match: str = "client-id"
    reservations: tuple[Reservation, ...] = ()
    options: Mapping[int, str] = dataclasses.field(default_factory=dict)
    search: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    addresses_per_port_max: int = ADDRESSES_PER_PORT_MAX
    requests_per_s: int = DHCP_REQUESTS_PER_S

    def __post_init__(self) -> None:
        if not LEASE_S_MIN <= self.lease_s <= self.max_lease_s <= 0xFFFFFFFE:
            raise ConfigError(
                f"dhcp.lease_s {self.lease_s}: expected {LEASE_S_MIN} to max_lease_s ({self.max_lease_s})",
                field="dhcp.lease_s",
                value=self.lease_s,
            )
        if self.addresses_per_port_max < 1:
            raise ConfigError(
                f"dhcp.addresses_per_port_max {self.addresses_per_port_max}: at least 1",
                field="dhcp.addresses_per_port_max",
                value=self.addresses_per_port_max,
            )
        if self.requests_per_s < 0:
            raise ConfigError(
                f"dhcp.requests_per_s {self.requests_per_s}: expected 0 or more",
                field="dhcp.requests_per_s",
                value=self.requests_per_s,
            )
        if self.match not in ("client-id", "mac"):
            raise ConfigError(
                f"dhcp.match {self.match!r}: expected client-id or mac", field="dhcp.match", value=self.match
            )
        for number in self.options:
            if not 1 <= number <= 254:
                raise ConfigError(
                    f"dhcp.options {number}: an option is 1 to 254", field="dhcp.options", value=number
                )
            self.option_payload(number)
        for domain in self.search:
            check_domain("dhcp.search", domain)
        for destination, router in self.routes:
            try:
                ipaddress.IPv4Network(destination)
            except ValueError as error:
                raise ConfigError(f"dhcp.routes: {error}", field="dhcp.routes", value=destination) from None
            ipv4_of("dhcp.routes", router)

    def option_payload(self, number: int) -> bytes:
        """The bytes configured for option *number*. Raises ConfigError when its hex is broken or it is too long."""
        text = self.options[number]
        try:
            payload = bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()
        except ValueError:
            raise ConfigError(
                f"dhcp.options {number}: {text!r} is not hex", field="dhcp.options", value=text
            ) from None
        if not 1 <= len(payload) <= 255:
            raise ConfigError(f"dhcp.options {number}: 1 to 255 bytes", field="dhcp.options", value=text)
        return payload


@dataclasses.dataclass(frozen=True, slots=True)
class DnsConfig:
    """The DNS forwarder. `enabled=None`: on for NAT and host-only, off for bridge.

    `upstreams` empty: those of /etc/resolv.conf, followed live. An upstream is `address` or `address:port`
    (`[v6]:port`). `domain_upstreams` sends a suffix elsewhere. `records` are static `name → addresses`.
    """

    enabled: bool | None = None
    upstreams: tuple[str, ...] = ()
    domain_upstreams: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    records: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    domain: str | None = None
    rebind_protection: bool = False
    rebind_allow: tuple[str, ...] = ()
    cache_entries_max: int = 8192

    def __post_init__(self) -> None:
        for upstream in self.upstreams:
            parse_endpoint("dns.upstreams", upstream, 53)
        for suffix, upstreams in self.domain_upstreams.items():
            check_domain("dns.domain_upstreams", suffix)
            if not upstreams:
                raise ConfigError(
                    f"dns.domain_upstreams {suffix!r}: no upstream given",
                    field="dns.domain_upstreams",
                    value=suffix,
                )
            for upstream in upstreams:
                parse_endpoint("dns.domain_upstreams", upstream, 53)
        for name, addresses in self.records.items():
            check_domain("dns.records", name)
            for address in addresses:
                ip_of("dns.records", address)
        if self.domain is not None:
            check_domain("dns.domain", self.domain)
        for suffix in self.rebind_allow:
            check_domain("dns.rebind_allow", suffix)
        if not 0 <= self.cache_entries_max <= 1 << 20:
            raise ConfigError(
                f"dns.cache_entries_max {self.cache_entries_max}: 0 to {1 << 20}",
                field="dns.cache_entries_max",
                value=self.cache_entries_max,
            )


@dataclasses.dataclass(frozen=True, slots=True)
class HostAccess:
    """A port of the host's loopback that guests reach at the gateway's address."""

    protocol: str
    host_port: int

    def __post_init__(self) -> None:
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
        if not isinstance(self.mode, NetworkMode):
            raise ConfigError(
                f"mode {self.mode!r}: expected a NetworkMode", field="mode", value=str(self.mode)
            )
        if self.mac is not None:
            parse_mac(self.mac)
        if not isinstance(self.mtu, int) or not MTU_MIN <= self.mtu <= MTU_MAX:
            raise ConfigError(f"mtu {self.mtu}: expected {MTU_MIN} to {MTU_MAX}", field="mtu", value=self.mtu)
        if not isinstance(self.num_queues, int) or not 1 <= self.num_queues <= QUEUES_MAX:
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
                fix="name an existing bridge with bridge=, or an interface to put under a bridge of ours with nic=",
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


def config_from_mapping(body: Mapping[str, Any], *, where: str = "network") -> NetConfig:
    """A NetConfig from parsed TOML or JSON; every unknown key and wrong type is a ConfigError that names it."""
    values = dict(known_keys(body, NetConfig, where))
    if "mode" in values:
        values["mode"] = enum_of(NetworkMode, values["mode"], f"{where}.mode")
    if "egress" in values:
        values["egress"] = enum_of(Egress, values["egress"], f"{where}.egress")
    for field in ("mac", "bridge", "name", "subnet", "gateway", "nic", *NEEDED, *OPTIONAL):
        check_type(values, field, (str, type(None)), where)
    check_type(values, "subnet6", (str,), where)
    for field in ("mtu", "num_queues"):
        check_type(values, field, (int,), where)
    check_type(values, "workers", (int, type(None)), where)
    for field in ("multiqueue", "isolated", "anti_spoof"):
        check_type(values, field, (bool,), where)
    if "forwards" in values:
        values["forwards"] = tuple(
            parse_forward(text) for text in texts_of(values["forwards"], f"{where}.forwards")
        )
    if "host_access" in values:
        items = values["host_access"]
        values["host_access"] = tuple(
            parse_host_access(str(item)) for item in (items if isinstance(items, list) else [items])
        )
    if "ports" in values:
        values["ports"] = ports_from(values["ports"], f"{where}.ports")
    if "dhcp" in values:
        values["dhcp"] = _dhcp(values["dhcp"], f"{where}.dhcp")
    if "dns" in values:
        values["dns"] = _dns(values["dns"], f"{where}.dns")
    return NetConfig(**values)


def config_to_mapping(config: NetConfig) -> dict[str, Any]:
    """What `config_from_mapping` reads back as an equal NetConfig; plain JSON types only."""
    body = dataclasses.asdict(config)
    body["mode"] = config.mode.value
    body["egress"] = config.egress.value
    body["forwards"] = [str(rule) for rule in config.forwards]
    body["host_access"] = [str(item) for item in config.host_access]
    body["ports"] = [dataclasses.asdict(port) for port in config.ports]
    body["dhcp"]["options"] = {str(number): text for number, text in config.dhcp.options.items()}
    body["dhcp"]["reservations"] = [dataclasses.asdict(item) for item in config.dhcp.reservations]
    for key in ("pool", "search", "routes"):
        value = body["dhcp"][key]
        body["dhcp"][key] = None if value is None else [list(v) if isinstance(v, tuple) else v for v in value]
    for key in ("upstreams", "rebind_allow"):
        body["dns"][key] = list(body["dns"][key])
    for key in ("domain_upstreams", "records"):
        body["dns"][key] = {name: list(values) for name, values in body["dns"][key].items()}
    return body


def load_networks(path: str | Path) -> dict[str, NetConfig]:
    """The `[networks.NAME]` tables of a TOML file. Raises ConfigError with file, key and reason."""
    import tomllib

    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", field="file", value=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", field="file", value=str(path)) from None
    networks = document.pop("networks", None)
    if document:
        raise ConfigError(
            f"{path}: unknown table {next(iter(document))!r}",
            fix="networks are tables named [networks.NAME]",
            field=next(iter(document)),
            value=str(path),
        )
    if not isinstance(networks, dict) or not networks:
        raise ConfigError(f"{path}: no [networks.NAME] table", field="networks", value=str(path))
    found = {}
    for name, body in networks.items():
        if not isinstance(body, dict):
            raise ConfigError(f"{path}: networks.{name} is not a table", field=name, value=str(body))
        try:
            check_network_name(name)
            found[name] = config_from_mapping({**body, "name": name}, where=f"networks.{name}")
        except ConfigError as error:
            error.message = f"{path}: [networks.{name}] {error.message}"
            raise
    return found


def _dhcp(body: Any, where: str) -> DhcpConfig:
    values = dict(known_keys(body, DhcpConfig, where))
    check_type(values, "enabled", (bool, type(None)), where)
    for field in ("lease_s", "max_lease_s", "addresses_per_port_max", "requests_per_s"):
        check_type(values, field, (int,), where)
    check_type(values, "match", (str,), where)
    if values.get("pool") is not None:
        pool = texts_of(values["pool"], f"{where}.pool")
        if len(pool) != 2:
            raise ConfigError(f"{where}.pool: expected [first, last]", field=f"{where}.pool", value=str(pool))
        values["pool"] = (pool[0], pool[1])
    if "reservations" in values:
        items = items_of(values["reservations"], f"{where}.reservations")
        values["reservations"] = tuple(_reservation(item, f"{where}.reservations") for item in items)
    if "options" in values:
        options = values["options"]
        if not isinstance(options, Mapping) or not all(_OPTION.fullmatch(str(key)) for key in options):
            raise ConfigError(
                f"{where}.options: expected number = text", field=f"{where}.options", value=str(options)
            )
        values["options"] = {int(key): str(text) for key, text in options.items()}
    if "search" in values:
        values["search"] = tuple(texts_of(values["search"], f"{where}.search"))
    if "routes" in values:
        routes = [texts_of(item, f"{where}.routes") for item in items_of(values["routes"], f"{where}.routes")]
        if any(len(item) != 2 for item in routes):
            raise ConfigError(
                f"{where}.routes: expected [[cidr, router]]", field=f"{where}.routes", value=str(routes)
            )
        values["routes"] = tuple((item[0], item[1]) for item in routes)
    return DhcpConfig(**values)


def _reservation(item: Any, where: str) -> Reservation:
    values = known_keys(item, Reservation, where)
    for field in ("mac", "ip"):
        if not isinstance(values.get(field), str):
            raise ConfigError(f"{where}: {field} is missing", field=f"{where}.{field}", value=str(item))
    return Reservation(**values)


def _dns(body: Any, where: str) -> DnsConfig:
    values = dict(known_keys(body, DnsConfig, where))
    check_type(values, "enabled", (bool, type(None)), where)
    check_type(values, "rebind_protection", (bool,), where)
    check_type(values, "domain", (str, type(None)), where)
    check_type(values, "cache_entries_max", (int,), where)
    for field in ("upstreams", "rebind_allow"):
        if field in values:
            values[field] = tuple(texts_of(values[field], f"{where}.{field}"))
    for field in ("domain_upstreams", "records"):
        if field in values:
            if not isinstance(values[field], Mapping):
                raise ConfigError(
                    f"{where}.{field}: expected a table", field=f"{where}.{field}", value=str(values[field])
                )
            values[field] = {
                str(name): tuple(
                    texts_of([item] if isinstance(item, str) else item, f"{where}.{field}.{name}")
                )
                for name, item in values[field].items()
            }
    return DnsConfig(**values)


def _enabled(asked: bool | None, mode: NetworkMode) -> bool:
    return mode in (NetworkMode.NAT, NetworkMode.HOST_ONLY) if asked is None else asked
