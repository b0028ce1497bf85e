"""The parts of a ruleset that come and go while it stands: ports, forwards, host access, as elements by set."""

from __future__ import annotations

from collections.abc import Iterable

from arcbox_net.host.linux.nft_text import elements_of
from arcbox_net.host.plan import (
    Dnat,
    HostAccessRedirect,
    LegPlan,
    PortPlan,
    SwitchedPlan,
    UplinkPlan,
    table_name,
)


def port_elements(port: PortPlan, *, any_address: bool) -> dict[str, list[str]]:
    """The elements that let *port* speak, by set of the bridge table.

    `any_address`: a port without addresses may use every IPv4 source (bridge mode: others assign them).
    """
    name = f'"{port.ifname}"'
    is_behind = isinstance(port, SwitchedPlan)  # what is the device's own, its uplink has already
    if isinstance(port, LegPlan):
        return {"unfiltered_ports": [name]}
    if not port.anti_spoof:
        return {} if is_behind else {"unfiltered_ports": [name]}
    elements = {} if isinstance(port, UplinkPlan) else {"macs": [f"{name} . {port.mac}"]}
    if port.ips:
        elements["addresses"] = [f"{name} . {port.mac} . {ip}" for ip in port.ips]
    elif any_address and not is_behind:
        elements["any_address_ports"] = [name]
    return elements


def dnat_elements(dnats: Iterable[Dnat]) -> dict[str, list[str]]:
    """The elements of the forward maps, by map of the inet table. IPv6 has maps of its own."""
    elements: dict[str, list[str]] = {}
    for dnat in dnats:
        version = "6" if dnat.guest_ip.version == 6 else ""
        target = f"{dnat.guest_ip} . {dnat.guest_port}"
        if dnat.host_ip is None:
            key = f"{dnat.protocol} . {dnat.host_port}"
            elements.setdefault(f"forwards{version}_any", []).append(f"{key} : {target}")
        else:
            key = f"{dnat.protocol} . {dnat.host_ip} . {dnat.host_port}"
            elements.setdefault(f"forwards{version}", []).append(f"{key} : {target}")
    return elements


def redirect_elements(redirects: Iterable[HostAccessRedirect]) -> dict[str, list[str]]:
    """The elements of host access, by map and set of the inet table."""
    elements: dict[str, list[str]] = {}
    for item in redirects:
        elements.setdefault("host_access", []).append(
            f"{item.protocol} . {item.host_port} : {item.relay_port}"
        )
        elements.setdefault("relay_listeners", []).append(f"{item.protocol} . {item.relay_port}")
    return elements


def host_access_sets(redirects: Iterable[HostAccessRedirect]) -> list[str]:
    """The map and the set of host access, with the elements they have now."""
    elements = redirect_elements(redirects)
    return [
        elements_of(
            "map",
            "host_access",
            "type inet_proto . inet_service : inet_service",
            elements.get("host_access", ()),
            "ports of the host's loopback that guests may use : our relay's listener",
        ),
        elements_of(
            "set",
            "relay_listeners",
            "type inet_proto . inet_service",
            elements.get("relay_listeners", ()),
            "where host_access ends up; not reachable directly",
        ),
    ]


def element_changes(verb: str, family: str, network: str, elements: dict[str, list[str]]) -> str:
    """`add element` or `delete element` lines for one transaction."""
    table = table_name(network)
    return "".join(
        f"{verb} element {family} {table} {name} {{ {', '.join(items)} }}\n"
        for name, items in elements.items()
    )


def merge(parts: Iterable[dict[str, list[str]]]) -> dict[str, list[str]]:
    """All elements of *parts*, by set."""
    merged: dict[str, list[str]] = {}
    for part in parts:
        for name, items in part.items():
            merged.setdefault(name, []).extend(items)
    return merged
