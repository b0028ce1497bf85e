"""Packets and settings that once led the engine outside its memory or its books."""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from arcbox_net import (
    Direction,
    FrameBatch,
    NatEngine,
    NatEngineConfig,
    PacketPool,
    Verdict,
    checksum,
)
from arcbox_net.errors import ConfigError, LimitReached
from tests.support.nat import EXTERNAL, A, B, Nat

GRE, FRAGMENT_HEADER = 47, 44
GUEST6, REMOTE6, EXTERNAL6 = "fd00:64::10", "2001:db8:9::1", "2001:db8::1"
IPV6 = {"external_ip6": EXTERNAL6, "inside6": "fd00:64::/64"}
ROUTED = "198.51.100.0/24"
REMOTE = "198.51.100.7"


def udp(source: int, destination: int, payload: bytes = b"ping", summed: int = 0) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), summed) + payload


def ip4(
    source: str, destination: str, protocol: int, rest: bytes, *, number: int = 0, part: int = 0
) -> bytearray:
    """*part* is the field of flags and offset."""
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), number, part, 64, protocol, 0))
    header += ip_address(source).packed + ip_address(destination).packed
    header[10:12] = checksum(header).to_bytes(2, "big")
    return header + rest


def ip6(next_header: int, rest: bytes, source: str = GUEST6) -> bytearray:
    head = struct.pack("!IHBB", 0x60000000, len(rest), next_header, 64)
    return bytearray(head + ip_address(source).packed + ip_address(REMOTE6).packed + rest)


@pytest.fixture
def pool() -> Iterator[PacketPool]:
    with PacketPool(8, 1) as pool:
        yield pool


def test_a_fragment_header_inside_a_fragment_is_no_packet() -> None:
    nat = Nat(**IPV6)
    inner = bytes([FRAGMENT_HEADER, 0, 1, 4, 0, 0, 0, 0]) + bytes([17, 0, 0, 1, 0, 0, 0, 7])
    hidden = ip6(FRAGMENT_HEADER, bytes(8) + inner + udp(5000, 6000, b"A" * 64, 1))
    plain = ip6(FRAGMENT_HEADER, bytes([17, 0, 0, 0, 0, 0, 0, 9]) + udp(8000, 6000, b"B" * 64, 0x1234))
    verdicts = nat.engine.translate([plain, hidden], Direction.OUTBOUND, 1.0)
    assert verdicts[1] == Verdict.DROP_BAD_FRAGMENT


@pytest.mark.parametrize("start", [0, 2, 12, 19])
def test_a_checksum_is_not_written_into_the_header_of_a_routed_packet(start: int) -> None:
    nat = Nat(untranslated=[ROUTED])
    packet = ip4(A, REMOTE, GRE, bytes(1600))
    frame = bytearray(struct.pack("<BBHHHHH", 1, 0, 0, 0, start, 0, 0) + packet)
    batch = FrameBatch.over([frame], vnet=True, l3=0)
    assert nat.engine.translate(batch, Direction.OUTBOUND, 1.0) == bytes([Verdict.DROP_BAD_OFFLOAD])
    assert frame[12:] == packet


def test_an_address_that_comes_does_not_inherit_guests_of_the_other_version() -> None:
    nat = Nat(**IPV6)
    assert nat.outbound(ip6(17, udp(5000, 6000, summed=0x1234))) == Verdict.VERDICT_FORWARD
    nat.engine.flush()
    config = nat.engine.config
    changed = {"external_ip": [EXTERNAL, "203.0.113.9"], "external_ip6": "2001:db8::2"}
    nat.engine.reconfigure(NatEngineConfig(**{**vars(config), **changed}))
    packet = ip6(17, udp(5000, 6000, summed=0x1234))
    assert nat.outbound(packet) == Verdict.VERDICT_FORWARD
    assert packet[8:24] == ip_address("2001:db8::2").packed


def test_ipv6_without_an_external_address_is_refused() -> None:
    with pytest.raises(ConfigError):
        Nat(external_ip6=[], inside6="fd00:64::/64")


def test_addresses_that_no_host_has_are_no_ends_of_a_forward() -> None:
    nat = Nat(**IPV6)
    for inside, external in ((A, "240.0.0.0"), ("240.200.0.5", EXTERNAL)):
        with pytest.raises(ConfigError):
            nat.engine.add_forward("udp", 8080, inside, external_ip=external)


def test_a_routed_fragment_is_cut_within_its_datagram() -> None:
    nat = Nat(untranslated=[ROUTED], mtu=9000, uplink_mtu=1500)
    part = ip4(A, REMOTE, 17, bytes(3200), number=77, part=0x2000 | 4000 // 8)
    assert nat.outbound(part) == Verdict.VERDICT_FRAGMENTED
    cuts = [struct.unpack_from("!HHH", made.frame, 2) for made in nat.engine.emitted()]
    at = 4000
    for total, number, field in cuts:
        assert (number, field) == (77, 0x2000 | at // 8)
        at += total - 20
    assert at == 7200


def test_a_flow_that_waits_leaves_no_mapping_of_its_second_try() -> None:
    nat = Nat()
    nat.sent(ip4(B, "192.0.2.1", 17, udp(50000, 53)))
    (mapping,) = nat.engine.mappings()
    ask = ip4(A, EXTERNAL, 17, udp(40000, mapping.external.number))
    assert nat.outbound(bytearray(ask)) == Verdict.DROP_FILTERED
    nat.engine.remove_forward(nat.engine.add_forward("udp", 8080, A, 40000))
    assert nat.outbound(bytearray(ask)) == Verdict.DROP_FILTERED
    for now in range(2000, 10_000, 400):
        nat.engine.expire(float(now))
    assert [*nat.engine.flows(), *nat.engine.mappings()] == []
    assert nat.engine.stats()["guests"] == 0


def test_a_list_that_lies_about_its_length_is_refused() -> None:
    class Short(list[bytearray]):
        def __len__(self) -> int:
            return 1

    engine = NatEngine(NatEngineConfig(external_ip=EXTERNAL))
    with pytest.raises(LimitReached):
        engine.translate(Short([bytearray(60)] * 400), Direction.OUTBOUND, 1.0)


def test_a_view_that_is_collected_with_its_batch_gives_the_buffer_back(pool: PacketPool) -> None:
    def fail() -> None:
        batch = FrameBatch(pool)
        batch.acquire(1, size=60)
        view = batch[0]
        try:
            raise ValueError(len(view))
        except ValueError as error:
            kept = error  # the traceback's frame holds the error that holds the traceback
            assert kept.args

    for _ in range(32):
        fail()
        gc.collect()
    assert pool.stats()["small"]["held"] == 0


@pytest.mark.parametrize("l3", [-1, 256, 300])
def test_an_offset_that_does_not_fit_takes_no_buffer(pool: PacketPool, l3: int) -> None:
    with FrameBatch(pool) as batch:
        with pytest.raises(OverflowError):
            batch.acquire(1, size=60, l3=l3)
        with pytest.raises(OverflowError):
            batch.append(bytes(60), l3=l3)
    assert pool.stats()["small"]["held"] == 0
