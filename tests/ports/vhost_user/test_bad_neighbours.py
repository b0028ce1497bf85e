"""What a guest that floods costs others (G5, G6): no frame of theirs, and each of its own is accounted for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from arcbox_net import checksum
from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.dataplane.worker_views import PortCounters
from arcbox_net.ports.vhost_user.port import VhostUserPort
from tests.ports.vhost_user.guest import USUAL, Guest, PortOfWorker
from tests.support.patched import eventually

ROUNDS, WINDOW, RING = 150, 16, 64
BUFFER_BYTES, FRAME_BYTES = 512, 200
FLOODER, SENDER, TAKER, DEAF = range(4)  # the last takes nothing


def mac_of(who: int) -> str:
    return f"02:00:00:00:00:0{who + 1}"


def frame(source: int, to: int, number: int) -> bytes:
    """FRAME_BYTES of IPv4, told from others by *number*."""
    macs = bytes.fromhex((mac_of(to) + mac_of(source)).replace(":", ""))
    addresses = bytes((192, 0, 2, source + 1, 192, 0, 2, to + 1))
    header = b"\x45\0" + (FRAME_BYTES - 14).to_bytes(2, "big") + b"\0\0\0\0\x40\xfd\0\0" + addresses
    summed = header[:10] + checksum(header).to_bytes(2, "big") + addresses
    return (macs + b"\x08\0" + summed + number.to_bytes(4, "big") * 50)[:FRAME_BYTES]


@dataclass
class Lab:
    """A guest for each number, one on each worker, or all on one."""

    group: WorkerGroup
    guests: list[Guest]
    numbers: list[int]

    def counters(self, who: int) -> PortCounters:
        return self.group.counters()[self.numbers[who]]


@contextmanager
def lab(workers: int) -> Iterator[Lab]:
    switches = [Switch() for _ in range(workers)]
    Switch.join(switches)
    with WorkerGroup(switches, spin_us=0) as group:
        made = Lab(group, [], [])
        for who in (FLOODER, SENDER, TAKER, DEAF):
            place = group.place(who % workers)
            made.numbers.append(place.add(VhostUserPort(), place.sink))
            switches[0].bind(group, made.numbers[-1], PortBinding(mac=mac_of(who), ipv4=None))
            made.guests.append(Guest(USUAL, size=RING, port=PortOfWorker(place, made.numbers[-1])))
        try:
            yield made
        finally:
            for guest in made.guests:
                guest.close()


class Flood:
    """A ring of frames that is offered again as soon as it was taken."""

    def __init__(self, guest: Guest, source: int, to: int) -> None:
        self.guest, self.ring = guest, guest.rings[1]
        for number in range(RING):
            guest.transmit(frame(source, to, number))
        self.offered = RING

    def go_on(self) -> None:
        if self.ring.used_index == self.ring.index:
            self.ring.set_index((self.ring.index + RING) & 0xFFFF)
            self.offered += RING
        os.eventfd_write(self.guest.kicks[1], 1)


def transfer(sender: Guest, taker: Guest, meanwhile: Callable[[], None]) -> str:
    """Send WINDOW frames after the other, as the far side gets them; the digest of what arrived."""
    arrived = hashlib.sha256()
    taker.supply(*[BUFFER_BYTES] * RING)
    ring = taker.rings[0]
    for number in range(ROUNDS):
        for i in range(WINDOW):
            sender.transmit(frame(SENDER, TAKER, number * WINDOW + i))
        os.eventfd_write(sender.kicks[1], 1)
        got = 0

        def all_came() -> bool:
            nonlocal got
            meanwhile()
            for head, size in ring.finished():
                arrived.update(taker.content(ring, head, size)[12:])
                ring.offer(head)
                got += 1
            return got >= WINDOW

        eventually(all_came, f"round {number}")
    return arrived.hexdigest()


def whole() -> str:
    frames = (frame(SENDER, TAKER, i) for i in range(ROUNDS * WINDOW))
    return hashlib.sha256(b"".join(frames)).hexdigest()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("source", "reasons", "at"),
    [
        (FLOODER, {PortDrop.PORT_DROP_FULL, PortDrop.PORT_DROP_RING}, DEAF),
        (TAKER, {PortDrop.PORT_DROP_SOURCE_MAC}, FLOODER),
    ],
    ids=["floods-who-takes-nothing", "spoofs"],
)
def test_g5_flood_costs_others_no_frame_and_each_of_its_own_is_counted(
    workers: int, source: int, reasons: set[PortDrop], at: int
) -> None:
    with lab(workers) as made:
        flood = Flood(made.guests[FLOODER], source, DEAF)
        assert transfer(made.guests[SENDER], made.guests[TAKER], flood.go_on) == whole()
        eventually(lambda: flood.ring.used_index == flood.ring.index, "the flood is taken")
        eventually(lambda: sum(made.counters(at).drops.values()) == flood.offered, "all is counted")
        assert set(made.counters(at).drops) <= reasons
        assert made.counters(FLOODER).rx_frames == flood.offered > RING
        assert made.counters(DEAF).tx_frames == 0
        assert made.counters(SENDER)[:2] == (ROUNDS * WINDOW, ROUNDS * WINDOW * FRAME_BYTES)
        assert made.counters(TAKER).tx_frames == ROUNDS * WINDOW
        assert [made.counters(who).drops for who in (SENDER, TAKER)] == [{}, {}]


@pytest.mark.parametrize("workers", [1, 4])
def test_g5_guest_whose_ring_breaks_costs_others_no_frame(workers: int) -> None:
    with lab(workers) as made:
        broken = made.guests[FLOODER].rings[1]
        broken.offer(broken.size)  # a head beyond the table
        os.eventfd_write(made.guests[FLOODER].kicks[1], 1)
        assert transfer(made.guests[SENDER], made.guests[TAKER], lambda: None) == whole()
        assert made.counters(FLOODER).rx_frames == 0
        assert [made.counters(who).drops for who in (SENDER, TAKER)] == [{}, {}]
