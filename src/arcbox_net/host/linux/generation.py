"""What the kernel says about its nftables ruleset: its generation number, its tables, a fingerprint of one.

The kernel numbers every committed transaction. A transaction of ours is known by that number rather than by a
process id, which would be another one inside a PID namespace.
"""

from __future__ import annotations

import collections
import hashlib
import struct
from types import TracebackType

from arcbox_net.host.linux import nfnetlink
from arcbox_net.host.linux.netlink import attr_text, attrs, iter_attrs
from arcbox_net.host.linux.nfnetlink import NfnetlinkSocket

OWN_GENERATIONS_MAX = 1024
MSG_GETTABLE = nfnetlink.SUBSYS_NFTABLES << 8 | 1
MSG_GETCHAIN = nfnetlink.SUBSYS_NFTABLES << 8 | 4
MSG_GETRULE = nfnetlink.SUBSYS_NFTABLES << 8 | 7
MSG_GETSET = nfnetlink.SUBSYS_NFTABLES << 8 | 10
MSG_NEWGEN = nfnetlink.SUBSYS_NFTABLES << 8 | 15
MSG_GETGEN = nfnetlink.SUBSYS_NFTABLES << 8 | 16
MSG_GETOBJ = nfnetlink.SUBSYS_NFTABLES << 8 | 19
GEN_ID = 1
TABLE_NAME = 1  # also the attribute that holds the table's name of a chain, rule, set, element or object
_RULE_EXPRESSIONS = 4
_RULE_USERDATA = 7
_COUNTER_PACKETS = 2
_EXPR_NAME, _EXPR_DATA = 1, 2
# What identifies an object, without handles and use counts: name and definition.
_STABLE = {
    MSG_GETCHAIN: frozenset((3, 4, 5, 7, 10)),  # name, hook, policy, type, flags
    MSG_GETSET: frozenset((2, 3, 4, 5, 6, 7, 11)),  # name, flags, key and data type and length, timeout
    MSG_GETOBJ: frozenset((2, 3, 4)),  # name, type, definition
}


class OwnChanges:
    """Context around one transaction of ours; remembers the generation it made.

    When others committed at the same moment, the kernel does not say which of these generations is ours. Whoever asks
    about those that changed our tables is told so for one of them: ours is among them. A second one is not.
    """

    def __init__(self) -> None:
        self._own: collections.deque[range] = collections.deque(maxlen=OWN_GENERATIONS_MAX)
        self._before = 0

    def take(self, number: int) -> bool:
        """Whether *number* is of ours, which it can be once."""
        found = next((made for made in self._own if number in made), None)
        if found is not None:
            self._own.remove(found)
        return found is not None

    def __enter__(self) -> None:
        self._before = current_generation()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = current_generation()
        if kind is None and now > self._before:
            self._own.append(range(self._before + 1, now + 1))


def current_generation() -> int:
    """Number of the last transaction in this network namespace; 0 when it cannot be told."""
    try:
        with NfnetlinkSocket() as netlink:
            return parse_generation(netlink.get(MSG_GETGEN, 0)) or 0
    except OSError:
        return 0


def parse_generation(payload: bytes) -> int | None:
    """The generation number in a NEWGEN payload (from the netfilter header on)."""
    for kind, value in iter_attrs(payload, 4):
        if kind == GEN_ID and len(value) == 4:
            return int(struct.unpack("!L", value)[0])
    return None


def table_of(payload: bytes) -> str | None:
    """The table that a message (from the netfilter header on) is about."""
    for kind, value in iter_attrs(payload, 4):
        if kind == TABLE_NAME:
            return value.rstrip(b"\0").decode(errors="replace")
    return None


def table_names() -> set[str]:
    """The tables of the inet and bridge families. Raises OSError."""
    names: set[str] = set()
    with NfnetlinkSocket() as netlink:
        for family in (nfnetlink.NFPROTO_INET, nfnetlink.NFPROTO_BRIDGE):
            names.update(filter(None, map(table_of, netlink.dump(MSG_GETTABLE, family))))
    return names


def fingerprint(table: str) -> bytes:
    """A digest of chains, rules, sets and objects of the inet and bridge tables named *table*, without their
    elements and counters. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with NfnetlinkSocket() as netlink:
        for family in (nfnetlink.NFPROTO_BRIDGE, nfnetlink.NFPROTO_INET):
            for kind in (MSG_GETTABLE, MSG_GETCHAIN, MSG_GETSET, MSG_GETOBJ, MSG_GETRULE):
                for payload in _dump_table(netlink, kind, family, table):
                    digest.update(_definition(kind, payload))
    return digest.digest()


def drop_counts(table: str) -> dict[str, int]:
    """Packets counted by the rules of *table* that have a comment, summed by comment. Raises OSError."""
    counts: dict[str, int] = {}
    with NfnetlinkSocket() as netlink:
        for family in (nfnetlink.NFPROTO_BRIDGE, nfnetlink.NFPROTO_INET):
            for payload in _dump_table(netlink, MSG_GETRULE, family, table):
                parts = attrs(payload, 4)
                comment = _comment(parts.get(_RULE_USERDATA, b""))
                if comment:
                    counts[comment] = counts.get(comment, 0) + _counted(parts.get(_RULE_EXPRESSIONS, b""))
    return counts


def _comment(userdata: bytes) -> str:
    """nft keeps a rule's comment in its user data: type 0, length, text with a final zero."""
    if len(userdata) < 2 or userdata[0] != 0 or 2 + userdata[1] > len(userdata):
        return ""
    return userdata[2 : 2 + userdata[1]].rstrip(b"\0").decode(errors="replace")


def _counted(expressions: bytes) -> int:
    for _element, expression in iter_attrs(expressions):
        fields = attrs(expression)
        if fields.get(_EXPR_NAME) == b"counter\0":
            body = fields.get(_EXPR_DATA, b"")
            packets = attrs(body).get(_COUNTER_PACKETS, b"")
            return int.from_bytes(packets, "big")
    return 0


def _dump_table(netlink: NfnetlinkSocket, kind: int, family: int, table: str) -> list[bytes]:
    body = b"" if kind == MSG_GETTABLE else attr_text(TABLE_NAME, table)
    try:
        return [payload for payload in netlink.dump(kind, family, body) if table_of(payload) == table]
    except FileNotFoundError:
        return []  # no such table


def _definition(kind: int, payload: bytes) -> bytes:
    parts = list(iter_attrs(payload, 4))
    if kind == MSG_GETTABLE:
        return b"table"
    if kind == MSG_GETRULE:
        return b"rule" + b"".join(_rule_part(number, value) for number, value in parts)
    stable = _STABLE[kind]
    return b"".join(bytes([number]) + value for number, value in parts if number in stable)


def _rule_part(number: int, value: bytes) -> bytes:
    if number == 2:  # the chain's name
        return value
    if number != _RULE_EXPRESSIONS:
        return b""
    definition = b""
    for _element, expression in iter_attrs(value):
        fields = attrs(expression)
        name = fields.get(_EXPR_NAME, b"")
        definition += name if name == b"counter\0" else name + fields.get(_EXPR_DATA, b"")
    return definition
