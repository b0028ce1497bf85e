"""What a NAT engine is told, checked before the engine sees it. Addresses are text, times are seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from arcbox_net.config_engine import FILTERING
from arcbox_net.dataplane.nat_config_values import (
    PortRange,
    PortRanges,
    check_one_of,
    check_timeout,
    check_within,
    ipv4_address,
    ipv4_network,
    ipv6_address,
    ipv6_network,
    port_ranges,
    usable_ipv4,
    usable_ipv6,
)
from arcbox_net.errors import ConfigError

GUEST_BY = ("link-address", "address")
UNSOLICITED_SYN = ("drop", "refuse")
EXHAUSTED = ("prohibited", "host-unreachable")
L3_OFFSETS = (0, 14)
EXTERNAL_ADDRESSES_MAX = 64
PORT_RANGES_MAX = 64  # of all external addresses together
UNTRANSLATED_MAX = 64
PORT_TIMEOUTS_MAX = 16
CONNTRACK_SIZE_MAX = 1 << 23
FAST_CACHE_SIZE_MAX = 1 << 16
MTU_MIN = 68
MTU_MAX = 65535
MTU_MIN_IPV6 = 1280

# RFC 4787 REQ-5, 5382 REQ-5, 7857 2.1, 5508 REQ-2, 6888 REQ-8: what no timer may be below.
TIMEOUT_FLOORS_S: dict[str, int] = {
    "udp_timeout_s": 120,
    "tcp_established_timeout_s": 7440,
    "tcp_partial_timeout_s": 240,
    "tcp_closing_timeout_s": 240,
    "tcp_reset_timeout_s": 240,
    "icmp_timeout_s": 60,
    "port_hold_s": 120,
}
PORT_TIMEOUT_FLOOR_S = 10


@dataclass(frozen=True)
class NatEngineConfig:
    """How an engine translates. Raises `ConfigError` with `field` and `value` as facts.

    `external_ip` is one address, several, or a mapping of address to its port ranges; addresses without ranges
    of their own take `port_range`, one `(first, last)` or several. A guest keeps one external address for life.
    Whoever feeds the engine makes sure that a frame's source MAC is its guest's: quotas go by it, and no guest may use
    more than 64 addresses at a time.
    Times are seconds; those below what the RFCs allow need `unsafe=True`.
    """

    external_ip: str | Sequence[str] | Mapping[str, PortRanges]
    inside: str = "192.168.64.0/24"
    gateway: str | None = None  # the engine's own address towards guests; the first of `inside`
    external_ip6: str | Sequence[str] | None = None  # None: IPv6 frames are of an unknown protocol
    inside6: str | None = None  # as a /64
    gateway6: str | None = None  # the first of `inside6`
    port_range: PortRanges = (49152, 65535)  # of each IPv6 address too
    conntrack_size: int = 131_072  # flows
    fast_cache_size: int = 256  # entries in front of the table of flows; 0 for none
    filtering: str = (
        "address-and-port-dependent"  # or "address-dependent", "endpoint-independent" (RFC 4787 5)
    )
    guest_by: str = (
        "link-address"  # whose quotas count for a frame: its source MAC's, or its source "address"'s
    )
    guest_prefix6: int = 128  # where guests are addresses: the bits by which IPv6 ones tell them apart
    flows_per_guest: int = 16_384
    ports_per_guest: int | None = (
        None  # of each protocol, those on hold included; None: a quarter of its address's
    )
    preserve_ports: bool = True
    port_parity: bool = False
    inbound_refresh: bool = False  # RFC 4787 REQ-6: whether an inbound datagram keeps a flow alive
    udp_timeout_s: int = 300
    udp_port_timeouts_s: Mapping[int, int] = field(default_factory=lambda: {53: 30})  # by destination port
    tcp_established_timeout_s: int = 7440
    tcp_partial_timeout_s: int = 240
    tcp_closing_timeout_s: int = 240
    tcp_reset_timeout_s: int = 240
    icmp_timeout_s: int = 60
    port_hold_s: int = 120  # until a freed external port may become another guest's
    unsafe: bool = False  # accept timers below what the RFCs allow
    mtu: int = 1500  # towards guests
    uplink_mtu: int = 1500
    untranslated: Sequence[
        str
    ] = ()  # remote prefixes: routed as they are, both ways, any protocol, unfiltered
    unsolicited_syn: str = "drop"  # or "refuse": ICMP 3/3 after 6 s (RFC 5382 REQ-4)
    exhausted: str = (
        "prohibited"  # ICMP 3/13 when no flow or port is left (RFC 5508 REQ-8), or 3/1 (RFC 6888)
    )
    reset_unknown: bool = True  # answer a guest's segment of an unknown TCP connection with RST
    isolated: bool = False  # no hairpin: a guest reaches no other by an external address, not even a forward
    l3_offset: int = 14  # of translate()'s plain buffers: 14 for Ethernet frames, 0 for IP packets
    seed: bytes | None = None  # 32 bytes, for tests that repeat; from the system's generator when None

    def __post_init__(self) -> None:
        inside = ipv4_network("inside", self.inside)
        if not 8 <= inside.prefixlen <= 30:
            raise ConfigError(
                f"inside network {inside} has no room for guests or is too large",
                fix="use a prefix of 8 to 30 bits",
                field="inside",
                value=self.inside,
            )
        gateway = self.gateway_address
        if gateway not in inside or gateway in (inside.network_address, inside.broadcast_address):
            raise ConfigError(
                f"gateway {gateway} is no host address of {inside}", field="gateway", value=self.gateway
            )
        if self.external_ip6 is not None:
            self._check_ipv6()
        self._check_external(inside)
        for name, known in (
            ("filtering", FILTERING),
            ("guest_by", GUEST_BY),
            ("unsolicited_syn", UNSOLICITED_SYN),
            ("exhausted", EXHAUSTED),
            ("l3_offset", L3_OFFSETS),
        ):
            check_one_of(name, getattr(self, name), known)
        for name, low, high in (
            ("conntrack_size", 1, CONNTRACK_SIZE_MAX),
            ("fast_cache_size", 0, FAST_CACHE_SIZE_MAX),
            ("guest_prefix6", 1, 128),
            ("flows_per_guest", 1, CONNTRACK_SIZE_MAX),
            ("mtu", MTU_MIN, MTU_MAX),
            ("uplink_mtu", MTU_MIN, MTU_MAX),
        ):
            check_within(name, getattr(self, name), low, high)
        if self.ports_per_guest is not None:
            check_within("ports_per_guest", self.ports_per_guest, 1, 65535)
        if self.fast_cache_size & (self.fast_cache_size - 1):
            raise ConfigError(
                f"fast_cache_size {self.fast_cache_size} is no power of two",
                field="fast_cache_size",
                value=self.fast_cache_size,
            )
        self._check_timeouts()
        if len(self.untranslated) > UNTRANSLATED_MAX:
            raise ConfigError(
                f"more than {UNTRANSLATED_MAX} untranslated prefixes",
                field="untranslated",
                value=len(self.untranslated),
            )
        for prefix in self.untranslated:
            ipv4_network("untranslated", prefix)
        if self.seed is not None and len(self.seed) != 32:
            raise ConfigError("a seed has 32 bytes", field="seed", value=len(self.seed))

    def _check_external(self, inside: IPv4Network) -> None:
        externals: list[tuple[IPv4Address | IPv6Address, list[PortRange]]]
        externals = [*self.externals(), *self.externals6()]
        ranges = 0
        for address, of_address in externals:
            if address.version == 4 and (address in inside or not usable_ipv4(address)):
                raise ConfigError(
                    f"{address} cannot be an external address",
                    fix=f"use a unicast address outside {inside}",
                    field="external_ip",
                    value=str(address),
                )
            last = 0
            for low, high in sorted(of_address):
                if not last < low <= high <= 65535:
                    raise ConfigError(
                        f"port range {low}-{high} of {address} is empty, overlaps another, or leaves 1-65535",
                        field="port_range",
                        value=(low, high),
                    )
                last = high
            ranges += len(of_address)
        if not externals or len({address for address, _ in externals}) != len(externals):
            raise ConfigError(
                "external_ip names no address, or one twice", field="external_ip", value=self.external_ip
            )
        if len(externals) > EXTERNAL_ADDRESSES_MAX or ranges > PORT_RANGES_MAX:
            raise ConfigError(
                f"{len(externals)} external addresses with {ranges} port ranges",
                fix=f"use at most {EXTERNAL_ADDRESSES_MAX} addresses and {PORT_RANGES_MAX} ranges in all",
                field="external_ip",
                value=self.external_ip,
            )

    def _check_ipv6(self) -> None:
        if self.inside6 is None or not 8 <= self.inside6_network.prefixlen <= 120:
            raise ConfigError(
                "inside6 is no network with room for guests",
                fix="use a /64, such as fd00:6172:6362::/64",
                field="inside6",
                value=self.inside6,
            )
        inside, gateway = self.inside6_network, self.gateway6_address
        if gateway not in inside or gateway == inside.network_address:
            raise ConfigError(
                f"gateway6 {gateway} is no host address of {inside}", field="gateway6", value=self.gateway6
            )
        if not list(self.externals6()):
            raise ConfigError(
                "external_ip6 names no address",
                fix="name one, or leave it None",
                field="external_ip6",
                value=self.external_ip6,
            )
        for address, _ranges_of in self.externals6():
            if address in inside or not usable_ipv6(address):
                raise ConfigError(
                    f"{address} cannot be an external address",
                    fix=f"use a unicast address outside {inside}",
                    field="external_ip6",
                    value=str(address),
                )
        for name in ("mtu", "uplink_mtu"):
            check_within(name, getattr(self, name), MTU_MIN_IPV6, MTU_MAX)

    def _check_timeouts(self) -> None:
        for name, floor in TIMEOUT_FLOORS_S.items():
            check_timeout(name, getattr(self, name), 1 if self.unsafe else floor)
        if len(self.udp_port_timeouts_s) > PORT_TIMEOUTS_MAX:
            raise ConfigError(
                f"more than {PORT_TIMEOUTS_MAX} ports with a timeout of their own",
                field="udp_port_timeouts_s",
                value=len(self.udp_port_timeouts_s),
            )
        for number, timeout_s in self.udp_port_timeouts_s.items():
            check_within("udp_port_timeouts_s", number, 1, 65535)
            check_timeout("udp_port_timeouts_s", timeout_s, 1 if self.unsafe else PORT_TIMEOUT_FLOOR_S)

    @property
    def inside_network(self) -> IPv4Network:
        return IPv4Network(self.inside)

    @property
    def gateway_address(self) -> IPv4Address:
        if self.gateway is None:
            return self.inside_network.network_address + 1
        return ipv4_address("gateway", self.gateway)

    @property
    def inside6_network(self) -> IPv6Network:
        return ipv6_network("inside6", str(self.inside6))

    @property
    def gateway6_address(self) -> IPv6Address:
        if self.gateway6 is None:
            return self.inside6_network.network_address + 1
        return ipv6_address("gateway6", self.gateway6)

    @property
    def untranslated_networks(self) -> list[IPv4Network]:
        return [IPv4Network(prefix) for prefix in self.untranslated]

    def externals(self) -> Iterator[tuple[IPv4Address, list[PortRange]]]:
        """Each external address with its port ranges, in the order given."""
        if isinstance(self.external_ip, Mapping):
            for text, ranges in self.external_ip.items():
                yield ipv4_address("external_ip", text), port_ranges(ranges)
            return
        several = [self.external_ip] if isinstance(self.external_ip, str) else self.external_ip
        for text in several:
            yield ipv4_address("external_ip", text), port_ranges(self.port_range)

    def externals6(self) -> Iterator[tuple[IPv6Address, list[PortRange]]]:
        """As `externals`, of IPv6."""
        several = [self.external_ip6] if isinstance(self.external_ip6, str) else self.external_ip6 or ()
        for text in several:
            yield ipv6_address("external_ip6", text), port_ranges(self.port_range)

    def external_of(self, guest: IPv4Address | IPv6Address) -> str:
        """The first external address of the guest's family."""
        return str(next(self.externals() if guest.version == 4 else self.externals6())[0])
