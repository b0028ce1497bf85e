"""What of an upstream's message is believed: the asked name, its CNAME chain, and a negative answer's SOA.

A message is cached and passed on as one unit under its question. No record of it ever answers another
question, so an upstream cannot speak for names it was not asked about (bailiwick), nor one zone's upstream
for another zone.
"""

from __future__ import annotations

import dataclasses
import struct

from arcbox_net.services.dns.wire import (
    AAAA,
    AD,
    ANY,
    CHAIN_MAX,
    CNAME,
    DNAME,
    HEADER,
    IN,
    NEGATIVE_TTL_S_MAX,
    NOERROR,
    NSEC,
    NSEC3,
    NXDOMAIN,
    OPT,
    RR,
    RRSIG,
    SERVFAIL,
    SERVFAIL_TTL_S,
    SKIPPED_BEFORE_NAME,
    SOA,
    TTL_S_MAX,
    A,
    Answer,
    Record,
    WireError,
    ancestors,
    read_name,
)

_FIXED_LENGTH = {A: 4, AAAA: 16}
_PROOFS = (SOA, RRSIG, NSEC, NSEC3)


def parse_records(packet: bytes, at: int) -> tuple[list[Record], list[Record], int]:
    """Answer and authority records and the extended rcode of *packet*, read from *at*. Raises WireError."""
    _, flags, _, ancount, nscount, arcount = HEADER.unpack_from(packet)
    known: dict[int, bytes] = {}
    found: list[Record] = []
    size = len(packet)
    rcode = flags & 15
    opts = 0
    for i in range(ancount + nscount + arcount):
        start = at
        owner, at = read_name(packet, at, known, size)
        if at + 10 > size:
            raise WireError("record-past-end")
        rtype, rclass, ttl, rdlength = RR.unpack_from(packet, at)
        rdata_at = at + 10
        end = rdata_at + rdlength
        if end > size:
            raise WireError("rdata-past-end")
        at = end
        if rtype == OPT:
            opts += 1
            if opts > 1 or i < ancount + nscount or owner != b"\0":
                raise WireError("bad-opt")
            rcode |= ttl >> 24 << 4
            continue
        target = _check_rdata(packet, rtype, rdata_at, end, known)
        if i < ancount + nscount:
            found.append(
                Record(owner.lower(), rtype, rclass, _ttl(ttl), start, rdata_at - 6, rdata_at, end, target)
            )
    if at != size:
        raise WireError("trailing-bytes")
    return found[:ancount], found[ancount:], rcode


def _ttl(ttl: int) -> int:
    # RFC 2181 8: with the top bit set it means zero.
    return 0 if ttl >= 1 << 31 else min(ttl, TTL_S_MAX)


def _check_rdata(packet: bytes, rtype: int, at: int, end: int, known: dict[int, bytes]) -> bytes:
    """The (lower-case) name in RDATA of the types that have one. Raises WireError when RDLENGTH is wrong."""
    if rtype in _FIXED_LENGTH:
        if end - at != _FIXED_LENGTH[rtype]:
            raise WireError("rdata-length")
        return b""
    skipped = SKIPPED_BEFORE_NAME.get(rtype)
    if skipped is None:
        return b""
    target, at = read_name(packet, at + skipped, known, end)
    if rtype == SOA:
        _, at = read_name(packet, at, known, end)
        at += 20
    if at != end:
        raise WireError("rdata-length")
    return target.lower()


def parse_answer(packet: bytes, question: bytes, name: bytes, qtype: int) -> Answer:
    """What may be passed on of an upstream's *packet*; *name* is in lower case. Raises WireError."""
    body_at = 12 + len(question)
    answers, authority, rcode = parse_records(packet, body_at)
    if rcode not in (NOERROR, NXDOMAIN):
        # An extended code (BADVERS, BADCOOKIE) speaks of our hop, not of the name.
        return Answer(rcode if rcode < 16 else SERVFAIL, ttl_s=SERVFAIL_TTL_S if rcode == SERVFAIL else 0)
    chain, last = _chain(answers, name, qtype)
    above = {owner for link in chain for owner in ancestors(link)}
    kept = [
        r
        for r in answers
        if r.rclass == IN and (r.owner in chain or (r.owner in above and _is_dname(r, packet)))
    ]
    positive = rcode == NOERROR and any(r.owner == last and qtype in (r.rtype, ANY) for r in kept)
    proofs, soa_ttl = _proofs(authority, packet, set() if positive else set(ancestors(last)))
    body, ttls = _body(packet, body_at, kept + proofs)
    ttl_s = min((r.ttl for r in kept + proofs), default=0)
    if not positive:
        ttl_s = min(ttl_s, soa_ttl)
    flags = (packet[2] << 8 | packet[3]) & AD
    cut = rcode == NXDOMAIN and len(chain) == 1
    return Answer(rcode, flags, len(kept), len(proofs), body, ttls, ttl_s, cut)


def _chain(answers: list[Record], name: bytes, qtype: int) -> tuple[set[bytes], bytes]:
    """The names from *name* along the CNAMEs, and the last one; loops raise WireError."""
    chain = {name}
    if qtype in (CNAME, ANY):
        return chain, name
    aliases = {r.owner: r.target for r in answers if r.rtype == CNAME and r.rclass == IN}
    while (target := aliases.get(name)) is not None:
        if target in chain or len(chain) > CHAIN_MAX:
            raise WireError("cname-chain")
        chain.add(target)
        name = target
    return chain, name


def _is_dname(r: Record, packet: bytes) -> bool:
    """Whether *r* is a DNAME or the signature of one."""
    if r.rtype == RRSIG and r.end - r.rdata_at >= 2:
        return packet[r.rdata_at] << 8 | packet[r.rdata_at + 1] == DNAME
    return r.rtype == DNAME


def _proofs(authority: list[Record], packet: bytes, zones: set[bytes]) -> tuple[list[Record], int]:
    """The SOA of one of *zones* and the DNSSEC proofs in *authority*, and for how long absence may be cached."""
    found = []
    soa_ttl = 0
    for r in authority:
        if r.rclass != IN or r.rtype not in _PROOFS or (r.rtype == SOA and r.owner not in zones):
            continue
        if r.rtype == SOA:
            minimum = int.from_bytes(packet[r.end - 4 : r.end], "big")
            soa_ttl = r.ttl = min(r.ttl, _ttl(minimum), NEGATIVE_TTL_S_MAX)
        found.append(r)
    return found, soa_ttl


def _body(packet: bytes, body_at: int, kept: list[Record]) -> tuple[bytes, list[tuple[int, int]]]:
    """The *kept* records: as they are when nothing between them was dropped, else without compression."""
    end = body_at
    for r in kept:
        if r.start != end:
            return _rebuilt(packet, kept)
        end = r.end
    return packet[body_at:end], [(r.ttl_at - body_at, r.ttl) for r in kept]


def _rebuilt(packet: bytes, kept: list[Record]) -> tuple[bytes, list[tuple[int, int]]]:
    body = bytearray()
    ttls = []
    known: dict[int, bytes] = {}
    for r in kept:
        owner, _ = read_name(packet, r.start, known, len(packet))
        rdata = _plain_rdata(packet, r, known)
        body += owner
        ttls.append((len(body) + 4, r.ttl))
        body += struct.pack("!HHIH", r.rtype, r.rclass, r.ttl, len(rdata)) + rdata
    if len(body) > 60000:
        raise WireError("too-large")
    return bytes(body), ttls


def _plain_rdata(packet: bytes, r: Record, known: dict[int, bytes]) -> bytes:
    skipped = SKIPPED_BEFORE_NAME.get(r.rtype)
    if skipped is None:
        return packet[r.rdata_at : r.end]
    name, at = read_name(packet, r.rdata_at + skipped, known, r.end)
    rdata = packet[r.rdata_at : r.rdata_at + skipped] + name
    if r.rtype == SOA:
        name, at = read_name(packet, at, known, r.end)
        rdata += name
    return rdata + packet[at : r.end]


def flattened(answer: Answer, name: bytes) -> Answer:
    """*answer* to a question for *name* without compression, so that it fits behind any question."""
    packet = bytes(12) + name + bytes(4) + answer.body
    at = 16 + len(name)
    counted = HEADER.pack(0, 0, 0, answer.ancount, answer.nscount, 0) + packet[12:]
    before, after, _ = parse_records(counted, at)
    records = before + after
    body, places = _rebuilt(counted, records)
    ttls = [(at, ttl) for (at, _), (_, ttl) in zip(places, answer.ttls, strict=True)]
    return dataclasses.replace(answer, body=body, ttls=ttls)
