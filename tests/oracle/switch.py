"""A switch that is slow and readable: who gets a frame, and what guests may send of TCP over IPv4."""

from __future__ import annotations

import dataclasses

GROUP_BIT = 1
LINK_CONTROL = bytes.fromhex("0180c20000")  # and one octet of which the upper half is 0
AGE_S = 300
LEARNED_GUEST_MAX, LEARNED_MAX = 8, 3840


@dataclasses.dataclass
class Bound:
    role: str
    mac: bytes | None
    ip: bytes | None
    isolated: bool


class SwitchModel:
    """Frames are told by their MACs and their IPv4 source, times are in seconds."""

    def __init__(self) -> None:
        self.ports: dict[int, Bound] = {}
        self.learned: dict[bytes, tuple[int, int]] = {}

    def bind(self, number: int, bound: Bound) -> bool:
        """False: its MAC is another's for good."""
        if bound.mac and any(n != number and p.mac == bound.mac for n, p in self.ports.items()):
            return False
        if number in self.ports and self.ports[number].mac != bound.mac:
            self.unbind(number)
        self.ports[number] = bound
        if bound.mac:
            self.learned.pop(bound.mac, None)
        return True

    def unbind(self, number: int) -> None:
        del self.ports[number]
        self.learned = {mac: at for mac, at in self.learned.items() if at[0] != number}

    def send(self, number: int, destination: bytes, source: bytes, ip: bytes, now_s: int) -> set[int]:
        """The ports that get the frame."""
        bound = self.ports.get(number)
        if (
            bound is None
            or not self.heard(number, source, now_s)
            or (bound.role == "guest" and ip != bound.ip)
        ):
            return set()
        return self.receivers(number, destination)

    def receivers(self, number: int, destination: bytes) -> set[int]:
        """The ports that get a frame which the port may send."""
        bound = self.ports[number]
        if destination.startswith(LINK_CONTROL) and destination[5] < 0x10:
            return set()
        if destination[0] & GROUP_BIT:
            to = set(self.ports)
        else:
            owner = self._owner(destination)
            to = {owner} if owner is not None else {n for n, p in self.ports.items() if not _is_static(p)}
        return {
            n
            for n in to
            if n != number and n in self.ports and not (bound.isolated and self.ports[n].isolated)
        }

    def heard(self, number: int, source: bytes, now_s: int) -> bool:
        """Whether the port may send from *source*, which it has from then on."""
        bound = self.ports[number]
        guest = bound.role == "guest"
        if guest and bound.mac is not None:
            return source == bound.mac
        if source[0] & GROUP_BIT or not any(source):
            return False
        owner = self._owner(source)
        if owner is None:
            mine = sum(port == number for port, _ in self.learned.values())
            if mine < (LEARNED_GUEST_MAX if guest else LEARNED_MAX):
                self.learned[source] = number, now_s
            elif guest:
                return False
        elif owner != number:
            return False
        elif source in self.learned:
            self.learned[source] = number, now_s
        return True

    def age(self, now_s: int) -> None:
        self.learned = {mac: at for mac, at in self.learned.items() if now_s - at[1] < AGE_S}

    def _owner(self, mac: bytes) -> int | None:
        for number, bound in self.ports.items():
            if bound.mac == mac:
                return number
        return self.learned[mac][0] if mac in self.learned else None


def _is_static(bound: Bound) -> bool:
    return bound.role == "guest" and bound.mac is not None
