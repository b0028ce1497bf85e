"""Any sequence of flows, forwards and waiting: no port has two owners, none is taken early, nothing is evicted."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from arcbox_net.dataplane.verdict import Verdict
from tests.support.mappings import HOLD_DOWN_S, TCP, UDP, entry, mapping_table

RANGES = {101: [(1020, 1027), (2000, 2001)], 102: [(1022, 1029)]}
PORTS = {address: {p for low, high in of for p in range(low, high + 1)} for address, of in RANGES.items()}
QUOTA = 5
FLOWS = 9

protocols = st.sampled_from([TCP, UDP])
guests = st.integers(1, 4)
inside_ports = st.one_of(st.integers(1020, 1030), st.sampled_from([80, 5000, 5001]))
remotes = st.integers(301, 303)

Key = tuple[int, int, int]  # protocol, guest, inside port
Endpoint = tuple[int, int, int]  # protocol, external address, external port


class Live(NamedTuple):
    key: Key
    endpoint: Endpoint
    owner: int  # a guest, or minus a guest whose forward it is, or was
    static: bool
    flows: list[bool]  # which of them are strong


class Held(NamedTuple):
    guest: int | None
    since: int


class MappingModel(RuleBasedStateMachine):
    flows = Bundle("flows")

    @initialize(parity=st.booleans(), preserve=st.booleans(), seed=st.binary(min_size=32, max_size=32))
    def begin(self, parity: bool, preserve: bool, seed: bytes) -> None:
        self.parity = parity
        self.preserve = preserve
        self.table = mapping_table(
            RANGES, ports=QUOTA, flows=FLOWS, keep_parity=parity, preserve_ports=preserve, seed=seed
        )
        self.now = 0
        self.live: dict[int, Live] = {}
        self.by_key: dict[Key, int] = {}
        self.held: dict[Endpoint, Held] = {}
        self.pair: dict[int, int] = {}

    def flow_count(self, owner: int) -> int:
        return sum(len(m.flows) for m in self.live.values() if m.owner == owner)

    def port_count(self, owner: int, protocol: int) -> int:
        live = [m for m in self.live.values() if m.owner == owner and not m.static]
        held = [e for e, h in self.held.items() if h.guest == owner]
        return sum(m.key[0] == protocol for m in live) + sum(e[0] == protocol for e in held)

    def holds_anything(self, owner: int) -> bool:
        return any(m.owner == owner for m in self.live.values()) or any(
            h.guest == owner for h in self.held.values()
        )

    def addresses(self, guest: int) -> list[int]:
        """Which external addresses the guest may get: one that its forwards have is its own too."""
        pairs = [self.pair[owner] for owner in (guest, -guest) if owner in self.pair]
        return pairs[:1] or list(PORTS)

    def fits(self, inside: int, outside: int) -> bool:
        """Whether class and parity let one port stand for another: a low one may become a high one."""
        return (not self.parity or (inside - outside) % 2 == 0) and (inside < 1024 or outside >= 1024)

    def takers(self, endpoint: Endpoint, guest: int) -> bool:
        """Whether the guest may have this port."""
        if any(m.endpoint == endpoint for m in self.live.values()):
            return False
        return endpoint not in self.held or self.held[endpoint].guest == guest

    @rule(
        target=flows,
        protocol=protocols,
        guest=guests,
        port=inside_ports,
        remote=remotes,
        strong=st.booleans(),
    )
    def open(
        self, protocol: int, guest: int, port: int, remote: int, strong: bool
    ) -> tuple[int, int, bool] | None:
        key = (protocol, guest, port)
        mapping = self.table.outbound(protocol, guest, port, self.now)
        if key in self.by_key:
            assert mapping == self.by_key[key]
        elif mapping < 0:
            self.refused(key, Verdict(-mapping))
            return None
        else:
            self.made(key, mapping)
        full = self.flow_count(self.live[mapping].owner) >= FLOWS
        assert self.table.hold(mapping, remote, strong) is not full
        if full:
            self.table.forget(mapping)
            return None
        self.live[mapping].flows.append(strong)
        return mapping, remote, strong

    def refused(self, key: Key, why: Verdict) -> None:
        protocol, guest, port = key
        if self.flow_count(guest) >= FLOWS:
            assert why is Verdict.DROP_GUEST_FLOWS
            return
        addresses = self.addresses(guest)
        endpoints = [
            (protocol, address, p) for address in addresses for p in PORTS[address] if self.fits(port, p)
        ]
        may = [endpoint for endpoint in endpoints if self.takers(endpoint, guest)]
        if self.port_count(guest, protocol) >= QUOTA:
            assert why is Verdict.DROP_GUEST_PORTS
            assert not [endpoint for endpoint in may if endpoint in self.held]
        else:
            assert why is Verdict.DROP_PORTS_EXHAUSTED
            assert len(addresses) > 1 or not may

    def made(self, key: Key, mapping: int) -> None:
        protocol, guest, port = key
        found = entry(self.table, mapping)
        endpoint = (found.protocol, found.external, found.external_port)
        assert mapping not in self.live
        assert (found.protocol, found.inside, found.inside_port) == key
        assert found.protocol == protocol
        assert found.external_port in PORTS[found.external]
        assert self.fits(port, found.external_port)
        assert self.takers(endpoint, guest)
        assert found.external in self.addresses(guest)
        self.pair[guest] = found.external
        wanted = (protocol, found.external, port)
        within = self.port_count(guest, protocol) < QUOTA
        if self.preserve and port in PORTS[found.external] and self.takers(wanted, guest):
            assert endpoint == wanted or not (within or wanted in self.held)
        assert within or endpoint in self.held
        self.held.pop(endpoint, None)
        self.live[mapping] = Live(key, endpoint, guest, False, [])
        self.by_key[key] = mapping

    @rule(flow=consumes(flows))
    def close(self, flow: tuple[int, int, bool] | None) -> None:
        if flow is None:
            return
        mapping, remote, strong = flow
        self.table.drop(mapping, remote, strong, self.now)
        found = self.live[mapping]
        found.flows.remove(strong)
        if not found.flows and not found.static:
            self.end(mapping)

    def end(self, mapping: int) -> None:
        found = self.live.pop(mapping)
        if self.by_key.get(found.key) == mapping:
            del self.by_key[found.key]
        _, address, port = found.endpoint
        if port in PORTS[address]:
            own = not found.static and self.pair[found.owner] == address
            self.held[found.endpoint] = Held(found.owner if own else None, self.now)
        self.forget_guests()

    def forget_guests(self) -> None:
        self.pair = {owner: address for owner, address in self.pair.items() if self.holds_anything(owner)}

    @rule(
        protocol=protocols,
        address=st.sampled_from(list(RANGES)),
        port=st.integers(1018, 1032),
        guest=guests,
        inside=inside_ports,
        count=st.integers(1, 3),
    )
    def forward(self, protocol: int, address: int, port: int, guest: int, inside: int, count: int) -> None:
        endpoints = [(protocol, address, port + i) for i in range(count)]
        taken = {m.endpoint: mapping for mapping, m in self.live.items()}
        result, last = self.table.add_static(protocol, address, port, guest, inside, count)
        blocking = [taken[endpoint] for endpoint in endpoints if endpoint in taken]
        if blocking:
            assert (result, last) == (3, blocking[0])
            return
        assert result == 0
        self.pair.setdefault(-guest, address)
        for i, endpoint in enumerate(endpoints):
            self.held.pop(endpoint, None)
            mapping = self.table.at(*endpoint)
            assert mapping is not None
            key = (protocol, guest, inside + i)
            self.live[mapping] = Live(key, endpoint, -guest, True, [])
            if key not in self.by_key or not self.live[self.by_key[key]].static:
                self.by_key[key] = mapping
        self.forget_guests()

    @rule(
        protocol=protocols,
        address=st.sampled_from(list(RANGES)),
        port=st.integers(1018, 1032),
        count=st.integers(1, 9),
    )
    def unforward(self, protocol: int, address: int, port: int, count: int) -> None:
        endpoints = {(protocol, address, port + i) for i in range(count)}
        static = [mapping for mapping, m in self.live.items() if m.static and m.endpoint in endpoints]
        assert self.table.remove_static(protocol, address, port, count, self.now) == len(static)
        for mapping in sorted(static, key=lambda mapping: self.live[mapping].endpoint):
            if self.live[mapping].flows:
                self.live[mapping] = self.live[mapping]._replace(static=False)
            else:
                self.end(mapping)

    @rule(seconds=st.sampled_from([1, 60, HOLD_DOWN_S - 1, HOLD_DOWN_S, HOLD_DOWN_S + 1]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        over = [endpoint for endpoint, held in self.held.items() if self.now - held.since > HOLD_DOWN_S]
        assert self.table.expire(self.now, 1000) == len(over)
        for endpoint in over:
            del self.held[endpoint]
        self.forget_guests()

    @invariant()
    def table_is_as_the_model(self) -> None:
        assert self.table.count == len(self.live)
        assert self.table.guest_count == len(self.pair)
        endpoints = [m.endpoint for m in self.live.values()]
        assert len(set(endpoints)) == len(endpoints)
        for mapping, m in self.live.items():
            found = entry(self.table, mapping)
            assert (found.protocol, found.external, found.external_port) == m.endpoint
            assert (found.protocol, found.inside, found.inside_port) == m.key
            assert (found.strong, found.refs, found.static) == (sum(m.flows), len(m.flows), m.static)
            assert self.table.at(*m.endpoint) == mapping
            assert self.table.inbound(*m.endpoint) == (mapping if any(m.flows) or m.static else None)
        for key, mapping in self.by_key.items():
            assert self.table.find(*key) == mapping
        for owner in (*range(1, 5), *range(-4, 0)):
            counts = self.table.guest(abs(owner), forwards=owner < 0)
            assert (counts is None) is (owner not in self.pair)
            if counts is not None:
                assert counts[0] == self.flow_count(owner)
                assert counts[1] == (self.port_count(owner, TCP), self.port_count(owner, UDP), 0)


MappingModel.TestCase.settings = settings(stateful_step_count=60)
TestMappings = MappingModel.TestCase
