"""The settings of egress engine, which make sense together only."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from arcbox_net.config_values import check_ifname
from arcbox_net.errors import ConfigError

if TYPE_CHECKING:
    from arcbox_net.config import NetConfig

NEEDED = ("uplink", "external_ip")
OPTIONAL = ("external_ip6", "next_hop", "next_hop6", "filtering")
FILTERING = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
TAP = "tap:"  # before the name of an uplink whose user-space end the engine is


def check_engine(config: NetConfig, *, has_engine: bool) -> None:
    """Raises ConfigError for settings without the engine, the engine without its settings, and wrong ones."""
    for field in (*NEEDED, *OPTIONAL):
        value = getattr(config, field)
        if (value is not None) is has_engine or (has_engine and field in OPTIONAL):
            continue
        raise ConfigError(
            f"{field} and egress engine go together",
            fix="--egress engine --uplink IFACE --external-ip ADDRESS",
            field=field,
            value=value,
        )
    if config.uplink is None:
        return
    check_ifname("uplink", uplink_of(config.uplink)[0])
    for field, version, parse in (
        ("external_ip", 4, ipaddress.IPv4Interface),
        ("external_ip6", 6, ipaddress.IPv6Interface),
        ("next_hop", 4, ipaddress.IPv4Address),
        ("next_hop6", 6, ipaddress.IPv6Address),
    ):
        value = getattr(config, field)
        if value is None:
            continue
        try:
            parsed = parse(value)
        except ValueError:
            raise ConfigError(
                f"{field} {value!r} is not an IPv{version} address", field=field, value=value
            ) from None
        if not _is_hosts(getattr(parsed, "ip", parsed)):
            raise ConfigError(f"{field} {value} is no host's address", field=field, value=value)
    if config.external_ip6 is not None and not config.has_ipv6:
        raise ConfigError(
            "external_ip6 is for guests with IPv6, and this network has none",
            fix="leave subnet6 at auto, with an MTU of 1280 or more",
            field="external_ip6",
            value=config.external_ip6,
        )
    if not config.anti_spoof:
        raise ConfigError(
            "the NAT engine's limits are each guest's, and without anti_spoof a guest can be many",
            fix="anti_spoof = true, or --egress masquerade",
            field="anti_spoof",
            value=False,
        )
    if config.filtering not in (None, *FILTERING):
        raise ConfigError(
            f"filtering {config.filtering!r}: expected one of {', '.join(FILTERING)}",
            field="filtering",
            value=config.filtering,
        )


def _is_hosts(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.version == 4 and address.is_reserved:  # 240.0.0.0/4, the broadcast address in it
        return False
    return not (address.is_multicast or address.is_loopback or address.is_unspecified)


def uplink_of(text: str) -> tuple[str, bool]:
    """The interface that *text* names, and whether it is a TAP that the engine opens."""
    return text.removeprefix(TAP), text.startswith(TAP)
