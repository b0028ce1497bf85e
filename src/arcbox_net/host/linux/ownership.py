"""Which links are ours: those with our alias, or marked by our group when their maker died before naming
them.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from arcbox_net.errors import KernelError
from arcbox_net.host.linux.rtnl import Link
from arcbox_net.host.plan import IFNAME_PREFIX, bridge_ifname, parse_alias, port_prefix

LINK_GROUP: Final = 0x61627800  # "abx\0"


class OwnedLink(NamedTuple):
    """A link of ours. `kind`: bridge, tap or veth. `network`: '' if its maker died before naming it."""

    ifname: str
    ifindex: int
    kind: str
    network: str
    port: str | None
    bridge: str | None
    up: bool
    carrier: bool
    mac: str
    mtu: int


def is_ours(link: Link) -> bool:
    """By our alias; or by group and name, when its maker was killed before it could set the alias."""
    if parse_alias(link.alias) is not None:
        return True
    return link.group == LINK_GROUP and not link.alias and link.ifname.startswith(IFNAME_PREFIX)


def fits(link: OwnedLink, network: str) -> bool:
    """Is a link that was never named called as one of *network*?"""
    if link.network:
        return False
    return link.ifname == bridge_ifname(network) or link.ifname.startswith(port_prefix(network))


def describe(link: Link, ifnames: dict[int, str]) -> OwnedLink:
    network, port = parse_alias(link.alias) or ("", None)
    return OwnedLink(
        ifname=link.ifname,
        ifindex=link.ifindex,
        kind="tap" if link.kind == "tun" else link.kind,
        network=network,
        port=port,
        bridge=ifnames.get(link.master),
        up=link.up,
        carrier=link.carrier,
        mac=link.mac,
        mtu=link.mtu,
    )


def foreign(ifname: str, operation: str) -> KernelError:
    return KernelError(
        f"{operation} {ifname}: a link of that name exists and is not this network's",
        fix=f"see `ip -d link show {ifname}`; remove or rename it, or give the network another name",
        operation=operation,
        object=ifname,
        errno=errno.EEXIST,
    )
