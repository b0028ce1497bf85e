"""Arbitrary bindings and frames, beside a switch that is slow and readable: who gets which frame."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arcbox_net.addresses import format_mac
from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.port_binding import PortBinding, Role
from arcbox_net.dataplane.switch import Switch
from tests.oracle.switch import Bound, SwitchModel
from tests.support.frames import ipv4
from tests.support.switch import NO_OFFLOAD

PORTS = 4
TICKS_OF_A_SWEEP = 20  # in which every entry is looked at
MACS = [bytes(6), *(bytes([2, 0, 0, 0, 0, i]) for i in range(12))]
GROUPS = [b"\xff" * 6, b"\x01\x00\x5e\0\0\1"]
IPS = [IPv4Address(f"192.0.2.{i}") for i in range(1, 4)]
ports = st.integers(0, PORTS - 1)
roles: st.SearchStrategy[Role] = st.sampled_from(["guest", "guest", "uplink", "trusted"])


class SwitchBesideModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.switch, self.model = Switch(), SwitchModel()
        self.lab = Lab(self.switch, PORTS)

    def now_s(self) -> int:
        return self.lab.now_ns // 1_000_000_000

    @rule(
        number=ports,
        role=roles,
        mac=st.sampled_from([None, *MACS[1:]]),
        ip=st.sampled_from(IPS),
        isolated=st.booleans(),
    )
    def bind(self, number: int, role: Role, mac: bytes | None, ip: IPv4Address, isolated: bool) -> None:
        wanted = PortBinding(role, format_mac(mac) if mac else None, (ip,), isolated=isolated)
        expected = self.model.bind(number, Bound(role, mac, ip.packed, isolated))
        try:
            self.switch.bind(self.lab, number, wanted)
        except FileExistsError:
            assert not expected
        else:
            assert expected

    @rule(number=ports)
    def unbind(self, number: int) -> None:
        if number in self.model.ports:
            self.switch.unbind(self.lab, number)
            self.model.unbind(number)

    @rule(
        number=ports,
        frames=st.lists(
            st.tuples(st.sampled_from(MACS + GROUPS), st.sampled_from(MACS + GROUPS), st.sampled_from(IPS)),
            max_size=8,
        ),
    )
    def send(self, number: int, frames: list[tuple[bytes, bytes, IPv4Address]]) -> None:
        expected: dict[int, list[bytes]] = {}
        burst = []
        for i, (destination, source, ip) in enumerate(frames):
            frame = destination + source + b"\x08\0" + ipv4(str(ip), "192.0.2.9", 6, bytes([i] * 20))
            burst.append(NO_OFFLOAD + frame)
            for port in self.model.send(number, destination, source, ip.packed, self.now_s()):
                expected.setdefault(port, []).append(burst[-1])
        found = self.lab.rx(number, burst)
        assert {port: sorted(given) for port, given in found.items()} == {
            port: sorted(given) for port, given in expected.items()
        }

    @rule(seconds=st.sampled_from([2, 150, 310]))
    def wait(self, seconds: int) -> None:
        self.lab.tick(seconds * 10)
        self.lab.tick(TICKS_OF_A_SWEEP)
        self.model.age(self.now_s())

    @invariant()
    def tables_agree(self) -> None:
        if not self.model.ports:
            return
        listed = {entry.mac: entry.port for entry in self.switch.fdb(self.lab, 0)}
        static = {format_mac(bound.mac): n for n, bound in self.model.ports.items() if bound.mac}
        assert listed == static | {format_mac(mac): at[0] for mac, at in self.model.learned.items()}


TestSwitchBesideModel = SwitchBesideModel.TestCase
TestSwitchBesideModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
