"""The names a network answers itself: guests, static records, the gateway, and back from addresses. No I/O.

Theory of operation. A record is (name, addresses) from a source; `builtin > config > api > port > lease`.
The highest source of a name speaks for it and shadows the others, which come back when it goes. A lower
source never adds to or replaces a higher one: `put` refuses, so no guest takes another guest's name or the
gateway's.

  question                                    answer
  known name (`vm1`, `vm1.DOMAIN`, any FQDN)  its addresses; NODATA for other types
  any other name without a dot, or in DOMAIN  NXDOMAIN: such names never leave (but DS, DNSKEY, NS and SOA of
                                              top-level domains, which validating guests need)
  address inside a subnet, backwards          its name, else NXDOMAIN
  anything else                               not ours: None
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from arcbox_net.errors import ConfigError, LimitReached, RecordExists, RecordNotFound
from arcbox_net.services.dns.wire import (
    AAAA,
    ANY,
    DNSKEY,
    DS,
    HINFO,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    SOA,
    A,
    Answer,
    record,
    soa,
    to_text,
    to_wire,
)

SOURCES = ("builtin", "config", "api", "port", "lease")
RESERVED = ("localhost", "wpad", "gateway", "host")
NAMES_MAX = 65536
ADDRESSES_PER_NAME_MAX = 16
TTL_S = 10
NEGATIVE_TTL_S = 2  # a guest that has just been attached is found by the next try

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_OF_TOP_LEVEL = (DS, DNSKEY, NS, SOA)
_V4_SUFFIX = b"\x07in-addr\x04arpa\0"
_V6_SUFFIX = b"\x03ip6\x04arpa\0"
_RFC8482 = b"\x07RFC8482\0"

Address = IPv4Address | IPv6Address


@dataclasses.dataclass(slots=True)
class _Entry:
    """`name` is the full name, as listings and reverse answers show it."""

    name: str
    addresses: tuple[Address, ...]


class LocalNames:
    """Names of one network. `on_change(name)` is called with each text name that got or lost addresses."""

    def __init__(
        self,
        domain: str,
        gateway: Sequence[str] = (),
        subnet: IPv4Network | None = None,
        subnet6: IPv6Network | None = None,
    ) -> None:
        self.domain = domain.rstrip(".").lower()
        self.on_change: Callable[[str], None] | None = None
        self._subnets = {4: subnet, 6: subnet6}
        self._zone = to_wire(self.domain)
        self._sources: dict[str, dict[str, _Entry]] = {source: {} for source in SOURCES}
        self._entries: dict[bytes, _Entry] = {}
        self._holders: dict[Address, list[str]] = {}
        self._below: dict[bytes, int] = {}
        builtin: dict[str, tuple[str, ...]] = {"localhost": ("127.0.0.1", "::1")}
        if gateway:
            for name in ("gateway", "host", "gateway.internal", "host.internal"):
                builtin[name] = tuple(gateway)
        for name, addresses in builtin.items():
            full = name if "." in name or name == "localhost" else f"{name}.{self.domain}"
            self._sources["builtin"][name] = _Entry(full, _addresses(name, addresses))
            self._refresh(name)

    def put(self, name: str, addresses: Sequence[str], source: str) -> None:
        """Let *name* resolve to *addresses*. Raises RecordExists for a reserved or another guest's name."""
        key = self._key(name)
        wanted = _addresses(name, addresses)
        if key in ("", *RESERVED) or key in self._sources["builtin"]:
            raise RecordExists(f"the name {name!r} is reserved", fix="choose another name", name=name)
        for other in SOURCES[: SOURCES.index(source) + 1]:
            held = self._sources[other].get(key)
            if (
                held is None
                or set(held.addresses) == set(wanted)
                or (other == source and source in ("api", "config"))
            ):
                continue
            raise RecordExists(
                f"the name {name!r} belongs to {', '.join(map(str, held.addresses))} (from {other})",
                fix="choose another name, or remove that record first",
                name=name,
                source=other,
            )
        records = self._sources[source]
        if key not in records and sum(map(len, self._sources.values())) >= NAMES_MAX:
            raise LimitReached(f"{NAMES_MAX} names are registered", limit="names", value=NAMES_MAX)
        inside = "." not in key or name.rstrip(".").lower().endswith("." + self.domain)
        records[key] = _Entry(f"{key}.{self.domain}" if inside else key, wanted)
        self._refresh(key)

    def remove(self, name: str, source: str) -> None:
        """Forget what *source* said about *name*. Raises RecordNotFound."""
        key = self._key(name)
        if source == "builtin" or self._sources[source].pop(key, None) is None:
            raise RecordNotFound(f"no record {name!r} from {source}", name=name)
        self._refresh(key)

    def addresses(self, name: str, source: str) -> list[str]:
        """What *source* says about *name*; empty when it says nothing."""
        entry = self._sources[source].get(self._key(name))
        return [str(address) for address in entry.addresses] if entry is not None else []

    def records(self) -> list[tuple[str, list[str], str]]:
        """`(name, addresses, source)` of every record in force, sorted by name."""
        found: dict[str, tuple[str, list[str], str]] = {}
        for source in SOURCES:
            for key, entry in self._sources[source].items():
                found.setdefault(key, (entry.name, [str(a) for a in entry.addresses], source))
        return [found[key] for key in sorted(found)]

    def answer(self, name: bytes, qtype: int) -> Answer | None:
        """The answer for the lower-case wire *name*, or None when it is for an upstream."""
        entry = self._entries.get(name)
        if entry is not None:
            return self._known(name, qtype, entry.addresses)
        if name.endswith((_V4_SUFFIX, _V6_SUFFIX)):
            return self._backwards(name, qtype)
        if name == b"\0":
            return None
        single = name[0] + 2 == len(name)
        if single and qtype in _OF_TOP_LEVEL:
            return None
        if name.endswith(b"\x09localhost\0"):
            return self._known(name, qtype, self._sources["builtin"]["localhost"].addresses)
        if single or self._in_domain(name):
            return self._missing(name, NOERROR if name == self._zone or name in self._below else NXDOMAIN)
        return None

    def owns(self, name: bytes) -> bool:
        """Whether the lower-case wire *name* is answered here whatever the type."""
        return self.answer(name, A) is not None

    def _in_domain(self, name: bytes) -> bool:
        if not name.endswith(self._zone):
            return False
        at = 0
        while len(name) - at > len(self._zone):
            at += name[at] + 1
        return name[at:] == self._zone

    def _key(self, name: str) -> str:
        """*name* lower-cased and relative to the domain ("" for the domain itself). Raises ConfigError."""
        text = name.rstrip(".").lower()
        if text == self.domain:
            return ""
        text = text.removesuffix("." + self.domain)
        if len(text) > 250 - len(self.domain) or not all(
            _LABEL.fullmatch(label) for label in text.split(".")
        ):
            raise ConfigError(
                f"{name!r} is not a host name",
                fix="use letters, digits, '-' and '_', at most 63 in a label",
                field="name",
                value=name,
            )
        return text

    def _wire_names(self, key: str) -> tuple[bytes, ...]:
        if key == "localhost":
            return (to_wire(key),)
        return (to_wire(key), to_wire(f"{key}.{self.domain}"))

    def _refresh(self, key: str) -> None:
        """Bring the lookup tables in line with what the sources say about *key*."""
        entry = next((self._sources[s][key] for s in SOURCES if key in self._sources[s]), None)
        for name in self._wire_names(key):
            old = self._entries.pop(name, None)
            if entry is not None:
                self._entries[name] = entry
            self._count_below(name, (entry is not None) - (old is not None))
        for address in old.addresses if old is not None else ():
            holders = self._holders[address]
            holders.remove(key)
            if not holders:
                del self._holders[address]
        for address in entry.addresses if entry is not None else ():
            self._holders.setdefault(address, []).append(key)
        if self.on_change is not None:
            self.on_change(key)

    def _count_below(self, name: bytes, change: int) -> None:
        """Keep the names that only exist because something below them does (empty non-terminals)."""
        at = name[0] + 1
        while change and name[at]:
            parent = name[at:]
            count = self._below.get(parent, 0) + change
            if count:
                self._below[parent] = count
            else:
                del self._below[parent]
            at += name[at] + 1

    def _known(self, name: bytes, qtype: int, addresses: Iterable[Address]) -> Answer:
        if qtype == ANY:
            return _positive([record(b"\xc0\x0c", HINFO, TTL_S, _RFC8482)])
        version = {A: 4, AAAA: 6}.get(qtype)
        found = [a.packed for a in addresses if a.version == version]
        if not found:
            return self._missing(name, NOERROR)
        return _positive([record(b"\xc0\x0c", qtype, TTL_S, packed) for packed in found])

    def _missing(self, name: bytes, rcode: int, zone: bytes | None = None) -> Answer:
        if zone is None:
            zone = self._zone if self._in_domain(name) else b"\0"
        return Answer(rcode, 0x0400, 0, 1, soa(zone, NEGATIVE_TTL_S))

    def _backwards(self, name: bytes, qtype: int) -> Answer | None:
        address = _address_of(name)
        if address is None:
            return None
        holders = self._holders.get(address, ())
        subnet = self._subnets[address.version]
        ours = subnet is not None and address in subnet
        if not ours and not (holders and (address.is_private or address.is_loopback)):
            return None
        if not holders:
            return self._missing(name, NXDOMAIN, name)
        if qtype != PTR:
            return self._missing(name, NOERROR, name)
        best = min(holders, key=self._rank)
        return _positive([record(b"\xc0\x0c", PTR, TTL_S, to_wire(self._entries[to_wire(best)].name))])

    def _rank(self, key: str) -> tuple[int, bool]:
        """The lower, the better *key* names its address: by source, and names inside the domain first."""
        source = next((i for i, source in enumerate(SOURCES) if key in self._sources[source]), len(SOURCES))
        return source, "." in key


def _addresses(name: str, texts: Sequence[str]) -> tuple[Address, ...]:
    if not 1 <= len(texts) <= ADDRESSES_PER_NAME_MAX:
        raise ConfigError(
            f"{name!r}: 1 to {ADDRESSES_PER_NAME_MAX} addresses, not {len(texts)}",
            field="addresses",
            value=list(texts),
        )
    try:
        found = tuple(dict.fromkeys(ip_address(text) for text in texts))
    except ValueError as error:
        raise ConfigError(f"{name!r}: {error}", field="addresses", value=list(texts)) from None
    if any(isinstance(address, IPv6Address) and address.scope_id for address in found):
        raise ConfigError(
            f"{name!r}: an address with a scope (%) means another one on every machine",
            field="addresses",
            value=list(texts),
        )
    return found


def _positive(records: list[bytes]) -> Answer:
    return Answer(NOERROR, 0x0400, len(records), 0, b"".join(records))


def _address_of(name: bytes) -> Address | None:
    """The whole address that a reverse name spells, None for a part of one or nonsense."""
    parts = to_text(name).split(".")
    try:
        if name.endswith(_V4_SUFFIX) and len(parts) == 6:
            return IPv4Address(".".join(parts[3::-1]))
        if name.endswith(_V6_SUFFIX) and len(parts) == 34 and all(len(nibble) == 1 for nibble in parts[:32]):
            return IPv6Address(int("".join(parts[31::-1]), 16))
    except ValueError:
        return None
    return None
