"""DNS messages as bytes: queries in, upstream answers checked, replies out (RFC 1035, 6891, 9267).

Names are kept in wire form without compression. Every reader checks bounds first, compression pointers only
lead backwards and each target is expanded once a message, so the work is linear in the size of the packet.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

from arcbox_net.services.dns.settings import PLAIN_UDP_BYTES_MAX, TCP_BYTES_MAX, UDP_BYTES_MAX

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, DNAME, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 39, 41
DS, RRSIG, NSEC, DNSKEY, NSEC3, SVCB, HTTPS, TKEY, TSIG = 43, 46, 47, 48, 50, 64, 65, 249, 250
IXFR, AXFR, MAILB, MAILA, ANY = 251, 252, 253, 254, 255
IN = 1

HEADER = struct.Struct("!6H")
RR = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH
NAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 63
CHAIN_MAX = 8
TTL_S_MAX = 7 * 86400
NEGATIVE_TTL_S_MAX = 300
SERVFAIL_TTL_S = 5

# A key of the cache ends in these: answers differ by them (RFC 3225, 4035), and RD tells a real question
# from a probe.
KEY_DO, KEY_CD, KEY_RD = 1, 2, 4

_LETTERS = bytes(0x20 if chr(b).isalpha() and b < 128 else 0 for b in range(256))
SKIPPED_BEFORE_NAME = {NS: 0, CNAME: 0, PTR: 0, DNAME: 0, SOA: 0, MX: 2, SRV: 6}


class WireError(Exception):
    """A message that breaks the format. `reason` is the counter's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(slots=True)
class Query:
    """A client's question. `question` is as the client spelled it, `name` the lower-cased key."""

    id: int
    flags: int
    question: bytes
    name: bytes
    qtype: int
    qclass: int
    edns: bool = False
    edns_version: int = 0
    do: bool = False
    udp_bytes: int = PLAIN_UDP_BYTES_MAX

    @property
    def key_flags(self) -> int:
        flags = self.flags
        return (KEY_DO if self.do else 0) | (KEY_CD if flags & CD else 0) | (KEY_RD if flags & RD else 0)

    @property
    def key(self) -> bytes:
        return cache_key(self.name, self.qtype, self.qclass, self.key_flags)

    def limit(self, stream: bool) -> int:
        """The most bytes a reply may have."""
        if stream:
            return TCP_BYTES_MAX
        return min(max(self.udp_bytes, PLAIN_UDP_BYTES_MAX), UDP_BYTES_MAX)


@dataclasses.dataclass(slots=True)
class Answer:
    """What follows the question in a reply: `body` has no OPT and its TTLs are at `ttls` (offset, seconds).

    `ttl_s` is how long it may be cached, 0 for not at all.
    """

    rcode: int
    flags: int = 0
    ancount: int = 0
    nscount: int = 0
    body: bytes = b""
    ttls: Sequence[tuple[int, int]] = ()
    ttl_s: int = 0
    cuts_subtree: bool = False


@dataclasses.dataclass(slots=True)
class Record:
    """A resource record inside a message: where it is, and what we look at."""

    owner: bytes
    rtype: int
    rclass: int
    ttl: int
    start: int
    ttl_at: int
    rdata_at: int
    end: int
    target: bytes = b""


def cache_key(name: bytes, qtype: int, qclass: int, key_flags: int) -> bytes:
    return b"%s%c%c%c%c%c" % (name, qtype >> 8, qtype & 255, qclass >> 8, qclass & 255, key_flags)


def to_wire(name: str) -> bytes:
    """*name* in lower-case wire form. Raises WireError."""
    text = name.rstrip(".").lower()
    if not text:
        return b"\0"
    wire = bytearray()
    for label in text.encode("ascii", "replace").split(b"."):
        if not 1 <= len(label) <= LABEL_BYTES_MAX:
            raise WireError("label-length")
        wire.append(len(label))
        wire += label
    wire.append(0)
    if len(wire) > NAME_BYTES_MAX:
        raise WireError("name-length")
    return bytes(wire)


def labels(name: bytes) -> list[bytes]:
    """The labels of a wire name, without the root."""
    found = []
    at = 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += name[at] + 1
    return found


def ancestors(name: bytes) -> list[bytes]:
    """*name*, its parent and so on up to and with the root."""
    found = [name]
    at = 0
    while name[at]:
        at += name[at] + 1
        found.append(name[at:])
    return found


def to_text(name: bytes) -> str:
    """A wire name for people; odd bytes are escaped as in zone files."""
    parts = (
        "".join(chr(b) if 33 <= b < 127 and b not in b".\\" else f"\\{b:03d}" for b in label)
        for label in labels(name)
    )
    return ".".join(parts) or "."


def mix_case(name: bytes, chance: int) -> bytes:
    """*name* with the case of each letter taken from the bits of *chance* (draft-vixie-dnsext-dns0x20)."""
    letters = int.from_bytes(name.translate(_LETTERS), "big")
    return (int.from_bytes(name, "big") ^ (letters & chance)).to_bytes(len(name), "big")


def read_name(packet: bytes, at: int, known: dict[int, bytes], size: int) -> tuple[bytes, int]:
    """The name at *at* without compression, and the offset after it. Raises WireError.

    Its own bytes end before *size*. *known* remembers the targets of pointers for the rest of the message.
    """
    end = -1
    floor = at
    name = b""
    targets: list[tuple[int, int]] = []
    while True:
        if at >= size:
            raise WireError("name-past-end")
        length = packet[at]
        if length == 0:
            name += b"\0"
            at += 1
            break
        if length >= 0xC0:
            if at + 2 > size:
                raise WireError("name-past-end")
            target = (length & 0x3F) << 8 | packet[at + 1]
            if end < 0:
                end = at + 2
            # Strictly backwards: no loop, and a pointer to itself or ahead is refused.
            if target >= floor or target < 12:
                raise WireError("bad-pointer")
            seen = known.get(target)
            if seen is not None:
                name += seen
                break
            targets.append((target, len(name)))
            at = floor = target
            continue
        if length > LABEL_BYTES_MAX:
            raise WireError("label-length")
        if at + 1 + length > size:
            raise WireError("name-past-end")
        name += packet[at : at + 1 + length]
        if len(name) >= NAME_BYTES_MAX:
            raise WireError("name-length")
        at += 1 + length
    if len(name) > NAME_BYTES_MAX:
        raise WireError("name-length")
    for target, skipped in targets:
        known[target] = name[skipped:]
    return name, at if end < 0 else end


def parse_query(packet: bytes) -> Query:
    """The question in *packet*, whose header says that it is one standard query. Raises WireError."""
    query_id, flags, _, ancount, nscount, arcount = HEADER.unpack_from(packet)
    at = 12
    size = len(packet)
    while True:
        if at >= size:
            raise WireError("name-past-end")
        length = packet[at]
        if length == 0:
            break
        if length > LABEL_BYTES_MAX:
            raise WireError("label-length")
        at += length + 1
    at += 1
    if at - 12 > NAME_BYTES_MAX:
        raise WireError("name-length")
    if at + 4 > size:
        raise WireError("question-past-end")
    qtype = packet[at] << 8 | packet[at + 1]
    qclass = packet[at + 2] << 8 | packet[at + 3]
    query = Query(query_id, flags, packet[12 : at + 4], packet[12:at].lower(), qtype, qclass)
    at += 4
    if ancount or nscount or arcount:
        at = _read_query_records(packet, at, ancount + nscount, arcount, query)
    if at != size:
        raise WireError("trailing-bytes")
    return query


def _read_query_records(packet: bytes, at: int, before: int, arcount: int, query: Query) -> int:
    known: dict[int, bytes] = {}
    for i in range(before + arcount):
        owner, at = read_name(packet, at, known, len(packet))
        if at + 10 > len(packet):
            raise WireError("record-past-end")
        rtype, rclass, ttl, rdlength = RR.unpack_from(packet, at)
        at += 10 + rdlength
        if at > len(packet):
            raise WireError("rdata-past-end")
        if rtype == OPT:
            if query.edns or i < before or owner != b"\0":
                raise WireError("bad-opt")
            query.edns = True
            query.udp_bytes = rclass
            query.edns_version = ttl >> 16 & 0xFF
            query.do = bool(ttl & 0x8000)
    return at


def build_query(query_id: int, name: bytes, qtype: int, key_flags: int, *, edns: bool = True) -> bytes:
    """A question of our own. Client options never pass: EDNS is hop by hop, and ECS would split the cache."""
    flags = AD | (RD if key_flags & KEY_RD else 0) | (CD if key_flags & KEY_CD else 0)
    packet = HEADER.pack(query_id, flags, 1, 0, 0, 1 if edns else 0) + name + struct.pack("!HH", qtype, IN)
    return packet + opt(bool(key_flags & KEY_DO)) if edns else packet


def opt(do: bool, extended_rcode: int = 0) -> bytes:
    return struct.pack("!BHHBBHH", 0, OPT, UDP_BYTES_MAX, extended_rcode, 0, 0x8000 if do else 0, 0)


def render(query: Query, answer: Answer, limit: int) -> bytes:
    """The reply to *query* of at most *limit* bytes; what does not fit is left out and TC set."""
    flags = QR | RA | (query.flags & (RD | CD)) | (answer.flags & AA) | (answer.rcode & 15)
    if answer.flags & AD and (query.do or query.flags & AD):
        flags |= AD
    tail = opt(query.do, answer.rcode >> 4) if query.edns else b""
    size = 12 + len(query.question) + len(answer.body) + len(tail)
    if size > limit:
        header = HEADER.pack(query.id, flags | TC, 1, 0, 0, 1 if tail else 0)
        return header + query.question + tail
    body: bytes | bytearray = answer.body
    if answer.ttls:
        body = bytearray(body)
        for at, ttl in answer.ttls:
            body[at : at + 4] = ttl.to_bytes(4, "big")
    header = HEADER.pack(query.id, flags, 1, answer.ancount, answer.nscount, 1 if tail else 0)
    return header + query.question + body + tail


def refuse(packet: bytes, rcode: int) -> bytes:
    """A reply without a question for a query that cannot be read."""
    query_id, flags = struct.unpack_from("!HH", packet)
    return HEADER.pack(query_id, QR | (flags & (0x7800 | RD)) | rcode, 0, 0, 0, 0)


def record(owner: bytes, rtype: int, ttl: int, rdata: bytes) -> bytes:
    return owner + RR.pack(rtype, IN, ttl, len(rdata)) + rdata


def soa(zone: bytes, ttl: int) -> bytes:
    """The SOA record that a negative answer of our own carries."""
    rdata = b"\x07gateway" + zone + b"\x0ahostmaster" + zone + struct.pack("!5I", 1, 3600, 600, 86400, ttl)
    return record(zone, SOA, ttl, rdata)
