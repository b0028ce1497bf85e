"""A switch beside the readable one: what is done to both, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from arcbox_net.addresses import format_mac
from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.port_binding import PortBinding, Role
from arcbox_net.dataplane.switch import Switch
from tests.oracle.switch import Bound, SwitchModel
from tests.support.frames import ipv4
from tests.support.switch import NO_OFFLOAD

TICKS_OF_A_SWEEP = 20  # in which every entry is looked at
MACS = [bytes(6), *(bytes([2, 0, 0, 0, 0, i]) for i in range(12))]
GROUPS = [b"\xff" * 6, b"\x01\x00\x5e\0\0\1"]
IPS = [IPv4Address(f"192.0.2.{i}") for i in range(1, 4)]
_TCP = {ip: bytes(ipv4(str(ip), "192.0.2.9", 6, bytes(20))) for ip in IPS}


class ComparedSwitch:
    def __init__(self, ports: int) -> None:
        self.switch, self.model = Switch(), SwitchModel()
        self.lab = Lab(self.switch, ports)

    def now_s(self) -> int:
        return self.lab.now_ns // 1_000_000_000

    def bind(self, number: int, role: Role, mac: bytes | None, ip: IPv4Address, isolated: bool) -> None:
        wanted = PortBinding(role, format_mac(mac) if mac else None, (ip,), isolated=isolated)
        expected = self.model.bind(number, Bound(role, mac, ip.packed, isolated))
        try:
            self.switch.bind(self.lab, number, wanted)
        except FileExistsError:
            assert not expected
        else:
            assert expected

    def unbind(self, number: int) -> None:
        if number in self.model.ports:
            self.switch.unbind(self.lab, number)
            self.model.unbind(number)

    def send(self, number: int, frames: Iterable[tuple[bytes, bytes, IPv4Address]]) -> None:
        """A burst of TCP: destination, source and IPv4 source of each frame."""
        expected: dict[int, list[bytes]] = {}
        burst = []
        refused = 0
        for i, (destination, source, ip) in enumerate(frames):
            burst.append(NO_OFFLOAD + destination + source + b"\x08\0" + _TCP[ip] + bytes([i]))
            receivers = self.model.send(number, destination, source, ip.packed, self.now_s())
            refused += not receivers
            for port in receivers:
                expected.setdefault(port, []).append(burst[-1])
        before = sum(self.lab.drops(number).values())
        found = self.lab.rx(number, burst)
        assert sum(self.lab.drops(number).values()) - before == refused, (
            "no frame is dropped without a reason"
        )
        assert {port: sorted(given) for port, given in found.items()} == {
            port: sorted(given) for port, given in expected.items()
        }

    def wait(self, seconds: int) -> None:
        self.lab.now_ns += seconds * 1_000_000_000
        self.lab.tick(TICKS_OF_A_SWEEP)
        self.model.age(self.now_s())

    def agree(self) -> None:
        """The tables of both have the same in them."""
        if not self.model.ports:
            return
        listed = {entry.mac: entry.port for entry in self.switch.fdb(self.lab, 0)}
        static = {format_mac(bound.mac): n for n, bound in self.model.ports.items() if bound.mac}
        assert listed == static | {format_mac(mac): at[0] for mac, at in self.model.learned.items()}
