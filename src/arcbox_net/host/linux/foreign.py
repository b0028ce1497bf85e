"""Other people's firewall rules that stop our guests: found and reported, never changed.

A packet must be accepted by every table that has a chain on its way, so a drop policy of docker, ufw, firewalld or
an admin cannot be overridden from ours. iptables' rules are nft tables too (iptables-nft); legacy iptables is
asked through its own tool. A chain whose table names our bridge is taken to have been told about it.
"""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from arcbox_net.host.linux.generation import MSG_GETCHAIN, MSG_GETRULE
from arcbox_net.host.linux.netlink import attrs, iter_attrs
from arcbox_net.host.linux.nfnetlink import NfnetlinkSocket

BRIDGE_SYSCTLS = Path("/proc/sys/net/bridge")
LEGACY_TABLES = Path("/proc/net/ip_tables_names")
ANY_BRIDGE = "abx-"  # what every bridge of ours starts with

_FAMILIES = {1: "inet", 2: "ip", 7: "bridge", 10: "ip6"}
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output"}
_BRIDGE_HOOKS = ("prerouting", "input", "forward")
_IP_HOOKS = ("input", "forward", "output")
_IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
_DROP, _ACCEPT = 0, 1
_OWN_TABLES = ("abx_", "abxguard_")


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignDrop:
    """A chain of someone else that drops what it does not know. `fix` is a command that tells it about us."""

    code: str
    message: str
    fix: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What is told of a rule: its verdict when it holds for every packet, and the names it compares with."""

    unconditional_drop: bool
    compared: tuple[bytes, ...]


@dataclasses.dataclass(slots=True)
class Chain:
    family: str
    table: str
    name: str
    hook: str | None
    policy: int
    rules: list[Rule] = dataclasses.field(default_factory=list)


def foreign_drops(bridge: str | None = None, *, ipv6: bool = False) -> list[ForeignDrop]:
    """Chains of others that stop guests of *bridge* (None: of every network of ours). Needs CAP_NET_ADMIN.

    Those for IPv6 alone count where guests have a way out by *ipv6*. Nothing is found where nothing can be read.
    """
    try:
        chains = list_chains()
    except OSError:
        chains = []
    name = (bridge or ANY_BRIDGE).encode()
    informed = {
        (c.family, c.table) for c in chains for r in c.rules if any(_names(v, name) for v in r.compared)
    }
    found = [
        _report(chain, owner_of(chain, chains), bridge)
        for chain in chains
        if _drops(chain) and (chain.family, chain.table) not in informed and (ipv6 or chain.family != "ip6")
    ]
    return found + _legacy(bridge)


def list_chains() -> list[Chain]:
    """Every chain of this network namespace but ours, with its rules. Raises OSError."""
    chains: dict[tuple[int, str, str], Chain] = {}
    with NfnetlinkSocket() as netlink:
        for payload in netlink.dump(MSG_GETCHAIN, 0):
            chain = _parse_chain(payload)
            if chain is not None and not chain.table.startswith(_OWN_TABLES):
                chains[payload[0], chain.table, chain.name] = chain
        for payload in netlink.dump(MSG_GETRULE, 0):
            parts = attrs(payload, 4)
            key = payload[0], _name(parts.get(1)), _name(parts.get(2))
            if key in chains:
                chains[key].rules.append(parse_rule(parts.get(4, b"")))
    return list(chains.values())


def owner_of(chain: Chain, chains: list[Chain]) -> str:
    """Whose table it is: docker, ufw, firewalld, iptables or nftables."""
    names = {other.name for other in chains if (other.family, other.table) == (chain.family, chain.table)}
    if chain.table == "firewalld":
        return "firewalld"
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        return "ufw"
    if "DOCKER-USER" in names or chain.table.startswith("docker"):
        return "docker"
    return "iptables" if _is_of_iptables(chain) else "nftables"


def bridge_netfilter(tool: str = "iptables") -> bool:
    """Whether frames that a bridge forwards are shown to the rules of *tool* (iptables or ip6tables) as well."""
    try:
        return (BRIDGE_SYSCTLS / f"bridge-nf-call-{tool}").read_text().strip() == "1"
    except OSError:
        return False


def parse_rule(expressions: bytes) -> Rule:
    """The rule whose NFTA_RULE_EXPRESSIONS are *expressions*."""
    compared: list[bytes] = []
    conditional = drops = False
    for _kind, expression in iter_attrs(expressions):
        parts = attrs(expression)
        name, body = _name(parts.get(1)), parts.get(2, b"")
        if name == "immediate":
            drops = drops or _verdict(body) == _DROP
        elif name == "reject":
            drops = True
        elif name not in ("counter", "log"):
            conditional = True
            if name == "cmp":
                compared.extend(_data(body, 3))
    return Rule(drops and not conditional, tuple(compared))


def _drops(chain: Chain) -> bool:
    if chain.hook not in (_BRIDGE_HOOKS if chain.family == "bridge" else _IP_HOOKS):
        return False
    return chain.policy == _DROP or any(rule.unconditional_drop for rule in chain.rules)


def _report(chain: Chain, owner: str, bridge: str | None) -> ForeignDrop:
    what = {
        "forward": "guests cannot reach the outside",
        "input": "guests cannot reach DHCP and DNS",
        "output": "guests get no answers from DHCP and DNS",
    }.get(chain.hook or "", "guests cannot send")
    if chain.family == "ip6":
        what = what.replace("DHCP and DNS", "the gateway") + " by IPv6"
    tool = _IPTABLES.get(chain.family, "iptables")
    if chain.hook == "forward" and chain.family != "bridge" and bridge_netfilter(tool):
        what += f", nor each other (net.bridge.bridge-nf-call-{tool} is 1)"
    return ForeignDrop(
        code="foreign-drop",
        message=f"{owner}: chain {chain.name} of table {chain.family} {chain.table} drops on {chain.hook}: {what}",
        fix=_fix(chain, owner, bridge),
    )


def _fix(chain: Chain, owner: str, bridge: str | None) -> str:
    if owner == "firewalld":
        interface = bridge or ANY_BRIDGE + "+"
        return f"firewall-cmd --permanent --zone=trusted --add-interface={interface} && firewall-cmd --reload"
    if owner == "ufw" and bridge:
        if chain.hook == "forward":
            return f"ufw route allow in on {bridge} && ufw route allow out on {bridge}"
        return f"ufw allow in on {bridge}" if chain.hook == "input" else f"ufw allow out on {bridge}"
    if _is_of_iptables(chain):
        name = "DOCKER-USER" if owner == "docker" else chain.name
        return _iptables_fix(_IPTABLES[chain.family], name, chain.hook, bridge)
    pattern = bridge or ANY_BRIDGE + "*"
    insert = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    sides = {"forward": ("iifname", "oifname"), "output": ("oifname",)}.get(chain.hook or "", ("iifname",))
    return " && ".join(f"{insert} {side} '\"{pattern}\"' accept" for side in sides)


def _is_of_iptables(chain: Chain) -> bool:
    return chain.family in _IPTABLES and chain.table == "filter" and chain.name.isupper()


def _iptables_fix(tool: str, chain: str, hook: str | None, bridge: str | None) -> str:
    pattern = bridge or ANY_BRIDGE + "+"
    sides = {"forward": ("-i", "-o"), "output": ("-o",)}.get(hook or "", ("-i",))
    if hook != "forward" and chain == "DOCKER-USER":
        chain = (hook or "input").upper()
    return " && ".join(f"{tool} -I {chain} {side} {pattern} -j ACCEPT" for side in sides)


def _legacy(bridge: str | None) -> list[ForeignDrop]:
    try:
        if "filter" not in LEGACY_TABLES.read_text().split():
            return []
    except OSError:
        return []
    tool = shutil.which("iptables-legacy") or shutil.which("iptables")
    if tool is None:
        return []
    try:
        listed = subprocess.run([tool, "-S"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return list(legacy_drops(listed.stdout, bridge))


def legacy_drops(listing: str, bridge: str | None) -> Iterator[ForeignDrop]:
    """The drop policies in *listing*, the output of `iptables -S`."""
    name = bridge or ANY_BRIDGE
    if any(f"-{side} {name}" in line for line in listing.splitlines() for side in "io"):
        return
    docker = "-N DOCKER-USER" in listing
    for hook in ("FORWARD", "INPUT", "OUTPUT"):
        if f"-P {hook} DROP" in listing.splitlines():
            owner = "docker" if docker and hook == "FORWARD" else "iptables"
            yield ForeignDrop(
                code="foreign-drop",
                message=f"{owner}: the policy of legacy iptables' chain {hook} is DROP: guests are cut off",
                fix=_iptables_fix(
                    "iptables-legacy", "DOCKER-USER" if owner == "docker" else hook, hook.lower(), bridge
                ),
            )


def _parse_chain(payload: bytes) -> Chain | None:
    family = _FAMILIES.get(payload[0])
    parts = attrs(payload, 4)
    if family is None:
        return None
    hook = None
    if 4 in parts:
        fields = attrs(parts[4])
        hook = _HOOKS.get(_u32(fields.get(1)))
    if _name(parts.get(7)) not in ("", "filter"):
        hook = None  # nat and route chains do not drop
    policy = _u32(parts.get(5)) if 5 in parts else _ACCEPT
    return Chain(family, _name(parts.get(1)), _name(parts.get(3)), hook, policy)


def _names(value: bytes, name: bytes) -> bool:
    """Whether a comparison with *value* is one with *name*: the whole of it, or a prefix of it (`abx-*`)."""
    if value.endswith(b"\0"):
        return value.rstrip(b"\0") == name
    return len(value) >= len(ANY_BRIDGE) and name.startswith(value)


def _verdict(body: bytes) -> int | None:
    for value in _data(body, 2, kind=2):
        fields = attrs(value)
        if 1 in fields:
            return _u32(fields[1])
    return None


def _data(body: bytes, number: int, *, kind: int = 1) -> list[bytes]:
    """The value (kind 1) or verdict (kind 2) in attribute *number* of an expression."""
    holder = attrs(body).get(number, b"")
    return [value for found, value in iter_attrs(holder) if found == kind]


def _name(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _u32(value: bytes | None) -> int:
    return int(struct.unpack("!L", value)[0]) if value is not None and len(value) == 4 else -1
