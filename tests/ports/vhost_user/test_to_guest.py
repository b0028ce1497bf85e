from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.ports.vhost_user.features import Feature
from tests.ports.vhost_user.guest import GUEST_OFFLOADS, PLAIN, USUAL, Guest, frame, guest
from tests.support.virtqueue import HEADER

FRAME_BYTES_MAX = 65_550
MERGED_MAX = 64
WALKS_MAX = 4096
TSO = HEADER.pack(1, 1, 54, 1448, 34, 16, 0)
TAKES_CSUM, TAKES_TSO4, TAKES_TSO6, TAKES_ECN = 1, 2, 4, 8
WITHOUT_MERGING = USUAL & ~Feature.MRG_RXBUF


@pytest.mark.parametrize("size", [60, 256, 257, 1514, 9014, FRAME_BYTES_MAX])
def test_frame_is_merged_from_as_many_buffers_as_it_needs(size: int) -> None:
    with guest(size=256) as one:
        one.supply(*[1526] * 100)
        one.worker.send([(PLAIN, frame(size)), (PLAIN, frame(60))])
        needed = -(-(12 + size) // 1526)
        (first, body), (second, small) = one.received()
        assert (first[-1], body) == (needed, frame(size))
        assert (second[-1], small) == (1, frame(60))
        assert one.worker.sent == (2, size + 60)


def test_used_entries_say_how_much_was_written_to_each() -> None:
    with guest() as one:
        one.supply(1000, 1000, 1000)
        one.worker.send([(PLAIN, frame(2100))])
        assert one.rings[0].finished() == [(0, 1000), (1, 1000), (2, 112)]


@pytest.mark.parametrize("cuts", [(12,), (1, 2, 3, 4), (12, 268, 269), (11, 30)], ids=str)
def test_buffer_in_pieces_is_filled_in_order(cuts: tuple[int, ...]) -> None:
    with guest(WITHOUT_MERGING) as one:
        sizes = [b - a for a, b in zip((0, *cuts), (*cuts, 2000), strict=True)]
        one.rings[0].offer(one.rings[0].chain(writable=[one.place(size) for size in sizes]))
        one.worker.send([(PLAIN, frame(1514))])
        assert [(fields[-1], body) for fields, body in one.received()] == [(1, frame(1514))]


def test_indirect_buffer_is_filled() -> None:
    with guest() as one:
        buffers = [one.place(12), one.place(2000)]
        one.rings[0].offer(one.rings[0].indirect(one.place(64)[0], writable=buffers))
        one.worker.send([(PLAIN, frame(300))])
        assert one.rings[0].finished() == [(0, 312)]
        assert one.ram.read(buffers[1][0], 300) == frame(300)


def test_v35_short_frame_is_padded_with_zeros_to_60() -> None:
    with guest() as one:
        ((address, _),) = one.supply(256)
        one.ram.write(address, b"\xee" * 256)
        one.worker.send([(PLAIN, frame(20))])
        assert one.rings[0].finished() == [(0, 72)]
        assert one.ram.read(address + 12, 60) == frame(20) + bytes(40)
        assert one.ram.read(address + 72, 184) == b"\xee" * 184, "nothing behind the frame is touched"


def test_v35_guest_gets_no_byte_that_was_not_of_the_frame() -> None:
    with guest(size=256) as one:
        buffers = one.supply(*[700] * 10)
        for address, size in buffers:
            one.ram.write(address, b"\xee" * size)
        one.worker.send([(PLAIN, b"\x11" * 3000)], part_bytes=77)
        contents = b"".join(one.ram.read(*each) for each in buffers)
        assert contents == HEADER.pack(0, 0, 0, 0, 0, 0, 5) + b"\x11" * 3000 + b"\xee" * (7000 - 3012)


def test_frame_without_room_is_dropped_and_the_ring_is_as_before() -> None:
    with guest() as one:
        one.supply(1000)
        one.worker.send(
            [(PLAIN, frame(1500)), (PLAIN, frame(1200)), (PLAIN, frame(100)), (PLAIN, frame(100))]
        )
        assert one.drops == {PortDrop.PORT_DROP_FULL: 3}
        assert [body for _, body in one.received()] == [frame(100)]
        one.supply(1000, 1000)
        one.worker.send([(PLAIN, frame(1500))])
        assert [body for _, body in one.received()] == [frame(1500)]


def test_smaller_frame_still_fits_where_a_larger_one_did_not() -> None:
    with guest() as one:
        one.supply(500, 500)
        one.worker.send([(PLAIN, frame(1400)), (PLAIN, frame(600)), (PLAIN, frame(1400))])
        assert [body for _, body in one.received()] == [frame(600)]
        assert one.drops == {PortDrop.PORT_DROP_FULL: 2}


@pytest.mark.parametrize(("chains", "fits"), [(MERGED_MAX, True), (MERGED_MAX + 1, False)])
def test_frame_is_merged_from_64_chains_and_not_from_more(chains: int, fits: bool) -> None:
    with guest(size=128) as one:
        one.supply(*[20] * 128)
        one.worker.send([(PLAIN, frame(20 * (chains - 1) + 1))])
        assert len(one.rings[0].finished()) == (chains if fits else 0)
        assert one.drops == ({} if fits else {PortDrop.PORT_DROP_TOO_BIG: 1})


def test_descriptors_that_a_turn_looks_at_are_limited() -> None:
    with guest(WITHOUT_MERGING, size=128) as one:
        per_chain = WALKS_MAX // 64
        chain = one.rings[0].indirect(one.place(16 * per_chain)[0], writable=[one.place(2)] * per_chain)
        for _ in range(66):
            one.rings[0].offer(chain)
        one.worker.send([(PLAIN, frame())] * 64, flush=False)
        assert one.drops == {}
        one.worker.send([(PLAIN, frame())])
        assert one.drops == {PortDrop.PORT_DROP_FULL: 1}
        one.worker.send([(PLAIN, frame())])
        assert len(one.rings[0].finished()) == 65


def test_guest_that_cannot_merge_gets_each_frame_in_one_chain() -> None:
    with guest(WITHOUT_MERGING) as one:
        one.supply(1526, 1526)
        one.worker.send([(PLAIN, frame(1515)), (PLAIN, frame(1514))])
        assert [(fields[-1], body) for fields, body in one.received()] == [(1, frame(1514))]
        assert one.drops == {PortDrop.PORT_DROP_TOO_BIG: 1}


def test_each_frame_that_is_too_big_for_the_next_chain_is_dropped_as_that() -> None:
    with guest(WITHOUT_MERGING) as one:
        one.supply(1526, 1526)
        one.worker.send([(PLAIN, frame(1600)), (PLAIN, frame(1515)), (PLAIN, frame(1600))])
        assert one.drops == {PortDrop.PORT_DROP_TOO_BIG: 3}


def test_frame_that_was_too_big_for_a_chain_fits_a_larger_one_behind_it() -> None:
    with guest(WITHOUT_MERGING) as one:
        one.supply(100, 1526)
        one.worker.send([(PLAIN, frame(1514)), (PLAIN, frame(60)), (PLAIN, frame(1514))])
        assert [body for _, body in one.received()] == [frame(60), frame(1514)]
        assert one.drops == {PortDrop.PORT_DROP_TOO_BIG: 1}


def test_driver_before_version_1_gets_a_header_of_ten_bytes() -> None:
    with guest(GUEST_OFFLOADS) as one:
        ((address, _),) = one.supply(4096)
        one.worker.send([(TSO, frame(2000))])
        assert one.rings[0].finished() == [(0, 2010)]
        assert one.ram.read(address, 2010) == TSO[:10] + frame(2000)


def test_offload_goes_to_a_guest_that_takes_it() -> None:
    with guest(USUAL | GUEST_OFFLOADS) as one:
        one.supply(4096)
        one.worker.send([(TSO, frame(2000))])
        ((fields, _),) = one.received()
        assert struct.pack("=BBHHHHH", *fields)[:10] == TSO[:10]


def test_verified_checksum_is_told_only_to_who_asked() -> None:
    verified = HEADER.pack(2, 0, 0, 0, 0, 0, 0)
    for features, told in ((USUAL, 0), (USUAL | Feature.GUEST_CSUM, 2)):
        with guest(features) as one:
            one.supply(256)
            one.worker.send([(verified, frame())])
            assert [fields[0] for fields, _ in one.received()] == [told]


@pytest.mark.parametrize(
    ("features", "takes"),
    [
        (USUAL, 0),
        (USUAL | Feature.GUEST_TSO4, 0),
        (USUAL | Feature.GUEST_CSUM, TAKES_CSUM),
        (USUAL | Feature.GUEST_CSUM | Feature.GUEST_TSO6, TAKES_CSUM | TAKES_TSO6),
        (USUAL | GUEST_OFFLOADS, TAKES_CSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_ECN),
    ],
)
def test_port_takes_what_the_guest_does(features: int, takes: int) -> None:
    with guest(features) as one:
        assert one.worker.takes == takes


def test_ring_that_does_not_run_drops_frames() -> None:
    with guest() as one:
        one.supply(2000)
        one.stop(0)
        one.worker.send([(PLAIN, frame())])
        assert one.drops == {PortDrop.PORT_DROP_DOWN: 1}


@pytest.fixture
def four_pairs() -> Iterator[Guest]:
    with guest(USUAL | Feature.MQ, pairs=4, size=128) as one:
        for pair in range(4):
            one.supply(*[256] * 70, pair=pair)
        yield one


def ipv4(source: int, destination: int, source_port: int, destination_port: int, protocol: int = 17) -> bytes:
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 46, 0, 0, 64, protocol, 0, source, destination)
    return bytes(12) + b"\x08\0" + ip + struct.pack("!HHHH", source_port, destination_port, 26, 0) + bytes(18)


def ipv6(source: int, destination: int, source_port: int, destination_port: int) -> bytes:
    addresses = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    ip = struct.pack("!IHBB", 6 << 28, 26, 6, 64) + addresses
    return (
        bytes(12) + b"\x86\xdd" + ip + struct.pack("!HHHH", source_port, destination_port, 26, 0) + bytes(18)
    )


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("pair", range(4))
def test_flow_is_answered_on_the_pair_that_it_was_last_seen_on(
    four_pairs: Guest, make: Callable[[int, int, int, int], bytes], pair: int
) -> None:
    for other in (3 - pair, pair):
        four_pairs.transmit(make(7, 9, 4000, 80), pair=other)
        four_pairs.worker.receive()
    four_pairs.worker.send([(PLAIN, make(9, 7, 80, 4000))])
    assert [len(four_pairs.received(pair=each)) for each in range(4)] == [each == pair for each in range(4)]


def test_flows_that_were_not_seen_are_spread(four_pairs: Guest) -> None:
    four_pairs.worker.send([(PLAIN, ipv4(1, 2, 53, 1000 + i)) for i in range(64)])
    counts = [len(four_pairs.received(pair=pair)) for pair in range(4)]
    assert sum(counts) == 64
    assert min(counts) > 4


def test_flow_of_a_pair_that_does_not_run_goes_to_the_first(four_pairs: Guest) -> None:
    four_pairs.transmit(ipv4(7, 9, 4000, 80), pair=2)
    four_pairs.worker.receive()
    four_pairs.enable(4, 0)
    four_pairs.worker.send([(PLAIN, ipv4(9, 7, 80, 4000))])
    assert len(four_pairs.received(pair=0)) == 1
