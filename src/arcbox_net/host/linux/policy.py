"""How marked packets find their way in a private network namespace: policy rules, their tables, forwarding.

    fwmark 1 → table 100: everything is local         packets for the relay's connections
    fwmark 0x100+k → table 200+k: by abx-out_k        packets for the relay's thread k

The `local` table comes first, as ever: what is for the gateway itself needs no mark.
"""

from __future__ import annotations

import socket
from typing import Final

from arcbox_net.errors import LimitReached
from arcbox_net.host.linux import rtrules
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.plan import RELAY_MARK_DOOR, RELAY_MARK_LOCAL, RelayPlan

TABLE_LOCAL: Final = 100
TABLE_DOOR: Final = 200
SHARDS_MAX: Final = 50  # tables from 253 on are the kernel's
PRIORITY: Final = 100
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
# A new namespace takes its IPv4 settings from the host's, so those that matter are set.
SYSCTLS: Final = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    # With br_netfilter loaded, every bridged frame would pass the hooks of IP too.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
    # A SYN that early demux finds a socket for, such as one in TIME_WAIT, would be dropped instead of forwarded.
    ("net/ipv4/tcp_early_demux", "0"),
)


def apply_policy(kernel: Kernel, plan: RelayPlan) -> None:
    """Make forwarding, rules and routes as planned, whatever there is; the TUNs must exist."""
    if len(plan.shards) > SHARDS_MAX:
        raise LimitReached(
            f"{len(plan.shards)} relay threads: there can be {SHARDS_MAX}",
            limit="relay threads",
            value=len(plan.shards),
        )
    for name, value in SYSCTLS:
        kernel.write_sysctl(name, value)
    loopback = kernel.rt.need_link("lo")
    kernel.set_link(loopback, operation="bring up", up=True)
    doors = {TABLE_DOOR + shard.index: kernel.rt.need_link(shard.tun_ifname) for shard in plan.shards}
    for family in FAMILIES:
        _apply_rules(kernel, family, plan)
        rtrules.set_default_route(kernel.rt, family, TABLE_LOCAL, loopback.ifindex, local=True)
        for table, link in doors.items():
            rtrules.set_default_route(kernel.rt, family, table, link.ifindex, local=False)


def remove_policy(kernel: Kernel, plan: RelayPlan) -> None:
    """Remove the rules and tables of *plan*, as far as they are there. Forwarding stays as it is."""
    wanted = set(_rules(plan))
    for family in FAMILIES:
        for rule in rtrules.mark_rules(kernel.rt, family):
            if rule[:3] in wanted:
                rtrules.delete_rule(kernel.rt, rule)
        for _, _, table in sorted(wanted):
            rtrules.clear_table(kernel.rt, family, table)


def _apply_rules(kernel: Kernel, family: int, plan: RelayPlan) -> None:
    """The rules of *plan*, and no other by mark: in this namespace nobody else marks packets."""
    wanted = _rules(plan)
    present = rtrules.mark_rules(kernel.rt, family)
    for rule in present:
        if rule[:3] not in wanted:
            rtrules.delete_rule(kernel.rt, rule)
    for priority, mark, table in wanted:
        if all(rule[:3] != (priority, mark, table) for rule in present):
            rtrules.add_mark_rule(kernel.rt, family, priority=priority, mark=mark, table=table)


def _rules(plan: RelayPlan) -> list[tuple[int, int, int]]:
    """Priority, mark and table of each."""
    doors = [
        (PRIORITY + 1 + shard.index, RELAY_MARK_DOOR + shard.index, TABLE_DOOR + shard.index)
        for shard in plan.shards
    ]
    return [(PRIORITY, RELAY_MARK_LOCAL, TABLE_LOCAL), *doors]
