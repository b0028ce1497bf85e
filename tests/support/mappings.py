"""Tables of mappings for tests: addresses are small numbers, and what a test does not name is as by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arcbox_net.dataplane._testing_mapping import Mappings

ICMP, TCP, UDP = 1, 6, 17
FILTERINGS = ENDPOINT_INDEPENDENT, ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT = (0, 1, 2)
OUTSIDE, OUTSIDE2 = 101, 102
GUEST, OTHER = 201, 202
SERVER, STRANGER = 301, 302
HOLD_DOWN_S = 120
DYNAMIC_PORTS = [(49152, 65535)]
SEED = bytes(range(32))


class Entry(NamedTuple):
    protocol: int
    inside: int
    inside_port: int
    external: int
    external_port: int
    strong: int
    refs: int
    static: bool


DEFAULTS = {
    "mappings_max": 200_000,
    "contacts_max": 0,
    "hold_down_s": HOLD_DOWN_S,
    "flows": 16_384,
    "ports": 0,
    "filtering": ADDRESS_AND_PORT_DEPENDENT,
    "preserve_ports": True,
    "keep_parity": False,
}


def mapping_table(
    externals: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    *,
    ranges: Sequence[tuple[int, int]] = DYNAMIC_PORTS,
    seed: bytes = SEED,
    **options: int,
) -> Mappings:
    """Options are those of DEFAULTS; *ranges* are of the one external address where no others are given."""
    return Mappings(externals or {OUTSIDE: ranges}, seed, **DEFAULTS | options)


def reconfigure(table: Mappings, externals: Mapping[int, Sequence[tuple[int, int]]], **options: int) -> bool:
    return table.reconfigure(externals, **DEFAULTS | options)


def entry(table: Mappings, mapping: int) -> Entry:
    return Entry(*table.entry(mapping))


def used(
    table: Mappings,
    inside_port: int,
    *,
    protocol: int = UDP,
    guest: int = GUEST,
    remote: int = SERVER,
    now: int = 0,
) -> int:
    """A mapping with a flow of the guest's own."""
    mapping = table.outbound(protocol, guest, inside_port, now)
    assert mapping >= 0, f"refused: {-mapping}"
    assert table.hold(mapping, remote, True)
    return mapping


def external(table: Mappings, mapping: int) -> tuple[int, int]:
    found = entry(table, mapping)
    return found.external, found.external_port
