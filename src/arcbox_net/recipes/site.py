"""What every recipe works with: one network's name, configuration and what it is built in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.config import NetConfig
from arcbox_net.errors import ConfigError
from arcbox_net.host.plan import Dnat, HostAccessRedirect, PortPlan, RelayPlan

if TYPE_CHECKING:
    from arcbox_net.host.linux.links import Links
    from arcbox_net.host.linux.nftables import Firewall
    from arcbox_net.rules import ForwardRule


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The choices made when a network started; kept, so that a restart makes the same ones.

    `address` is the gateway with its prefix length, None where the network has no address of ours.
    `router` tells DHCP whether to hand out a default route. `address6` is the gateway's IPv6 address, None for
    a network without IPv6 of ours. `is_private`: all of the network was in a network namespace of its own, which
    ended with the process.
    """

    mode: str
    egress: str
    bridge: str
    address: IPv4Interface | None
    router: IPv4Address | None
    owns_bridge: bool
    nic: str | None = None
    address6: IPv6Interface | None = None
    is_private: bool = False

    @property
    def subnet(self) -> IPv4Network | None:
        return self.address.network if self.address else None

    @property
    def gateway(self) -> IPv4Address | None:
        return self.address.ip if self.address else None

    @property
    def subnet6(self) -> IPv6Network | None:
        return self.address6.network if self.address6 else None

    @property
    def gateway6(self) -> IPv6Address | None:
        return self.address6.ip if self.address6 else None

    def guest_address6(self, mac: str) -> IPv6Address | None:
        """The IPv6 address of the guest with *mac*.

        It is what a guest makes itself by default (RFC 4862 with EUI-64), so that one that configures itself
        and one that is configured have the same, and nothing has to be remembered.
        """
        return eui64_address(self.subnet6, parse_mac(mac)) if self.subnet6 else None

    def is_guest_address(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether *address* can be a guest's: inside the subnet, and neither its ends nor the gateway."""
        if isinstance(address, IPv6Address):
            subnet6 = self.subnet6
            # RFC 4291, 2.6.1: the subnet's first address is that of its routers.
            return (
                subnet6 is not None
                and address in subnet6
                and address not in (subnet6.network_address, self.gateway6)
            )
        subnet = self.subnet
        if subnet is None:
            return True
        ends = (subnet.network_address, subnet.broadcast_address, self.gateway)
        return address in subnet and address not in ends

    def check_has_forwards(self, rule: ForwardRule) -> None:
        """Raises ConfigError for *rule* in a network that has no forwards."""
        if self.address is None:
            raise ConfigError(
                "mode bridge has no forwards: guests are on the LAN themselves",
                fix="reach the guest at its own address",
                field="forward",
                value=str(rule),
            )

    def to_json(self) -> dict[str, Any]:
        body = dataclasses.asdict(self)
        body["address"] = str(self.address) if self.address else None
        body["router"] = str(self.router) if self.router else None
        body["address6"] = str(self.address6) if self.address6 else None
        return body

    @classmethod
    def remembered(cls, meta: Mapping[str, dict[str, Any]]) -> Layout | None:
        """That of an earlier run, by the rows it left; None without one."""
        return cls.from_json(meta["layout"]) if "layout" in meta else None

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Layout:
        values = dict(body)
        values["address"] = IPv4Interface(body["address"]) if body["address"] else None
        values["router"] = IPv4Address(body["router"]) if body["router"] else None
        # Written by a version without IPv6: it has none.
        values["address6"] = IPv6Interface(body["address6"]) if body.get("address6") else None
        return cls(**values)


class Journal(Protocol):
    """Where a change to the host is noted before it is made, so that it can be undone after a crash."""

    def put(self, table: str, key: str, value: dict[str, Any]) -> None: ...

    def delete(self, table: str, key: str) -> None: ...

    def items(self, table: str) -> dict[str, dict[str, Any]]: ...


@dataclasses.dataclass(slots=True, kw_only=True)
class NetworkSite:
    """One network, wherever it is. `is_private`: in a network namespace of its own."""

    network: str
    config: NetConfig
    is_private: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class Site(NetworkSite):
    """One network's place in the kernel. Calls block; the network process makes them in its kernel thread.

    `links` are where the guests are, `surroundings` the host's. They are the same unless the network `is_private`.
    """

    links: Links
    surroundings: Links
    firewall: Firewall
    journal: Journal
    record_dir: Path
    live_networks: Callable[[], Iterable[str]]

    def close(self) -> None:
        for links in {id(links): links for links in (self.links, self.surroundings)}.values():
            links.close()


@dataclasses.dataclass(slots=True)
class Contents:
    """What besides the layout is in the ruleset: it changes while the network runs."""

    ports: tuple[PortPlan, ...] = ()
    dnats: tuple[Dnat, ...] = ()
    redirects: tuple[HostAccessRedirect, ...] = ()
    relay: RelayPlan | None = None


class Recipe(Protocol):
    """One kind of network. All three are idempotent; `apply` also repairs what somebody else broke."""

    def choose(self, site: Site, previous: Layout | None) -> Layout: ...

    def apply(self, site: Site, layout: Layout, contents: Contents) -> None: ...

    def remove(self, site: Site, layout: Layout) -> None: ...
