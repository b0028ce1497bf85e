"""The bridge family of a ruleset: whose every frame may be that a guest sends, as it enters its port."""

from __future__ import annotations

from arcbox_net.addresses import bridge_mac
from arcbox_net.host.linux import rules_neighbour
from arcbox_net.host.linux.never_routed import NEVER_ROUTED, NEVER_ROUTED6
from arcbox_net.host.linux.nft_text import chain, drop, elements_of, seen, table
from arcbox_net.host.linux.rule_elements import merge, port_elements
from arcbox_net.host.plan import FirewallPlan, port_prefix, uplink_ifname

BROADCASTS_PER_S_MAX = 1000
UNICAST = "meta pkttype != 1-2"  # neither broadcast nor multicast, by one comparison


def port_wildcard(network: str) -> str:
    """The interface name pattern that every guest port of *network* matches, and nothing else."""
    return port_prefix(network) + "*"


def bridge_table(plan: FirewallPlan) -> str:
    any_address = plan.subnet is None
    elements = merge(port_elements(port, any_address=any_address) for port in plan.ports)
    ports = f'iifname "{port_wildcard(plan.network)}"'
    return table(
        "bridge",
        plan.network,
        [
            elements_of(
                "set",
                "addresses",
                "typeof iifname . ether saddr . ip saddr",
                elements.get("addresses", ()),
                "port, MAC and IPv4 address that belong together",
            ),
            elements_of(
                "set",
                "macs",
                "typeof iifname . ether saddr",
                elements.get("macs", ()),
                "port and MAC that belong together",
            ),
            elements_of(
                "set",
                "any_address_ports",
                "type ifname",
                elements.get("any_address_ports", ()),
                "ports whose IPv4 address is assigned by someone else",
            ),
            elements_of(
                "set",
                "unfiltered_ports",
                "type ifname",
                elements.get("unfiltered_ports", ()),
                "ports that may send anything (anti_spoof = false)",
            ),
            seen(
                "broadcasters",
                "type ifname",
                "1m",
                "broadcasts and multicasts of each port in the last second",
            ),
            *rules_neighbour.sets(plan),
            chain(
                "prerouting",
                # The one rule that most frames meet: unicast IPv4 with the sender's own addresses, which name the port
                # as well. The first 16 bits of a transport header are the source port, the next 16 the destination:
                # what may be DHCP is looked at below. One is a range, because nft makes one comparison of two "!=":
                # of both ports at once.
                f"ether type ip @th,0,16 != 67 {UNICAST} @th,16,16 != 67-68 "
                "iifname . ether saddr . ip saddr @addresses accept",
                f"{UNICAST} {rules_neighbour.KNOWN_SPEAKER}" if plan.subnet6 is not None else "",
                f"{ports} goto from_guest",
                hook="filter hook prerouting priority filter",
            ),
            chain(
                "from_guest",
                "iifname @unfiltered_ports accept",
                # The switch limits each port behind its uplink.
                f'iifname != "{uplink_ifname(plan.network)}" meta pkttype {{ broadcast, multicast }} '
                "update @broadcasters "
                f"{{ iifname limit rate over {BROADCASTS_PER_S_MAX}/second "
                f"burst {BROADCASTS_PER_S_MAX} packets }} " + drop("broadcast storm"),
                "ether type ip udp sport 67 " + drop("rogue DHCP server"),
                "ether type ip udp dport 68 " + drop("rogue DHCP server"),
                "ether type ip iifname . ether saddr . ip saddr @addresses accept",
                "iifname . ether saddr != @macs " + drop("source MAC is not the guest's"),
                "ether type vmap { ip : goto ipv4, arp : goto arp_, ip6 : goto ipv6 }",
                # The bridge itself keeps frames to 01:80:c2:00:00:0x (LLDP, pause) from being forwarded.
                drop("neither IPv4, IPv6 nor ARP (VLAN, LLDP, STP)"),
            ),
            chain(
                "ipv4",
                "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
                "iifname @any_address_ports accept",
                drop("source IPv4 address is not the guest's"),
            ),
            chain(
                "arp_",
                "arp htype != 1 " + drop("malformed ARP"),
                "arp ptype != ip " + drop("malformed ARP"),
                "arp hlen != 6 " + drop("malformed ARP"),
                "arp plen != 4 " + drop("malformed ARP"),
                "arp operation != { request, reply } " + drop("malformed ARP"),
                "iifname . arp saddr ether != @macs " + drop("ARP sender MAC is not the guest's"),
                # RFC 5227: is its own address free? Asked for another's, that one would give it up.
                "arp operation request arp saddr ip 0.0.0.0 "
                "iifname . arp saddr ether . arp daddr ip @addresses accept",
                "iifname . arp saddr ether . arp saddr ip @addresses accept",
                "iifname @any_address_ports accept",
                drop("ARP sender address is not the guest's"),
            ),
            *rules_neighbour.chains(plan),
            _to_router(plan, ports),
        ],
    )


def _to_router(plan: FirewallPlan, ports: str) -> str:
    """What guests send by way of the gateway's MAC and beyond the subnet is the router's, which is on the bridge."""
    if plan.router_mac is None:
        return ""
    to_gateway = f"{ports} ether daddr {bridge_mac(plan.network)}"
    subnets: list[tuple[str, tuple[str, ...]]] = [("ip", (str(plan.subnet), *NEVER_ROUTED))]
    if plan.routes_ipv6:
        subnets.append(("ip6", (str(plan.subnet6), *NEVER_ROUTED6)))
    return chain(
        "to_router",
        *(
            f"{to_gateway} {family} daddr != {{ {', '.join(kept)} }} ether daddr set {plan.router_mac}"
            for family, kept in subnets
        ),
        # After the guests' frames were judged.
        hook="filter hook prerouting priority filter + 1",
        comment="packets for the outside: to the NAT engine instead of this host",
    )
