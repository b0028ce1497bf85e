from __future__ import annotations

import itertools

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.ports.vhost_user.features import Feature
from tests.ports.vhost_user.guest import OFFLOADS, PLAIN, USUAL, frame, guest
from tests.support.virtqueue import HEADER

HEAD_BYTES = 256
FRAME_BYTES_MIN, FRAME_BYTES_MAX = 14, 65_550
PARTS_MAX = 64
CHAIN_MAX = 1024
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, TCPV6, UDP, UDP_L4, ECN = 1, 4, 3, 5, 0x80


def header(
    flags: int = 0, kind: int = 0, size: int = 0, segment: int = 0, start: int = 0, field: int = 0
) -> bytes:
    return HEADER.pack(flags, kind, size, segment, start, field, 0)


@pytest.mark.parametrize("size", [FRAME_BYTES_MIN, 60, HEAD_BYTES, HEAD_BYTES + 1, 1514, FRAME_BYTES_MAX])
@pytest.mark.parametrize("cuts", [(), (12,), (5, 9, 12), (12, 20), (3,)], ids=str)
def test_v16_frame_comes_whole_however_its_header_is_split(size: int, cuts: tuple[int, ...]) -> None:
    with guest() as one:
        one.transmit(frame(size), cuts=cuts)
        ((offload, body, parts),) = one.worker.receive()
        assert (offload, body) == (PLAIN, frame(size))
        assert parts[0] == min(size, HEAD_BYTES)
        assert one.rings[1].finished() == [(0, 0)]


@pytest.mark.parametrize("size", [1, 11, 12, 12 + FRAME_BYTES_MIN - 1])
def test_v16_chain_shorter_than_header_and_frame_is_dropped(size: int) -> None:
    with guest() as one:
        short = one.place((PLAIN + frame())[:size])
        one.rings[1].offer(one.rings[1].chain(readable=[short]))
        one.transmit(frame(60, 1))
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, 1)]
        assert one.drops == {PortDrop.PORT_DROP_SHORT: 1}
        assert len(one.rings[1].finished()) == 2


def test_v17_frame_one_byte_too_long_is_dropped() -> None:
    with guest() as one:
        one.transmit(frame(FRAME_BYTES_MAX + 1))
        assert one.worker.receive() == []
        assert one.drops == {PortDrop.PORT_DROP_LONG: 1}
        assert len(one.rings[1].finished()) == 1
        assert one.worker.is_ready, "there may be more behind what was dropped"


@pytest.mark.parametrize("parts", [PARTS_MAX, PARTS_MAX + 1, 900])
def test_rest_in_more_parts_than_ports_take_is_gathered(parts: int) -> None:
    with guest(size=1024) as one:
        body = frame(HEAD_BYTES + 3 * parts)
        first = 12 + HEAD_BYTES
        one.transmit(body, cuts=tuple(range(first, first + 3 * parts, 3)))
        ((_, found, sizes),) = one.worker.receive()
        assert found == body
        assert len(sizes) - 1 == (parts if parts <= PARTS_MAX else 1)


def test_gathered_frames_of_a_burst_are_limited_and_buffers_come_back() -> None:
    with guest(size=1024) as one:
        body = frame(HEAD_BYTES + 2 * (PARTS_MAX + 1))
        cuts = tuple(range(12 + HEAD_BYTES, 12 + len(body), 2))
        for _ in range(2):
            for _ in range(5):
                one.transmit(body, cuts=cuts)
            assert len(one.worker.receive()) == 4
        assert one.drops == {PortDrop.PORT_DROP_POOL: 2}
        assert len(one.rings[1].finished()) == 10


def test_descriptors_of_a_burst_are_limited_and_the_next_goes_on() -> None:
    with guest() as one:
        content = PLAIN + frame(2 * CHAIN_MAX - 12)
        pieces = [one.place(content[i : i + 2]) for i in range(0, len(content), 2)]
        table = one.rings[1].indirect(one.place(16 * CHAIN_MAX)[0], readable=pieces)
        for _ in range(5):
            one.rings[1].offer(table)
        assert [len(one.worker.receive()) for _ in range(4)] == [2, 2, 1, 0]
        assert one.fault is None


def test_burst_ends_at_its_budget_and_the_next_goes_on() -> None:
    with guest(size=128) as one:
        for number in range(100):
            one.transmit(frame(60, number))
        found = one.worker.receive() + one.worker.receive(budget=20) + one.worker.receive()
        assert [body for _, body, _ in found] == [frame(60, number) for number in range(100)]
        assert one.worker.receive() == []


def test_buffers_are_the_guests_again_after_the_turn_and_not_before() -> None:
    with guest() as one:
        head = one.transmit(frame())
        seen: list[int] = []
        one.worker.receive(before_release=lambda: seen.append(one.rings[1].used_index))
        assert seen == [0]
        assert one.rings[1].finished() == [(head, 0)]


def test_v32_head_is_a_copy_that_the_guest_cannot_change_and_the_rest_is_the_guests_own_memory() -> None:
    with guest(USUAL | OFFLOADS) as one:
        offload = header(NEEDS_CSUM, TCPV4, 54, 1448, 34, 16)
        at = one.room
        one.transmit(frame(3000), offload)
        found = one.worker.receive(before_release=lambda: one.ram.write(at, b"\xee" * 3012))
        rest = 3000 - HEAD_BYTES
        assert found == [(offload, frame(3000)[:HEAD_BYTES] + b"\xee" * rest, [HEAD_BYTES, rest])]


GOOD = [
    header(),
    header(NEEDS_CSUM, start=34, field=6),
    header(NEEDS_CSUM, start=98, field=0),
    header(NEEDS_CSUM, TCPV4, 54, 1448, 34, 16),
    header(NEEDS_CSUM, TCPV6 | ECN, 74, 1428, 54, 16),
    header(size=100),
]
BAD = [
    header(NEEDS_CSUM, start=99, field=0),
    header(NEEDS_CSUM, start=34, field=65),
    header(NEEDS_CSUM, start=0xFFFF, field=0xFFFF),
    header(NEEDS_CSUM, TCPV4, 54, 0, 34, 16),
    header(0, TCPV4, 54, 1448, 34, 16),
    header(NEEDS_CSUM, UDP, 42, 1000, 34, 6),
    header(NEEDS_CSUM, UDP_L4, 42, 1000, 34, 6),
    header(NEEDS_CSUM, 2, 54, 1448, 34, 16),
    header(NEEDS_CSUM, ECN, 54, 1448, 99, 16),
    header(size=101),
]


@pytest.mark.parametrize("offload", GOOD, ids=bytes.hex)
def test_v32_offload_that_fits_is_passed_on(offload: bytes) -> None:
    with guest(USUAL | OFFLOADS) as one:
        one.transmit(frame(100), offload)
        assert [found for found, _, _ in one.worker.receive()] == [offload]


@pytest.mark.parametrize("offload", BAD, ids=bytes.hex)
def test_v32_offload_that_does_not_fit_its_frame_is_dropped(offload: bytes) -> None:
    with guest(USUAL | OFFLOADS) as one:
        one.transmit(frame(100), offload)
        assert one.worker.receive() == []
        assert one.drops == {PortDrop.PORT_DROP_OFFLOAD: 1}
        assert one.fault is None


@pytest.mark.parametrize("offload", GOOD[1:5], ids=bytes.hex)
def test_offload_that_was_not_negotiated_is_dropped(offload: bytes) -> None:
    with guest(USUAL) as one:
        one.transmit(frame(100), offload)
        assert one.worker.receive() == []
        assert one.drops == {PortDrop.PORT_DROP_OFFLOAD: 1}


def test_guest_cannot_say_that_a_checksum_was_verified_nor_how_many_buffers() -> None:
    with guest(USUAL | OFFLOADS) as one:
        one.transmit(frame(100), HEADER.pack(DATA_VALID, 0, 0, 0, 0, 0, 77))
        assert [found for found, _, _ in one.worker.receive()] == [PLAIN]


def test_header_of_a_driver_before_version_1_has_ten_bytes() -> None:
    with guest(OFFLOADS) as one:
        offload = header(NEEDS_CSUM, TCPV4, 54, 1448, 34, 16)
        one.transmit(frame(2000), offload[:10])
        assert [each[:2] for each in one.worker.receive()] == [(offload, frame(2000))]


def test_header_of_a_front_end_that_names_no_features_has_ten_bytes() -> None:
    with guest(start=False) as one:
        one.map()
        one.start(1)
        one.transmit(frame(), PLAIN[:10])
        assert [each[:2] for each in one.worker.receive()] == [(PLAIN, frame())]


def test_pairs_take_turns_and_all_are_served() -> None:
    with guest(USUAL | Feature.MQ, pairs=2, size=256) as one:
        for number, pair in itertools.product(range(70), range(2)):
            one.transmit(frame(60, 1000 * pair + number), pair=pair)
        firsts = set()
        count = 0
        while found := one.worker.receive():
            firsts.add(int.from_bytes(found[0][1][14:18], "big") // 1000)
            count += len(found)
        assert (count, firsts) == (140, {0, 1})


def test_ring_that_is_not_enabled_is_left_alone() -> None:
    with guest(start=False) as one:
        one.tell_features()
        one.map()
        one.start(1, flags=0)
        one.transmit(frame())
        assert one.worker.receive() == []
        assert not one.worker.is_up
        assert one.enable(1) == 0
        assert one.worker.is_up
        assert one.worker.is_ready
        assert len(one.worker.receive()) == 1
