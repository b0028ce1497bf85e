"""Policy rules of rtnetlink by packet mark, and the default routes of the tables that they lead to."""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attr_u32,
    attrs,
    kernel_error,
    mapping_get_u32,
)
from arcbox_net.host.linux.rtsocket import RouteSocket

RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34
FRA_PRIORITY: Final = 6
FRA_FWMARK: Final = 10
FRA_TABLE: Final = 15
FR_ACT_TO_TBL: Final = 1
RTN_LOCAL: Final = 2
RT_SCOPE_HOST: Final = 254
FIB_RULE: Final = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr: family … table, action, flags


class Rule(NamedTuple):
    """A policy rule, with the payload it came in."""

    priority: int
    mark: int
    table: int
    raw: bytes


def mark_rules(rt: RouteSocket, family: int) -> list[Rule]:
    """The rules of *family* that look at a mark."""
    found = []
    for message in rt.dump(RTM_GETRULE, FIB_RULE.pack(family, 0, 0, 0, 0, 0, 0)):
        its_family, _, _, _, table, _, _ = FIB_RULE.unpack_from(message.payload)
        parts = attrs(message.payload, FIB_RULE.size)
        if its_family == family and FRA_FWMARK in parts:
            found.append(
                Rule(
                    mapping_get_u32(parts, FRA_PRIORITY),
                    mapping_get_u32(parts, FRA_FWMARK),
                    mapping_get_u32(parts, FRA_TABLE, table),
                    message.payload,
                )
            )
    return found


def add_mark_rule(rt: RouteSocket, family: int, *, priority: int, mark: int, table: int) -> None:
    payload = (
        FIB_RULE.pack(family, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
        + attr_u32(FRA_PRIORITY, priority)
        + attr_u32(FRA_FWMARK, mark)
        + attr_u32(FRA_TABLE, table)
    )
    subject = f"mark {mark:#x}"
    rt.request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, payload, operation="add a rule for", subject=subject)


def delete_rule(rt: RouteSocket, rule: Rule) -> None:
    """Delete *rule*, if it is still there."""
    refused = rt.attempt(RTM_DELRULE, 0, rule.raw)
    if refused and refused[0] != errno.ENOENT:
        raise kernel_error("delete the rule for", f"mark {rule.mark:#x}", *refused)


def set_default_route(rt: RouteSocket, family: int, table: int, ifindex: int, *, local: bool) -> None:
    """Make everything that *table* is asked for go by *ifindex*, or with *local* to this host."""
    kind, scope = (RTN_LOCAL, RT_SCOPE_HOST) if local else (rtnl.RTN_UNICAST, rtnl.RT_SCOPE_LINK)
    payload = (
        rtnl.RTMSG.pack(family, 0, 0, 0, 0, rtnl.RTPROT_BOOT, scope, kind, 0)
        + attr_u32(rtnl.RTA_TABLE, table)
        + attr_u32(rtnl.RTA_OIF, ifindex)
    )
    rt.request(
        rtnl.RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        payload,
        operation="set the default route of",
        subject=f"table {table}",
    )


def clear_table(rt: RouteSocket, family: int, table: int) -> None:
    """Delete every route of *table*."""
    for route in rt.routes(family):
        if route.table == table:
            refused = rt.attempt(rtnl.RTM_DELROUTE, 0, route.raw)
            if refused and refused[0] != errno.ESRCH:
                raise kernel_error("delete a route of", f"table {table}", *refused)
