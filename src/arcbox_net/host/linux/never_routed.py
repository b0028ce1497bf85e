"""Where no guest's packet goes, whatever the egress.

Beside what cannot be routed, that is the cloud's metadata services: a guest must not get the host's
credentials. Most of them are link-local; the others are named.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

# This-host, loopback, link-local, multicast, reserved; 100.100.100.200 is Alibaba's, 168.63.129.16 Azure's.
NEVER_ROUTED: Final = (
    "0.0.0.0/8",
    "100.100.100.200",
    "127.0.0.0/8",
    "168.63.129.16",
    "169.254.0.0/16",
    "224.0.0.0/3",
)

# All that may be routed outside of it are unique local addresses and NAT64.
GLOBAL_UNICAST: Final = "2000::/3"
_NAT64: Final = IPv6Address("64:ff9b::")  # RFC 6052
SIX_TO_FOUR: Final = "2002::/16"  # RFC 7526: no more; it is another way to write any IPv4 address


def _through_nat64(network: str) -> str:
    inner = IPv4Network(network)
    return str(IPv6Network((int(_NAT64) + int(inner.network_address), 96 + inner.prefixlen)))


# Unspecified, loopback, IPv4 in disguise, link-local, site-local (RFC 3879), multicast; then the metadata
# services of Oracle, Amazon, Google and Scaleway, and what IPv4 is never routed to behind a NAT64.
NEVER_ROUTED6: Final = (
    "::/16",
    SIX_TO_FOUR,
    "fe80::/9",
    "ff00::/8",
    "fd00:c1::a9fe:a9fe",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:42::42",
    *map(_through_nat64, NEVER_ROUTED),
)
