"""The nftables text of one network, as an admin reads it in `nft list ruleset`. Pure; nftables.py applies it.

Two tables of one name, because each family sees what the other cannot:

    bridge abx_NAME   every frame a guest sends, as it enters its port: whose it may be (MAC, IPv4, ARP)
    inet abx_NAME     every packet that is routed or for the host: where it may go, and NAT

A packet of a known connection meets one rule on each hook of the inet table, `ct status confirmed`: it is
true once a packet of that connection has passed all of this, and for its answers and ICMP errors. Unlike `ct
state established` it also holds for a UDP flow that nobody answers. The rest is for first packets.
Ports and forwards are elements of sets and maps, so that they come and go without replacing a rule.

First packets that are accepted carry SEEN_MARK from the inet table to the guard (guard.py), which runs next on
the same hook and drops what lacks it: what would pass while these tables are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from arcbox_net.host.plan import Dnat, FirewallPlan, HostAccessRedirect, PortPlan, port_ifname, table_name

# One bit that the usual users of packet marks leave alone (kube 14-15, Cilium 8-11, Tailscale and Calico
# 16-31, Istio and wg-quick low values). It is set only between our rule and the guard's.
SEEN_MARK = 0x2000

# RFC 4787 REQ-5, RFC 5382 REQ-5. nft's language has no timeouts for ICMP (RFC 5508 REQ-2).
UDP_IDLE_S = 300
TCP_ESTABLISHED_S = 7440
TCP_TRANSITORY_S = 240
BROADCASTS_PER_S_MAX = 1000

# Never routed for a guest: this-host, loopback, link-local (with it the cloud's metadata service: a guest
# must not get the host's credentials; the two others are Alibaba's and Azure's), multicast, reserved.
NEVER_ROUTED = (
    "0.0.0.0/8",
    "100.100.100.200",
    "127.0.0.0/8",
    "168.63.129.16",
    "169.254.0.0/16",
    "224.0.0.0/3",
)

_MARK = f"meta mark set meta mark or {SEEN_MARK:#x}"
_ACCEPT = "goto admit"


def render(plan: FirewallPlan) -> str:
    """The tables of *plan* as nft text: the same plan gives the same text."""
    tables = [_bridge_table(plan)]
    if plan.subnet is not None:
        tables.append(_inet_table(plan, plan.subnet))
    return "\n".join(tables)


def replacement(plan: FirewallPlan) -> str:
    """One transaction that puts the tables of *plan* in the place of whatever there was."""
    return removal(plan.network) + render(plan)


def removal(network: str) -> str:
    """One transaction that leaves no table of *network*, whether or not there was one."""
    table = table_name(network)
    return "".join(
        f"add table {family} {table}\ndelete table {family} {table}\n" for family in ("inet", "bridge")
    )


def port_elements(port: PortPlan, *, any_address: bool) -> dict[str, list[str]]:
    """The elements that let *port* speak, by set of the bridge table.

    `any_address`: a port without addresses may use every IPv4 source (bridge mode: others assign them).
    """
    name = f'"{port.ifname}"'
    if not port.anti_spoof:
        return {"unfiltered_ports": [name]}
    elements = {"macs": [f"{name} . {port.mac}"]}
    if port.ips:
        elements["addresses"] = [f"{name} . {port.mac} . {ip}" for ip in port.ips]
    elif any_address:
        elements["any_address_ports"] = [name]
    return elements


def dnat_elements(dnats: Iterable[Dnat]) -> dict[str, list[str]]:
    """The elements of the forward maps, by map of the inet table."""
    elements: dict[str, list[str]] = {}
    for dnat in dnats:
        target = f"{dnat.guest_ip} . {dnat.guest_port}"
        if dnat.host_ip is None:
            elements.setdefault("forwards_any", []).append(f"{dnat.protocol} . {dnat.host_port} : {target}")
        else:
            key = f"{dnat.protocol} . {dnat.host_ip} . {dnat.host_port}"
            elements.setdefault("forwards", []).append(f"{key} : {target}")
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


def port_wildcard(network: str) -> str:
    """The interface name pattern that every guest port of *network* matches, and nothing else."""
    return port_ifname(network, 0).removesuffix("0") + "*"


def _set(kind: str, name: str, columns: str, elements: Sequence[str], comment: str) -> str:
    lines = [f"\t# {comment}", f"\t{kind} {name} {{", f"\t\t{columns}"]
    if elements:
        lines.append("\t\telements = {\n\t\t\t" + ",\n\t\t\t".join(elements) + "\n\t\t}")
    return "\n".join([*lines, "\t}"])


def _chain(name: str, *rules: str, comment: str | None = None, hook: str | None = None) -> str:
    lines = [f"\t# {comment}"] if comment else []
    lines.append(f"\tchain {name} {{")
    if hook:
        lines.append(f"\t\ttype {hook}; policy accept;")
    lines.extend(f"\t\t{rule}" for rule in rules if rule)
    return "\n".join([*lines, "\t}"])


def _drop(reason: str) -> str:
    return f'counter drop comment "{reason}"'


def _table(family: str, network: str, parts: Iterable[str]) -> str:
    body = "\n\n".join(part for part in parts if part)
    return (
        f'table {family} {table_name(network)} {{\n\tcomment "arcbox-net network={network}"\n\n{body}\n}}\n'
    )


def _admit() -> str:
    return _chain(
        "admit",
        f"{_MARK} accept",
        comment="accepted: the mark tells the guard that these tables are in place",
    )


# -- bridge family: who may send what


def _bridge_table(plan: FirewallPlan) -> str:
    any_address = plan.subnet is None
    elements = merge(port_elements(port, any_address=any_address) for port in plan.ports)
    ports = f'iifname "{port_wildcard(plan.network)}"'
    return _table(
        "bridge",
        plan.network,
        [
            _set(
                "set",
                "addresses",
                "typeof iifname . ether saddr . ip saddr",
                elements.get("addresses", ()),
                "port, MAC and IPv4 address that belong together",
            ),
            _set(
                "set",
                "macs",
                "typeof iifname . ether saddr",
                elements.get("macs", ()),
                "port and MAC that belong together",
            ),
            _set(
                "set",
                "any_address_ports",
                "type ifname",
                elements.get("any_address_ports", ()),
                "ports whose IPv4 address is assigned by someone else",
            ),
            _set(
                "set",
                "unfiltered_ports",
                "type ifname",
                elements.get("unfiltered_ports", ()),
                "ports that may send anything (anti_spoof = false)",
            ),
            "\t# broadcasts and multicasts of each port in the last second\n"
            "\tset broadcasters {\n\t\ttype ifname\n\t\tsize 65535\n"
            "\t\tflags dynamic,timeout\n\t\ttimeout 1m\n\t}",
            _chain(
                "prerouting",
                # The one rule that most frames meet: unicast IPv4 with the sender's own addresses. The first 16 bits
                # of a transport header are the source port; 67 would be a DHCP server, and is looked at below.
                f"{ports} meta pkttype != broadcast meta pkttype != multicast ether type ip @th,0,16 != 67 "
                "iifname . ether saddr . ip saddr @addresses accept",
                f"{ports} goto from_guest",
                hook="filter hook prerouting priority filter",
            ),
            _chain(
                "from_guest",
                "iifname @unfiltered_ports accept",
                "meta pkttype { broadcast, multicast } update @broadcasters "
                f"{{ iifname limit rate over {BROADCASTS_PER_S_MAX}/second "
                f"burst {BROADCASTS_PER_S_MAX} packets }} " + _drop("broadcast storm"),
                "ether type ip udp sport 67 " + _drop("rogue DHCP server"),
                "ether type ip iifname . ether saddr . ip saddr @addresses accept",
                "iifname . ether saddr != @macs " + _drop("source MAC is not the guest's"),
                "ether type vmap { ip : goto ipv4, arp : goto arp_, ip6 : goto ipv6 }",
                # The bridge itself keeps frames to 01:80:c2:00:00:0x (LLDP, pause) from being forwarded.
                _drop("neither IPv4, IPv6 nor ARP (VLAN, LLDP, STP)"),
            ),
            _chain(
                "ipv4",
                "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
                "iifname @any_address_ports accept",
                _drop("source IPv4 address is not the guest's"),
            ),
            _chain(
                "arp_",
                "arp htype != 1 " + _drop("malformed ARP"),
                "arp ptype != ip " + _drop("malformed ARP"),
                "arp hlen != 6 " + _drop("malformed ARP"),
                "arp plen != 4 " + _drop("malformed ARP"),
                "arp operation != { request, reply } " + _drop("malformed ARP"),
                "iifname . arp saddr ether != @macs " + _drop("ARP sender MAC is not the guest's"),
                "arp operation request arp saddr ip 0.0.0.0 accept",
                "iifname . arp saddr ether . arp saddr ip @addresses accept",
                "iifname @any_address_ports accept",
                _drop("ARP sender address is not the guest's"),
            ),
            _chain(
                "ipv6",
                "udp sport 547 " + _drop("rogue DHCPv6 server"),
                "meta l4proto { tcp, udp } accept",
                "meta l4proto ipv6-icmp goto icmpv6_",
                _drop("IPv6 with a hidden or unusual upper layer"),
            ),
            _chain(
                "icmpv6_",
                # RFC 6980, RFC 7113: a fragment header is how a router advertisement hides from a filter.
                "exthdr frag exists " + _drop("fragmented ICMPv6"),
                "icmpv6 type { nd-router-advert, nd-redirect } "
                + _drop("rogue router advertisement or redirect"),
                "accept",
            ),
        ],
    )


# -- inet family: where it may go


def _inet_table(plan: FirewallPlan, subnet: IPv4Network) -> str:
    bridge = f'"{plan.bridge}"'
    forwards = dnat_elements(plan.dnats)
    redirects = redirect_elements(plan.redirects)
    return _table(
        "inet",
        plan.network,
        [
            _set(
                "map",
                "forwards",
                "type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service",
                forwards.get("forwards", ()),
                "one address of the host: protocol, address, host port : guest, guest port",
            ),
            _set(
                "map",
                "forwards_any",
                "type inet_proto . inet_service : ipv4_addr . inet_service",
                forwards.get("forwards_any", ()),
                "every address of the host: protocol, host port : guest, guest port",
            ),
            _set(
                "map",
                "host_access",
                "type inet_proto . inet_service : inet_service",
                redirects.get("host_access", ()),
                "ports of the host's loopback that guests may use : our relay's listener",
            ),
            _set(
                "set",
                "relay_listeners",
                "type inet_proto . inet_service",
                redirects.get("relay_listeners", ()),
                "where host_access ends up; not reachable directly",
            ),
            _timeouts(),
            _admit(),
            *_dnat_chains(plan, bridge),
            *_forward_chains(plan, subnet, bridge),
            *_input_chains(plan, bridge),
            _postrouting(plan, subnet, bridge),
        ],
    )


def _timeouts() -> str:
    states = (
        "syn_sent",
        "syn_recv",
        "established",
        "fin_wait",
        "close_wait",
        "last_ack",
        "time_wait",
        "close",
    )
    seconds = [TCP_ESTABLISHED_S if state == "established" else TCP_TRANSITORY_S for state in states]
    tcp = ", ".join(f"{state} : {value}" for state, value in zip(states, seconds, strict=True))
    return (
        "\t# how long an idle connection lives: RFC 5382 and RFC 4787, REQ-5; kernel defaults are shorter\n"
        f"\tct timeout tcp_idle {{\n\t\tprotocol tcp; l3proto ip\n\t\tpolicy = {{ {tcp} }}\n\t}}\n\n"
        "\tct timeout udp_idle {\n\t\tprotocol udp; l3proto ip\n"
        f"\t\tpolicy = {{ unreplied : {UDP_IDLE_S}, replied : {UDP_IDLE_S} }}\n\t}}\n\n"
        + _chain(
            "connection",
            'meta l4proto tcp ct timeout set "tcp_idle"',
            'udp dport != 53 ct timeout set "udp_idle"',
            _ACCEPT,
            comment="every new connection from or to a guest ends here",
        )
    )


def _dnat_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    """Forwards, for packets that arrive and for programs on the host itself."""
    to_one = "dnat ip to meta l4proto . ip daddr . th dport map @forwards"
    # Never loopback: a packet from the wire with such a destination is to meet the kernel's martian check.
    to_any = (
        "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @forwards_any"
    )
    from_guest = []
    if plan.gateway is not None:
        at_gateway = f"iifname {bridge} ip daddr {plan.gateway}"
        if plan.dhcp:
            from_guest.append(f"{at_gateway} udp dport 67 accept")
        if plan.dns:
            from_guest.append(f"{at_gateway} meta l4proto {{ tcp, udp }} th dport 53 accept")
        from_guest.insert(
            0,
            f"{at_gateway} meta l4proto {{ tcp, udp }} redirect to :meta l4proto . th dport map @host_access",
        )
    return [
        _chain(
            "prerouting",
            *from_guest,
            to_one,
            to_any,
            hook="nat hook prerouting priority dstnat",
            comment="host ports to guests; the client's address is kept",
        ),
        _chain(
            "output",
            to_one,
            to_any,
            hook="nat hook output priority -100",
            comment="the same for programs on this host",
        ),
    ]


def _forward_chains(plan: FirewallPlan, subnet: IPv4Network, bridge: str) -> list[str]:
    among_guests = (
        f"oifname {bridge} " + _drop("guests are isolated from each other")
        if plan.isolated
        else f"oifname {bridge} {_ACCEPT}"
    )
    outside = ["goto connection"] if plan.masquerade else [_drop("the network is host-only")]
    return [
        _chain(
            "forward",
            "ct status confirmed accept",
            f"iifname {bridge} goto from_guests",
            f"oifname {bridge} goto to_guests",
            hook="filter hook forward priority filter",
        ),
        _chain(
            "from_guests",
            # With bridge-nf-call-iptables, frames between guests come here too; the bridge has judged them.
            f"oifname {bridge} ct status dnat goto connection" if not plan.isolated else "",
            among_guests,
            # Not in a connection and not the start of one: it would leave without NAT.
            "ct state != new " + _drop("belongs to no connection"),
            f"ip saddr != {subnet} " + _drop("source is not in the subnet"),
            "meta nfproto ipv6 " + _drop("IPv6 has no way out"),
            f"ip daddr {{ {', '.join(NEVER_ROUTED)} }} " + _drop("destination is never routed"),
            'oifname "abx-*" ct status & dnat == 0 ' + _drop("another network of this host"),
            *outside,
        ),
        _chain(
            "to_guests",
            "ct state new ct status dnat goto connection",
            _drop("no forward leads there"),
            comment="from outside: only what a forward sends there",
        ),
    ]


def _input_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    gateway = plan.gateway
    allowed = []
    if plan.dhcp:
        # A client without an address has no connection: the two port numbers decide.
        destinations = "255.255.255.255" if gateway is None else f"{{ 255.255.255.255, {gateway} }}"
        allowed.append(f"ip daddr {destinations} udp sport 68 udp dport 67 {_ACCEPT}")
    if gateway is not None:
        if plan.dns:
            allowed.append(f"ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 {_ACCEPT}")
        allowed.append(f"ip daddr {gateway} icmp type echo-request {_ACCEPT}")
        allowed.append(
            f"ip daddr {gateway} ct status dnat meta l4proto . th dport @relay_listeners {_ACCEPT}"
        )
    foreign = (
        f'ip daddr {gateway} iifname != "lo" ct state != established,related '
        + _drop("the gateway address is for guests only")
        if gateway is not None
        else ""
    )
    return [
        _chain(
            "input",
            f"iifname {bridge} goto guests_to_host",
            foreign,
            hook="filter hook input priority filter",
        ),
        _chain(
            "guests_to_host",
            "ct status confirmed accept",
            *allowed,
            _drop("not a service of the gateway"),
            comment="the gateway's services, and nothing else of this host",
        ),
    ]


def _postrouting(plan: FirewallPlan, subnet: IPv4Network, bridge: str) -> str:
    outside = f"ip saddr {subnet} ip daddr != {subnet} oifname != {bridge} masquerade"
    hairpin = f"ip saddr {subnet} ip daddr {subnet} oifname {bridge} ct status dnat masquerade"
    return _chain(
        "postrouting",
        outside if plan.masquerade else "",
        # The other guest would answer its neighbour directly, past the translation.
        hairpin,
        hook="nat hook postrouting priority srcnat",
        comment="outbound, and guest to guest by the host's address",
    )
