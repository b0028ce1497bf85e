"""The inet table of a network whose packets the relay takes. It is for a private network namespace.

*Theory of operation.* One chain, before connection tracking, decides what happens to a guest's packet, and
marks it for the policy routes of policy.py:

    to the gateway, to link-local and multicast     unmarked: the input chain below
    to a neighbour                                  unmarked: back to the bridge; dropped where isolated, and IPv6
    TCP, first SYN                                  DOOR + shard: out by the shard's TUN, where the relay reads it
    TCP, anything else                              LOCAL: to the relay's connection; DOOR + shard where none is found
    UDP, echo request                               DOOR + shard
    whatever else                                   dropped, counted

What the relay writes into its TUNs comes in there. TCP from a guest is what it has let in: a SYN that it has dialled
for, which `tproxy` hands to that shard's listener, or a segment whose connection a look at the kernel's table missed.
All else is for guests, and is routed to the bridge.

A segment without a connection is the relay's to answer, as a look at the table is no proof: while a handshake ends, the
connection leaves it for a moment, and the guest's first data may be there on another core (Linux up to 6.18).
An IPv6 packet that goes to the relay has a hash of its sender's MAC in the lower half of its flow label: that MAC is
the guest's for certain (rules_bridge.py), while its addresses are as many as it likes, and limits are per guest.
Nothing else in the namespace routes, so there is no forward chain: a packet without a mark has no way out.
Connections are tracked only while host_access needs `redirect`, and then only those to the gateway: each
further hook costs every packet of every guest.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network

from arcbox_net.host.linux.never_routed import GLOBAL_UNICAST, NEVER_ROUTED, NEVER_ROUTED6, SIX_TO_FOUR
from arcbox_net.host.linux.nft_text import any_of, chain, drop, table
from arcbox_net.host.linux.rule_elements import host_access_sets
from arcbox_net.host.linux.rules_gateway import gateway_addresses6, service_rules
from arcbox_net.host.plan import RELAY_MARK_DOOR, RELAY_MARK_LOCAL, FirewallPlan, RelayPlan

_SYN = "tcp flags & (fin | syn | rst | ack) == syn"
_NEVER = drop("destination is never routed")
_UNKNOWN = '"TCP of no known connection"'


def relay_table(plan: FirewallPlan, subnet: IPv4Network, relay: RelayPlan) -> str:
    bridge = f'"{plan.bridge}"'
    notrack = "notrack " if plan.redirects else ""
    door = f'iifname "{_common_prefix(relay)}*"'
    return table(
        "inet",
        plan.network,
        [
            *(host_access_sets(plan.redirects) if plan.redirects else []),
            chain(
                "prerouting",
                f"iifname {bridge} meta nfproto ipv4 goto from_guests",
                f"iifname {bridge} goto from_guests6",
                f"{door} meta l4proto tcp goto dialled",
                f"{door} {notrack}accept",
                hook="filter hook prerouting priority raw",
            ),
            _from_guests(plan, subnet, relay, notrack),
            _from_guests6(plan, relay, notrack),
            _unusual6(plan) if plan.subnet6 is not None else "",
            _dialled(plan, subnet, relay, notrack),
            *_host_access_chains(plan, bridge),
            *_input_chains(plan, bridge),
        ],
    )


def _common_prefix(relay: RelayPlan) -> str:
    return relay.shards[0].tun_ifname.removesuffix(str(relay.shards[0].index))


def _to_shard(plan: FirewallPlan, relay: RelayPlan, key: str, notrack: str) -> str:
    """Mark for the shard of *key*."""
    count = len(relay.shards)
    if count == 1:
        return f"meta mark set {RELAY_MARK_DOOR:#x} {notrack}accept"
    return f"meta mark set jhash {key} mod {count} seed {_seed(plan):#x} offset {RELAY_MARK_DOOR} {notrack}accept"


def _seed(plan: FirewallPlan) -> int:
    """It stays the same when the ruleset is applied anew, and with it the shards and the guests' labels."""
    return int(hashlib.sha256(plan.network.encode()).hexdigest()[:8], 16)


def _to_socket(notrack: str) -> str:
    """Mark for a socket of the relay that has this very peer: a connection, or what it has dialled to a guest."""
    return f"socket transparent 1 meta mark set {RELAY_MARK_LOCAL:#x} {notrack}accept"


def _to_connection(word: str, address: str, notrack: str) -> str:
    """Hand a segment to the connection that it belongs to. There is no listener at port 1 to take any other."""
    return (
        f"meta l4proto tcp tproxy {word} to {address}:1 meta mark set {RELAY_MARK_LOCAL:#x} {notrack}accept"
    )


def _unknown(plan: FirewallPlan, relay: RelayPlan, key: str, notrack: str) -> list[str]:
    """What is left of TCP goes to the relay: it has the connection, or it says RST (T28)."""
    return [
        "meta l4proto tcp tcp flags & (ack | rst) == 0 " + drop("malformed TCP flags"),
        f"meta l4proto tcp counter {_to_shard(plan, relay, key, notrack)} comment {_UNKNOWN}",
    ]


def _from_guests(plan: FirewallPlan, subnet: IPv4Network, relay: RelayPlan, notrack: str) -> str:
    here = any_of(plan.gateway, "255.255.255.255") if plan.gateway is None else str(plan.gateway)
    return chain(
        "from_guests",
        f"ip daddr {here} accept",
        f"ip daddr {subnet} " + (drop("guests are isolated from each other") if plan.isolated else "accept"),
        "ip daddr 255.255.255.255 accept",
        # One after the other: a lookup in a set of ranges costs three times as much.
        *(f"ip daddr {network} {_NEVER}" for network in NEVER_ROUTED),
        f"ip saddr != {subnet} " + drop("source is not in the subnet"),
        f"meta l4proto udp {_to_socket(notrack)}",
        f"meta l4proto udp {_to_shard(plan, relay, 'ip saddr . udp sport', notrack)}",
        f"{_SYN} {_to_shard(plan, relay, 'ip saddr . tcp sport', notrack)}",
        _to_connection("ip", "127.0.0.1", notrack),
        *_unknown(plan, relay, "ip saddr . tcp sport", notrack),
        f"icmp type echo-request {_to_shard(plan, relay, 'ip saddr', notrack)}",
        drop("neither TCP, UDP nor echo request"),
    )


def _from_guests6(plan: FirewallPlan, relay: RelayPlan, notrack: str) -> str:
    if plan.subnet6 is None:
        return chain("from_guests6", drop("IPv6 has no way out"))
    # nft has no word for a part of the label, and cannot compute into the whole of it. What it writes into 16 bits is
    # the upper half of the 32 computed, which is never 0.
    machine = f"@nh,16,16 set jhash ether saddr mod 0xffff0000 seed {_seed(plan):#x} offset 0x10000"
    return chain(
        "from_guests6",
        f"ip6 daddr != {GLOBAL_UNICAST} jump unusual",
        f"ip6 daddr {SIX_TO_FOUR} {_NEVER}",
        f"ip6 saddr != {plan.subnet6} " + drop("source is not in the subnet"),
        f"meta l4proto udp {_to_socket(notrack)}",
        f"meta l4proto udp {machine} {_to_shard(plan, relay, 'ip6 saddr . udp sport', notrack)}",
        f"{_SYN} {machine} {_to_shard(plan, relay, 'ip6 saddr . tcp sport', notrack)}",
        _to_connection("ip6", "[::1]", notrack),
        *_unknown(plan, relay, "ip6 saddr . tcp sport", notrack),
        f"icmpv6 type echo-request {machine} {_to_shard(plan, relay, 'ip6 saddr', notrack)}",
        drop("neither TCP, UDP nor echo request"),
    )


def _unusual6(plan: FirewallPlan) -> str:
    return chain(
        "unusual",
        f"ip6 daddr {gateway_addresses6(plan)} accept",
        # Neighbour discovery. The kernel routes neither.
        "ip6 daddr { fe80::/10, ff00::/8 } accept",
        # Guests of the same link need no router, and each address that one asks for takes a place in the
        # neighbour table, of which there is one for the whole machine.
        f"ip6 daddr {plan.subnet6} " + drop("a neighbour by way of the gateway"),
        f"ip6 daddr {{ {', '.join(NEVER_ROUTED6)} }} {_NEVER}",
        comment="outside of what IANA gives out as global unicast",
    )


def _dialled(plan: FirewallPlan, subnet: IPv4Network, relay: RelayPlan, notrack: str) -> str:
    to_listener = [
        f'meta nfproto {family} iifname "{shard.tun_ifname}" meta l4proto tcp tproxy {word} to {address}:{port} '
        f"meta mark set {RELAY_MARK_LOCAL:#x} {notrack}accept"
        for shard in relay.shards
        for family, word, address, port in (
            ("ipv4", "ip", "127.0.0.1", shard.tcp4_port),
            ("ipv6", "ip6", "[::1]", shard.tcp6_port),
        )
        if port  # no listener: the network has no IPv6
    ]
    return chain(
        "dialled",
        f"ip saddr != {subnet} {notrack}accept",  # a RST, for a guest
        f"ip6 saddr != {plan.subnet6} {notrack}accept" if plan.subnet6 is not None else "",
        *to_listener,
        drop("the relay does not listen"),
        comment="TCP that the relay has let in",
    )


def _host_access_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    if not plan.redirects:
        return []
    redirect = "meta l4proto { tcp, udp } redirect to :meta l4proto . th dport map @host_access"
    return [
        chain(
            "host_access_",
            f"iifname {bridge} ip daddr {plan.gateway} {redirect}" if plan.gateway is not None else "",
            f"iifname {bridge} ip6 daddr {gateway_addresses6(plan)} {redirect}" if plan.gateway6 else "",
            hook="nat hook prerouting priority dstnat",
        ),
        chain(
            "output",
            "socket transparent 1 notrack accept",
            hook="filter hook output priority raw",
            comment="the relay's connections, of which only one half would be tracked",
        ),
    ]


def _input_chains(plan: FirewallPlan, bridge: str) -> list[str]:
    errors = []
    if plan.gateway is not None:
        errors.append(
            f"ip daddr {plan.gateway} icmp type"
            " { echo-reply, destination-unreachable, time-exceeded, parameter-problem } accept"
        )
    if plan.gateway6 is not None:
        errors.append(
            f"ip6 daddr {gateway_addresses6(plan)} icmpv6 type"
            " { echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept"
        )
    redirected = "ct status dnat meta l4proto . th dport @relay_listeners accept" if plan.redirects else ""
    return [
        chain(
            "input",
            f"meta mark {RELAY_MARK_LOCAL:#x} accept",
            f"iifname {bridge} goto guests_to_host",
            hook="filter hook input priority filter",
        ),
        chain(
            "guests_to_host",
            *service_rules(plan, "accept"),
            redirected,
            # Answers to what the relay dialled from the gateway's own address.
            "socket transparent 1 accept",
            # And to what the network's owner runs inside.
            "tcp flags ack socket wildcard 0 accept",
            *errors,
            drop("not a service of the gateway"),
            comment="the gateway's services, and nothing else in this namespace",
        ),
    ]
