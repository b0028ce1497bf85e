"""What holds when someone flushes the ruleset: a small table that only this process can remove.

Theory of operation. A table with an owner (Linux 5.12) belongs to the netlink socket that made it: `nft
flush ruleset` of others skips it, `nft delete table` of others fails, and it goes when the socket is closed,
also by SIGKILL. Then the ordinary tables are still there; so at every moment at least one of the two is.

The ordinary inet table marks the first packets that it accepts (ruleset.SEEN_MARK). The guard runs right after it
on the same hooks and drops the unmarked. While the tables are missing no new connection passes, in any direction,
and known ones go on: the guard's NAT hook keeps their translation in force. A packet of a known connection pays one
rule on each hook for it. Frames between guests are not guarded: a hook for every frame would cost more than some
tens of milliseconds without anti-spoofing are worth, and no guest can cause a flush.

    inet abxguard_NAME      forward, input   unconfirmed, unmarked, from or to the bridge: drop
                            postrouting      nothing: keeps translations working
"""

from __future__ import annotations

import errno
import struct

from arcbox_net.host.linux import nfnetlink
from arcbox_net.host.linux.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, attr, attr_text, nested
from arcbox_net.host.linux.nfnetlink import (
    NFPROTO_INET,
    NfnetlinkSocket,
    u32,
)
from arcbox_net.host.linux.ruleset import SEEN_MARK
from arcbox_net.host.plan import FirewallPlan

_NEWTABLE, _NEWCHAIN, _NEWRULE = (nfnetlink.SUBSYS_NFTABLES << 8 | operation for operation in (0, 3, 6))
_TABLE_F_OWNER = 2
_META_MARK, _META_IIFNAME, _META_OIFNAME = 3, 6, 7
_CT_STATUS = 2
_STATUS_CONFIRMED = 1 << 3
_CMP_EQ, _CMP_NEQ = 0, 1
_DROP, _ACCEPT = 0, 1
_REGISTER = 1
_INET_INPUT, _INET_FORWARD, _INET_POSTROUTING = 1, 2, 4
_AFTER_FILTER = 1
_SRCNAT = 100
_IFNAME_BYTES = 16
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.EAFNOSUPPORT)

_Request = tuple[int, int, int, bytes]


def guard_name(network: str) -> str:
    return "abxguard_" + network.replace("-", "_")


class Guard:
    """Holds the guard tables of one network for as long as it is open."""

    def __init__(self, network: str) -> None:
        self.network = network
        self._netlink: NfnetlinkSocket | None = None

    @property
    def active(self) -> bool:
        return self._netlink is not None

    def open(self, plan: FirewallPlan) -> bool:
        """Put the guard up, after its tables. False: the kernel has no owned tables. Raises OSError.

        There is nothing to guard where nothing is routed without these tables: a network without a subnet of ours,
        and one with a relay, which sees only what they mark.
        """
        if self._netlink is not None or plan.subnet is None or plan.relay is not None:
            return True
        netlink = NfnetlinkSocket()
        try:
            netlink.batch(_inet_guard(plan))
        except OSError as error:
            netlink.close()
            if error.errno in _UNSUPPORTED:
                return False
            raise
        self._netlink = netlink
        return True

    def close(self) -> None:
        """Take the guard down, before the tables it guards."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None


def _inet_guard(plan: FirewallPlan) -> list[_Request]:
    table = guard_name(plan.network)
    bridge = plan.bridge.encode().ljust(_IFNAME_BYTES, b"\0")
    from_guests = _meta(_META_IIFNAME) + _compare(_CMP_EQ, bridge)
    to_guests = _meta(_META_OIFNAME) + _compare(_CMP_EQ, bridge)
    drop = _unmarked() + _counter() + _verdict(_DROP)

    def rule(chain: str, *expressions: bytes) -> _Request:
        return _new_rule(NFPROTO_INET, table, chain, b"".join(expressions))

    def chain(name: str, kind: str, hook: int, priority: int) -> _Request:
        return _new_chain(NFPROTO_INET, table, name, kind, hook, priority)

    return [
        _new_table(NFPROTO_INET, table),
        chain("forward", "filter", _INET_FORWARD, _AFTER_FILTER),
        rule("forward", _confirmed(), _verdict(_ACCEPT)),
        rule("forward", to_guests, drop),
        rule("forward", from_guests, drop),
        chain("input", "filter", _INET_INPUT, _AFTER_FILTER),
        rule("input", from_guests, _unconfirmed(), drop),
        chain("postrouting", "nat", _INET_POSTROUTING, _SRCNAT),
    ]


# -- requests


def _new_table(family: int, table: str) -> _Request:
    return (
        _NEWTABLE,
        NLM_F_CREATE | NLM_F_EXCL,
        family,
        attr_text(1, table) + u32(2, _TABLE_F_OWNER),
    )


def _new_chain(family: int, table: str, name: str, kind: str, hook: int, priority: int) -> _Request:
    body = (
        attr_text(1, table)
        + attr_text(3, name)
        + nested(4, u32(1, hook), u32(2, priority))
        + attr_text(7, kind)
    )
    return _NEWCHAIN, NLM_F_CREATE, family, body


def _new_rule(family: int, table: str, chain: str, expressions: bytes) -> _Request:
    body = attr_text(1, table) + attr_text(2, chain) + nested(4, expressions)
    return _NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, body


# -- expressions; a register holds a mark or a status in the host's byte order


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attr_text(1, name), nested(2, *parts))


def _meta(key: int) -> bytes:
    return _expression("meta", u32(2, key), u32(1, _REGISTER))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression("cmp", u32(1, _REGISTER), u32(2, operation), nested(3, attr(1, value)))


def _mask(mask: int) -> bytes:
    parts = u32(1, _REGISTER), u32(2, _REGISTER), u32(3, 4)
    return _expression("bitwise", *parts, nested(4, attr(1, _host(mask))), nested(5, attr(1, _host(0))))


def _verdict(code: int) -> bytes:
    return _expression("immediate", u32(1, 0), nested(2, nested(2, u32(1, code))))


def _counter() -> bytes:
    return _expression("counter")


def _unmarked() -> bytes:
    return _meta(_META_MARK) + _mask(SEEN_MARK) + _compare(_CMP_EQ, _host(0))


def _status() -> bytes:
    return _expression("ct", u32(2, _CT_STATUS), u32(1, _REGISTER)) + _mask(_STATUS_CONFIRMED)


def _confirmed() -> bytes:
    return _status() + _compare(_CMP_NEQ, _host(0))


def _unconfirmed() -> bytes:
    return _status() + _compare(_CMP_EQ, _host(0))


def _host(value: int) -> bytes:
    return struct.pack("=L", value)
