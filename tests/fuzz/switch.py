"""Ports that are bound to anything, and frames from each of them, beside the readable switch: who gets which frame.

An input is steps: a byte that says what (`STEPS`), and what that step reads. Of frames that are not TCP over IPv4, the
readable switch knows who may get them, and not whether what is in them is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from arcbox_net.dataplane.port_binding import Role
from tests.fuzz.reader import Input, steps
from tests.support.compared_switch import GROUPS, IPS, MACS, ComparedSwitch
from tests.support.switch import NO_OFFLOAD, network

STEPS_MAX = 64
PORTS = 6
BURST_MAX = 8
ROLES: tuple[Role, ...] = ("guest", "guest", "trusted", "uplink")
ADDRESSES = [*MACS, *GROUPS, bytes.fromhex("0180c200000e")]
KINDS = {4: b"\x08\0", 6: b"\x86\xdd"}  # by the version that the packet begins with
OTHER_KINDS = (b"\x08\x06", b"\x81\0", b"\x88\xa8", b"\x88\xcc", b"\x08\0", b"\x86\xdd", b"\0\x26", b"\x91\0")
TAGS = OTHER_KINDS[1], OTHER_KINDS[2], OTHER_KINDS[7]
SWEEPS_S = (0, 2, 150, 310)


def address(read: Input) -> bytes:
    return ADDRESSES[read.number() % len(ADDRESSES)]


def bind(both: ComparedSwitch, read: Input) -> None:
    number, options, mac = read.number() % PORTS, read.number(), read.number() % len(MACS)
    ip = IPS[(options >> 3) % len(IPS)]
    both.bind(number, ROLES[options & 3], MACS[mac] if mac else None, ip, bool(options & 4))


def unbind(both: ComparedSwitch, read: Input) -> None:
    both.unbind(read.number() % PORTS)


def send(both: ComparedSwitch, read: Input) -> None:
    number, count = read.number() % PORTS, read.number() % (BURST_MAX + 1)
    both.send(number, [(address(read), address(read), IPS[read.number() % len(IPS)]) for _ in range(count)])


def send_any(both: ComparedSwitch, read: Input) -> None:
    """A frame of anything."""
    number, destination, source = read.number() % PORTS, address(read), address(read)
    kind = read.number()
    body = read.take(read.number())
    ethertype = OTHER_KINDS[kind % len(OTHER_KINDS)]
    if kind & 0x80 and body:
        ethertype = KINDS.get(body[0] >> 4, ethertype)
    frame = NO_OFFLOAD + destination + source + ethertype + body
    bound = both.model.ports.get(number)
    tagged = bound is not None and bound.role == "uplink" and ethertype in TAGS
    expected: set[int] = set()
    if bound is not None and not tagged and both.model.heard(number, source, both.now_s()):
        expected = both.model.receivers(number, destination)
    before = sum(both.lab.drops(number).values())
    found = both.lab.rx(number, [frame])
    assert all(given == [frame] for given in found.values())
    assert sum(both.lab.drops(number).values()) - before == (not found)
    assert set(found) == expected or (not found and bound is not None and bound.role == "guest")


def wait(both: ComparedSwitch, read: Input) -> None:
    both.wait(SWEEPS_S[read.number() % len(SWEEPS_S)])


def set_network(both: ComparedSwitch, read: Input) -> None:
    """From here on guests have IPv6 addresses, of which each is somebody's."""
    both.switch.set_network(both.lab, 0, network())


STEPS: tuple[Callable[[ComparedSwitch, Input], None], ...] = (
    bind,
    send,
    send_any,
    send,
    bind,
    unbind,
    wait,
    set_network,
)


def exchange(body: bytes) -> None:
    """The target: a switch, its bindings and its tables."""
    read = Input(body)
    both = ComparedSwitch(PORTS)
    for step in steps(read, STEPS_MAX):
        STEPS[step % len(STEPS)](both, read)
    both.agree()
