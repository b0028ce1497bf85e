"""Arbitrary bindings and frames, beside a switch that is slow and readable: who gets which frame."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arcbox_net.dataplane.port_binding import Role
from tests.support.compared_switch import GROUPS, IPS, MACS, ComparedSwitch

PORTS = 4
ports = st.integers(0, PORTS - 1)
roles: st.SearchStrategy[Role] = st.sampled_from(["guest", "guest", "uplink", "trusted"])
macs = st.sampled_from(MACS + GROUPS)


class SwitchBesideModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.both = ComparedSwitch(PORTS)

    @rule(
        number=ports,
        role=roles,
        mac=st.sampled_from([None, *MACS[1:]]),
        ip=st.sampled_from(IPS),
        isolated=st.booleans(),
    )
    def bind(self, number: int, role: Role, mac: bytes | None, ip: IPv4Address, isolated: bool) -> None:
        self.both.bind(number, role, mac, ip, isolated)

    @rule(number=ports)
    def unbind(self, number: int) -> None:
        self.both.unbind(number)

    @rule(number=ports, frames=st.lists(st.tuples(macs, macs, st.sampled_from(IPS)), max_size=8))
    def send(self, number: int, frames: list[tuple[bytes, bytes, IPv4Address]]) -> None:
        self.both.send(number, frames)

    @rule(seconds=st.sampled_from([2, 150, 310]))
    def wait(self, seconds: int) -> None:
        self.both.wait(seconds)

    @invariant()
    def tables_agree(self) -> None:
        self.both.agree()


TestSwitchBesideModel = SwitchBesideModel.TestCase
TestSwitchBesideModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
