"""IPv6 as guests may speak it on the bridge: no routers, and no address that is somebody else's.

*Theory of operation.* Guests choose their own IPv6 addresses (SLAAC, with temporary ones), so nobody can say
beforehand whose an address is. The first to use it has it (`owners6`), for as long as it speaks now and then.
A duplicate address detection counts as use: who probes first gets the address, and nobody can answer to
deny it. Nor can anybody else probe for it until its owner is sure of it (`tentative6`), which RFC 4862, 5.4.3
takes for an answer; later probes pass, and are answered by the owner. The addresses of the gateway are never a
guest's, nor any outside of the network's prefix.

    unicast TCP and UDP of a speaker heard within a minute     accepted by one rule in `prerouting`
    everything else                                            from_guest → ipv6 → [icmpv6_ →] source6
    neighbour advertisements, probes for duplicates            the target, too, must be the guest's own

In bridge mode addresses are the LAN's business: there only routers and malformed packets are looked for.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from arcbox_net.host.linux.nft_text import chain, drop, seen
from arcbox_net.host.plan import GATEWAY_LINK_LOCAL, FirewallPlan

CLAIMS_PER_MINUTE_MAX = 30
CLAIMS_BURST_MAX = 64  # a guest with eight temporary addresses on each of some prefixes starts with no more
OWNED_FOR = "10m"
SPEAKS_FOR = "1m"
TENTATIVE_FOR = "3s"  # one probe is usual, a second after which the address is taken

# No extension headers, so that what is looked at is the transport header. Ranges as for IPv4 in rules_bridge.
_NO_DHCP = "@th,0,16 != 546-547 @th,16,16 != 546-547"
KNOWN_SPEAKER = f"ip6 nexthdr {{ tcp, udp }} {_NO_DHCP} iifname . ether saddr . ip6 saddr @speakers6 accept"

# nft 1.0 has no word for the target of ND, and compares what it has no word for with its like only.
_SOURCE = "@nh,64,128"
_TARGET = "@th,64,128"
_OWN = "typeof @nh,64,128 . ether saddr"


def sets(plan: FirewallPlan) -> list[str]:
    if plan.subnet6 is None:
        return []
    return [
        seen("owners6", _OWN, OWNED_FOR, "IPv6 address and the MAC that has it"),
        seen(
            "tentative6",
            "typeof @nh,64,128",
            TENTATIVE_FOR,
            "IPv6 addresses that their guest has just probed",
        ),
        seen("taken6", "typeof @nh,64,128", OWNED_FOR, "IPv6 addresses that some guest has"),
        seen(
            "speakers6",
            "typeof iifname . ether saddr . ip6 saddr",
            SPEAKS_FOR,
            "port, MAC and IPv6 address that belong together, as of late",
        ),
        seen("claimers", "typeof ether saddr", "5m", "new IPv6 addresses of each guest in the last minutes"),
    ]


def chains(plan: FirewallPlan) -> list[str]:
    own = plan.subnet6 is not None
    found = [
        chain(
            "ipv6",
            "udp sport 547 " + drop("rogue DHCPv6 server"),
            "udp dport 546 " + drop("rogue DHCPv6 server"),
            "meta l4proto ipv6-icmp goto icmpv6_",
            "" if own else "meta l4proto { tcp, udp } accept",
            "meta l4proto { tcp, udp } goto source6" if own else "",
            drop("IPv6 with a hidden or unusual upper layer"),
        ),
        chain(
            "icmpv6_",
            # RFC 6980, RFC 7113: a fragment header is how a router advertisement hides from a filter.
            "exthdr frag exists " + drop("fragmented ICMPv6"),
            "icmpv6 type { nd-router-advert, nd-redirect } " + drop("rogue router advertisement or redirect"),
            # RFC 4861, 7.1: what was routed here is not from a neighbour.
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit != 255 "
            + drop("neighbour discovery from beyond the link"),
            "icmpv6 type nd-neighbor-advert goto advert" if own else "",
            "ip6 saddr :: goto unaddressed" if own else "",
            "goto source6" if own else "accept",
        ),
    ]
    if plan.subnet6 is not None:
        found += _ownership(plan, plan.subnet6)
    return found


def _ownership(plan: FirewallPlan, subnet: IPv6Network) -> list[str]:
    gateways = [GATEWAY_LINK_LOCAL.ip, subnet.network_address]  # the latter: subnet-router anycast
    if plan.gateway6 is not None:
        gateways.insert(0, plan.gateway6)
    foreign = f"ip6 saddr != {{ fe80::/10, {subnet} }}"
    # The same of an ND target: fe80::/10 by its first 10 bits, the subnet by its prefix.
    prefix = int(subnet.network_address) >> (128 - subnet.prefixlen)
    foreign_target = f"@th,64,10 != 0x3fa @th,64,{subnet.prefixlen} != {prefix:#x}"
    gateway_target = f"{_TARGET} {{ {', '.join(_number(address) for address in gateways)} }}"
    return [
        chain(
            "unaddressed",
            "icmpv6 type nd-neighbor-solicit goto probe",
            "icmpv6 type { nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
            drop("IPv6 without a source address"),
        ),
        chain(
            "probe",
            f"{_TARGET} . ether saddr @owners6 update @tentative6 {{ {_TARGET} }} accept",
            f"{_TARGET} @tentative6 " + drop("probe for an address that its guest is not sure of yet"),
            # Whoever has it answers.
            f"{gateway_target} accept",
            f"{_TARGET} @taken6 accept",
            "goto claim_target",
        ),
        chain(
            "advert",
            f"{_TARGET} . ether saddr @owners6 goto source6",
            f"{gateway_target} " + drop("ND target is the gateway's"),
            f"{_TARGET} @taken6 " + drop("ND target is another guest's"),
            "goto claim_target",
        ),
        chain(
            "claim_target",
            f"{foreign_target} " + drop("ND target is not in this network"),
            _claim_limit(),
            f"add @taken6 {{ {_TARGET} }} add @owners6 {{ {_TARGET} . ether saddr }} ip6 saddr :: "
            f"update @tentative6 {{ {_TARGET} }} accept",
            f"{_TARGET} . ether saddr @owners6 goto source6",
            drop("too many IPv6 addresses in the network"),
        ),
        chain(
            "source6",
            f"{_SOURCE} . ether saddr @owners6 goto own_source",
            f"ip6 saddr {{ {', '.join(map(str, gateways))} }} "
            + drop("source IPv6 address is the gateway's"),
            f"{foreign} " + drop("source IPv6 address is not in this network"),
            f"{_SOURCE} @taken6 " + drop("source IPv6 address is another guest's"),
            _claim_limit(),
            "goto own_source",
        ),
        chain(
            "own_source",
            f"update @taken6 {{ {_SOURCE} }} update @owners6 {{ {_SOURCE} . ether saddr }} "
            "update @speakers6 { iifname . ether saddr . ip6 saddr } accept",
            drop("too many IPv6 addresses in the network"),
        ),
    ]


def _claim_limit() -> str:
    return (
        f"update @claimers {{ ether saddr limit rate over {CLAIMS_PER_MINUTE_MAX}/minute "
        f"burst {CLAIMS_BURST_MAX} packets }} " + drop("too many new IPv6 addresses")
    )


def _number(address: IPv6Address) -> str:
    return f"{int(address):#x}"
