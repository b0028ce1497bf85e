"""The nftables text of one network, as an admin reads it in `nft list ruleset`. Pure; nftables.py applies it.

Two tables of one name, because each family sees what the other cannot:

    bridge abx_NAME   every frame a guest sends, as it enters its port: whose it may be    rules_bridge.py
    inet abx_NAME     every packet that is routed or for the host: where it may go         rules_routed.py, or with
                                                                                  egress relay rules_relay.py

Ports and forwards are elements of sets and maps, so that they come and go without replacing a rule.

First packets that are accepted carry SEEN_MARK from the inet table to the guard (guard.py), which runs next on
the same hook and drops what lacks it: what would pass while these tables are missing.
"""

from __future__ import annotations

from arcbox_net.host.linux.rule_elements import (
    dnat_elements,
    element_changes,
    port_elements,
    redirect_elements,
)
from arcbox_net.host.linux.rules_bridge import bridge_table
from arcbox_net.host.linux.rules_relay import relay_table
from arcbox_net.host.linux.rules_routed import SEEN_MARK, routed_table
from arcbox_net.host.plan import FirewallPlan, table_name

__all__ = [
    "SEEN_MARK",
    "dnat_elements",
    "element_changes",
    "port_elements",
    "redirect_elements",
    "removal",
    "render",
    "replacement",
]


def render(plan: FirewallPlan) -> str:
    """The tables of *plan* as nft text: the same plan gives the same text."""
    tables = [bridge_table(plan)]
    if plan.subnet is not None:
        if plan.relay is not None:
            tables.append(relay_table(plan, plan.subnet, plan.relay))
        else:
            tables.append(routed_table(plan, plan.subnet))
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
