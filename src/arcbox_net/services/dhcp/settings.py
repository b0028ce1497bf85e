"""What a DHCP server is told: values, and the payload of every option that is the same for all clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from arcbox_net.config_dhcp import ADDRESSES_PER_PORT_MAX, DHCP_REQUESTS_PER_S, LEASE_S_DEFAULT, LEASE_S_MAX
from arcbox_net.errors import ConfigError
from arcbox_net.services.dhcp.messages import (
    OPT_BROADCAST,
    OPT_CLIENT_ID,
    OPT_DNS,
    OPT_DOMAIN,
    OPT_END,
    OPT_LEASE_S,
    OPT_MASK,
    OPT_MTU,
    OPT_OVERLOAD,
    OPT_PAD,
    OPT_PARAMETERS,
    OPT_RELAY,
    OPT_REQUESTED_IP,
    OPT_ROUTER,
    OPT_ROUTES,
    OPT_SEARCH,
    OPT_SERVER_ID,
    OPT_SIZE_MAX,
    OPT_T1,
    OPT_T2,
    OPT_TYPE,
    addresses_payload,
    routes_payload,
    search_payload,
)

# These are computed for each reply; a configured value would break the protocol.
COMPUTED_OPTIONS = frozenset(
    (
        OPT_PAD,
        OPT_REQUESTED_IP,
        OPT_LEASE_S,
        OPT_OVERLOAD,
        OPT_TYPE,
        OPT_SERVER_ID,
        OPT_PARAMETERS,
        OPT_SIZE_MAX,
        OPT_T1,
        OPT_T2,
        OPT_CLIENT_ID,
        OPT_RELAY,
        OPT_END,
    )
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSettings:
    """One network's DHCP. `router` False: guests get no default route. `options` are payloads by number.

    `requests_per_s`: per guest port, or per source MAC where the port is unknown; 0 is no limit.
    """

    subnet: IPv4Network
    gateway: IPv4Address
    pool: tuple[IPv4Address, IPv4Address]
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int = 1500
    lease_s: int = LEASE_S_DEFAULT
    max_lease_s: int = LEASE_S_MAX
    match: str = "client-id"
    options: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    router: bool = True
    addresses_per_port_max: int = ADDRESSES_PER_PORT_MAX
    requests_per_s: int = DHCP_REQUESTS_PER_S

    def __post_init__(self) -> None:
        for number in self.options:
            if number in COMPUTED_OPTIONS:
                raise ConfigError(
                    f"dhcp.options {number}: the server sets that option itself",
                    field="dhcp.options",
                    value=number,
                )

    def static_options(self) -> dict[int, bytes]:
        """Payloads by number, the most needed first: what does not fit in a client's maximum is left out."""
        found = {
            OPT_MASK: self.subnet.netmask.packed,
            OPT_ROUTER: self.gateway.packed if self.router else b"",
            OPT_DNS: addresses_payload(self.dns),
            OPT_MTU: self.mtu.to_bytes(2, "big"),
            OPT_DOMAIN: self.domain.encode("ascii"),
            OPT_BROADCAST: self.subnet.broadcast_address.packed,
            OPT_ROUTES: self._routes(),
            OPT_SEARCH: search_payload(self.search),
        }
        found.update(self.options)
        return {number: payload for number, payload in found.items() if payload}

    def _routes(self) -> bytes:
        """With option 121 a client ignores option 3 (RFC 3442), so the default route is repeated in it."""
        if not self.routes:
            return b""
        default = ((IPv4Network("0.0.0.0/0"), self.gateway),) if self.router else ()
        return routes_payload((*self.routes, *default))
