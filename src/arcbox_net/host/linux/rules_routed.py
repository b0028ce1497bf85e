"""The inet table of a network whose packets the host routes itself: masquerade, or host-only.

A packet of a known connection meets one rule on each hook, `ct status confirmed`: it is true once a packet of
that connection has passed all of this, and for its answers and ICMP errors. Unlike `ct state established` it
also holds for a UDP flow that nobody answers. The rest is for first packets.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from arcbox_net.addresses import bridge_mac
from arcbox_net.host.linux.never_routed import NEVER_ROUTED, NEVER_ROUTED6
from arcbox_net.host.linux.nft_text import chain, drop, elements_of, table
from arcbox_net.host.linux.rule_elements import dnat_elements, host_access_sets
from arcbox_net.host.linux.rules_gateway import gateway_addresses6, service_rules
from arcbox_net.host.plan import FirewallPlan

# One bit that the usual users of packet marks leave alone (kube 14-15, Cilium 8-11, Tailscale and Calico
# 16-31, Istio and wg-quick low values). It is set only between our rule and the guard's.
SEEN_MARK = 0x2000

# RFC 4787 REQ-5, RFC 5382 REQ-5. nft's language has no timeouts for ICMP (RFC 5508 REQ-2).
UDP_IDLE_S = 300
TCP_ESTABLISHED_S = 7440
TCP_TRANSITORY_S = 240

ACCEPT = "goto admit"


def routed_table(plan: FirewallPlan, subnet: IPv4Network) -> str:
    bridge = f'"{plan.bridge}"'
    return table(
        "inet",
        plan.network,
        [
            *_maps(plan),
            _timeouts(plan),
            chain(
                "admit",
                f"meta mark set meta mark or {SEEN_MARK:#x} accept",
                comment="accepted: the mark tells the guard that these tables are in place",
            ),
            *_untracked_chains(plan, bridge),
            *_dnat_chains(plan, bridge),
            *_forward_chains(plan, subnet, bridge),
            *_input_chains(plan, bridge),
            _postrouting(plan, subnet, bridge),
        ],
    )


def _maps(plan: FirewallPlan) -> list[str]:
    forwards = dnat_elements(plan.dnats)
    maps = []
    for suffix, address in (("", "ipv4_addr"), ("6", "ipv6_addr")):
        if suffix and plan.subnet6 is None:
            continue
        maps += [
            elements_of(
                "map",
                f"forwards{suffix}",
                f"type inet_proto . {address} . inet_service : {address} . inet_service",
                forwards.get(f"forwards{suffix}", ()),
                "one address of the host: protocol, address, host port : guest, guest port",
            ),
            elements_of(
                "map",
                f"forwards{suffix}_any",
                f"type inet_proto . inet_service : {address} . inet_service",
                forwards.get(f"forwards{suffix}_any", ()),
                "every address of the host: protocol, host port : guest, guest port",
            ),
        ]
    return [
        *maps,
        *host_access_sets(plan.redirects),
    ]


def _timeouts(plan: FirewallPlan) -> str:
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
    udp = f"unreplied : {UDP_IDLE_S}, replied : {UDP_IDLE_S}"
    families = [("", "ip")] if plan.subnet6 is None else [("", "ip"), ("6", "ip6")]
    objects = "\n\n".join(
        f"\tct timeout {protocol}_idle{suffix} {{\n\t\tprotocol {protocol}; l3proto {family}\n"
        f"\t\tpolicy = {{ {policy} }}\n\t}}"
        for suffix, family in families
        for protocol, policy in (("tcp", tcp), ("udp", udp))
    )
    return (
        "\t# how long an idle connection lives: RFC 5382 and RFC 4787, REQ-5; kernel defaults are shorter\n"
        f"{objects}\n\n"
        + chain(
            "connection",
            "" if plan.subnet6 is None else "meta nfproto ipv6 goto connection6",
            'meta l4proto tcp ct timeout set "tcp_idle"',
            'udp dport != 53 ct timeout set "udp_idle"',
            ACCEPT,
            comment="every new connection from or to a guest ends here",
        )
        + (
            ""
            if plan.subnet6 is None
            else "\n\n"
            + chain(
                "connection6",
                'meta l4proto tcp ct timeout set "tcp_idle6"',
                'udp dport != 53 ct timeout set "udp_idle6"',
                ACCEPT,
            )
        )
    )


def _untracked_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    """Questions to our DHCP and DNS need no connection: they are answered, too, when the host's table is full."""
    questions, answers = [], []
    if plan.dhcp:
        # Its server reads frames, which pass here with bridge-nf-call-iptables only.
        questions.append(f"iifname {bridge} udp sport 68 udp dport 67 notrack")
    if plan.dns and not plan.redirects_dns:
        for family, address in (
            ("ip", plan.gateway),
            ("ip6", gateway_addresses6(plan) if plan.gateway6 is not None else None),
        ):
            if address is not None:
                questions.append(f"iifname {bridge} {family} daddr {address} udp dport 53 notrack")
                answers.append(f"oifname {bridge} {family} saddr {address} udp sport 53 notrack")
    chains = []
    if questions:
        comment = "the gateway's services work, too, when there is room for no other connection"
        hook = "filter hook prerouting priority raw"
        chains.append(chain("questions", *questions, hook=hook, comment=comment))
    if answers:
        chains.append(chain("answers", *answers, hook="filter hook output priority raw"))
    return chains


def _dnat_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    """Forwards, for packets that arrive and for programs on the host itself."""
    translate = [
        "dnat ip to meta l4proto . ip daddr . th dport map @forwards",
        # Never loopback: a packet from the wire with such a destination is to meet the kernel's martian check.
        "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @forwards_any",
    ]
    from_guest = []
    if plan.gateway is not None:
        at_gateway = f"iifname {bridge} ip daddr {plan.gateway}"
        from_guest.append(
            f"{at_gateway} meta l4proto {{ tcp, udp }} redirect to :meta l4proto . th dport map @host_access"
        )
        if plan.dhcp:
            from_guest.append(f"{at_gateway} udp dport 67 accept")
        if plan.dns:
            from_guest.append(f"{at_gateway} meta l4proto {{ tcp, udp }} th dport 53 accept")
    if plan.subnet6 is not None:
        translate += [
            "dnat ip6 to meta l4proto . ip6 daddr . th dport map @forwards6",
            # A link-local client means nothing to a guest: it would answer on its own link.
            "ip6 daddr != { ::1, fe80::/10 } fib daddr type local "
            "dnat ip6 to meta l4proto . th dport map @forwards6_any",
        ]
        at_gateway = f"iifname {bridge} ip6 daddr {gateway_addresses6(plan)}"
        from_guest.append(
            f"{at_gateway} meta l4proto {{ tcp, udp }} redirect to :meta l4proto . th dport map @host_access"
        )
        if plan.dns:
            from_guest.append(f"{at_gateway} meta l4proto {{ tcp, udp }} th dport 53 accept")
    return [
        chain(
            "prerouting",
            *from_guest,
            *translate,
            hook="nat hook prerouting priority dstnat",
            comment="host ports to guests; the client's address is kept",
        ),
        chain(
            "output",
            *translate,
            hook="nat hook output priority -100",
            comment="the same for programs on this host",
        ),
    ]


def _forward_chains(plan: FirewallPlan, subnet: IPv4Network, bridge: str) -> list[str]:
    among_guests = [f"oifname {bridge} {ACCEPT}"]
    if plan.isolated:
        # Frames between a guest and the NAT engine's router come here too with bridge-nf-call-iptables.
        of_guests = f"ip saddr {subnet} ip daddr {subnet} " if plan.router_mac is not None else ""
        kept_apart = f"oifname {bridge} {of_guests}" + drop("guests are isolated from each other")
        among_guests = [kept_apart, *(among_guests if of_guests else ())]
    outside = "goto connection" if plan.masquerade else drop("the network is host-only")
    # Guests of the same link need no router, and each address that one asks for takes a place in the neighbour
    # table, of which there is one for the whole machine.
    by_gateway = (
        f"ip6 daddr {plan.subnet6} ether daddr {bridge_mac(plan.network)} "
        + drop("a neighbour by way of the gateway")
        if plan.subnet6 is not None
        else ""
    )
    if plan.subnet6 is None:
        ipv6 = ["meta nfproto ipv6 " + drop("IPv6 has no way out")]
    else:
        ipv6 = [
            f"ip6 saddr != {plan.subnet6} " + drop("source is not in the subnet"),
            f"ip6 daddr {{ {', '.join(NEVER_ROUTED6)} }} " + drop("destination is never routed"),
        ]
    return [
        chain(
            "forward",
            "ct status confirmed accept",
            f"iifname {bridge} goto from_guests",
            f"oifname {bridge} goto to_guests",
            hook="filter hook forward priority filter",
        ),
        chain(
            "from_guests",
            # With bridge-nf-call-iptables, frames between guests come here too; the bridge has judged them.
            f"oifname {bridge} ct status dnat goto connection" if not plan.isolated else "",
            by_gateway,
            *among_guests,
            # Not in a connection and not the start of one: it would leave without NAT.
            "ct state != new " + drop("belongs to no connection"),
            f"ip saddr != {subnet} " + drop("source is not in the subnet"),
            f"ip daddr {{ {', '.join(NEVER_ROUTED)} }} " + drop("destination is never routed"),
            *ipv6,
            'oifname "abx-*" ct status & dnat == 0 ' + drop("another network of this host"),
            outside,
        ),
        chain(
            "to_guests",
            "ct state new ct status dnat goto connection",
            drop("no forward leads there"),
            comment="from outside: only what a forward sends there",
        ),
    ]


def _input_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    redirected = "ct status dnat meta l4proto . th dport @relay_listeners"
    allowed = service_rules(plan, ACCEPT)
    foreign = []
    only_guests = 'iifname != "lo" ct state != established,related ' + drop(
        "the gateway address is for guests only"
    )
    if plan.gateway is not None:
        allowed.append(f"ip daddr {plan.gateway} {redirected} {ACCEPT}")
        foreign.append(f"ip daddr {plan.gateway} {only_guests}")
    if plan.gateway6 is not None:
        allowed.append(f"ip6 daddr {gateway_addresses6(plan)} {redirected} {ACCEPT}")
        foreign.append(f"ip6 daddr {plan.gateway6} {only_guests}")
    return [
        chain(
            "input",
            f"iifname {bridge} goto guests_to_host",
            *foreign,
            hook="filter hook input priority filter",
        ),
        chain(
            "guests_to_host",
            "ct status confirmed accept",
            *allowed,
            drop("not a service of the gateway"),
            comment="the gateway's services, and nothing else of this host",
        ),
    ]


def _postrouting(plan: FirewallPlan, subnet: IPv4Network, bridge: str) -> str:
    rules = []
    for family, net in (("ip", subnet), ("ip6", plan.subnet6)):
        if net is None:
            continue
        if plan.masquerade:
            rules.append(
                f"{family} saddr {net} {family} daddr != {net} oifname != {bridge} masquerade",
            )
        # The other guest would answer its neighbour directly, past the translation.
        rules.append(f"{family} saddr {net} {family} daddr {net} oifname {bridge} ct status dnat masquerade")
    return chain(
        "postrouting",
        *rules,
        hook="nat hook postrouting priority srcnat",
        comment="outbound, and guest to guest by the host's address",
    )
