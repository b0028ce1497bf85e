"""The engine as a Python object: what it takes, shows, closes and swaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from arcbox_net import Direction, FrameBatch, NatEngine, NatEngineConfig, PacketPool, Verdict
from arcbox_net.dataplane.nat_views import NatForward
from arcbox_net.errors import ConfigError, ForwardExists, ForwardNotFound, LimitReached, NotRunning

EXTERNAL, GUEST, OTHER, REMOTE = "203.0.113.1", "192.168.64.5", "192.168.64.6", "198.51.100.7"
CONFIG = NatEngineConfig(EXTERNAL, l3_offset=0, conntrack_size=1024, seed=bytes(32))
OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND


@pytest.fixture
def engine() -> Iterator[NatEngine]:
    nat = NatEngine(CONFIG)
    yield nat
    nat.close()


def send(
    engine: NatEngine, packet: Packet, direction: Direction = OUTBOUND, now: float = 1.0
) -> tuple[Verdict, Packet]:
    frame = bytearray(bytes(packet))
    verdict = engine.translate([frame], direction, now)[0]
    return Verdict(verdict), type(packet)(bytes(frame))


def datagram(guest: str = GUEST, number: int = 4000, remote: str = REMOTE, to: int = 5000) -> Packet:
    return IP(src=guest, dst=remote) / UDP(sport=number, dport=to) / b"hello"


def syn(guest: str = GUEST, number: int = 4000) -> Packet:
    return IP(src=guest, dst=REMOTE) / TCP(sport=number, dport=80, flags="S")


def test_batch_of_a_pool_is_translated_where_it_lies(engine: NatEngine) -> None:
    with PacketPool(64, 1) as pool, FrameBatch(pool) as batch:
        for number in range(64):
            batch.append(bytes(datagram(number=4000 + number)), l3=0)
        assert engine.translate(batch, OUTBOUND, 1.0) == bytes([Verdict.VERDICT_FORWARD]) * 64
        assert all(IP(bytes(frame)).src == EXTERNAL for frame in batch)


def test_ethernet_frames_of_other_types_are_counted_apart() -> None:
    engine = NatEngine(replace(CONFIG, l3_offset=14))
    for frame in (
        Ether(type=0x86DD) / bytes(40),
        Ether() / Dot1Q(vlan=3) / datagram(),
        Ether(type=0x0806) / bytes(28),
    ):
        assert send(engine, frame)[0] == Verdict.DROP_UNKNOWN_PROTOCOL
    assert send(engine, Ether() / datagram())[0] == Verdict.VERDICT_FORWARD
    assert engine.stats()["unknown_protocol"] == 3


@pytest.mark.parametrize("frames", [[], [bytearray()], [bytearray(13)], [bytearray(19)]], ids=len)
def test_no_frame_is_too_short(engine: NatEngine, frames: list[bytearray]) -> None:
    assert engine.translate(frames, INBOUND) == bytes([Verdict.DROP_BAD_HEADER]) * len(frames)


def test_more_frames_than_a_burst_are_refused(engine: NatEngine) -> None:
    with pytest.raises(LimitReached):
        engine.translate([bytearray(60)] * 65, OUTBOUND)


def test_a_direction_is_one_of_two(engine: NatEngine) -> None:
    with pytest.raises(ConfigError):
        engine.translate([], 2)  # type: ignore[arg-type]


def test_closed_engine_says_so(engine: NatEngine) -> None:
    listing = engine.flows()
    engine.close()
    engine.close()
    for call in (engine.stats, engine.emitted, engine.forwards, engine.expire, lambda: next(listing)):
        with pytest.raises(NotRunning):
            call()


def test_flow_is_listed_with_both_tuples(engine: NatEngine) -> None:
    packet = send(engine, datagram())[1]
    send(engine, IP(src=REMOTE, dst=EXTERNAL) / UDP(sport=5000, dport=packet.sport) / b"world!", INBOUND, 3.0)
    (flow,) = engine.flows()
    assert (flow.protocol, flow.state, flow.opened_by, flow.hairpin) == ("udp", "open", OUTBOUND, False)
    assert flow.source == (GUEST, 4000)
    assert flow.destination == flow.reply_source == (REMOTE, 5000)
    assert flow.reply_destination == (EXTERNAL, packet.sport)
    assert (flow.packets, flow.bytes, flow.reply_packets, flow.reply_bytes) == (1, 33, 1, 34)
    assert (flow.age_s, flow.idle_s) == (2, 0)
    (mapping,) = engine.mappings()
    assert (mapping.inside, mapping.external, mapping.flows) == ((GUEST, 4000), (EXTERNAL, packet.sport), 1)


def test_tcp_flow_shows_its_state(engine: NatEngine) -> None:
    packet = send(engine, syn())[1]
    assert [flow.state for flow in engine.flows()] == ["opening"]
    reply = IP(src=REMOTE, dst=EXTERNAL) / TCP(sport=80, dport=packet.sport, flags="SA", seq=9, ack=1)
    assert send(engine, reply, INBOUND)[0] == Verdict.VERDICT_FORWARD
    ack = IP(src=GUEST, dst=REMOTE) / TCP(sport=4000, dport=80, flags="A", seq=1, ack=10)
    assert send(engine, ack)[0] == Verdict.VERDICT_FORWARD
    assert [flow.state for flow in engine.flows()] == ["established"]


def test_flush_closes_what_it_is_told_and_nothing_else(engine: NatEngine) -> None:
    def sources() -> set[tuple[str, str]]:
        return {(flow.protocol, flow.source.address) for flow in engine.flows()}

    for packet in (datagram(), syn(), datagram(OTHER), syn(OTHER)):
        send(engine, packet)
    assert engine.flush(guest=GUEST, protocol="tcp") == 1
    assert sources() == {("udp", GUEST), ("udp", OTHER), ("tcp", OTHER)}
    assert engine.flush(protocol="udp") == 2
    assert sources() == {("tcp", OTHER)}
    assert engine.flush() == 1
    assert engine.stats()["flows"] == engine.stats()["mappings"] == 0


def test_more_flows_than_a_step_are_flushed(engine: NatEngine) -> None:
    engine.reconfigure(replace(CONFIG, ports_per_guest=1024))
    for number in range(1, 1025):
        send(engine, datagram(number=number))
    assert (engine.flush(), engine.stats()["flows"]) == (1024, 0)


def test_h6_forward_that_goes_takes_exactly_its_flows(engine: NatEngine) -> None:
    forward = engine.add_forward("udp", 8053, GUEST, 53, port_count=2)
    kept = engine.add_forward("udp", 9053, GUEST, 63)
    to = [(8053, 53), (8054, 54), (9053, 63)]
    for external, inside in to:
        verdict, packet = send(
            engine, IP(src=REMOTE, dst=EXTERNAL) / UDP(sport=7, dport=external) / b"?", INBOUND
        )
        assert (verdict, packet.dst, packet.dport) == (Verdict.VERDICT_FORWARD, GUEST, inside)
    send(engine, datagram(OTHER))
    assert engine.forwards() == [forward, kept]
    engine.remove_forward(forward)
    assert {flow.destination.number for flow in engine.flows()} == {9053, 5000}
    assert [mapping.external.number for mapping in engine.mappings() if mapping.static] == [9053]
    with pytest.raises(ForwardNotFound):
        engine.remove_forward(forward)


def test_forward_of_a_port_in_use_adds_nothing(engine: NatEngine) -> None:
    engine.add_forward("tcp", 8080, GUEST)
    with pytest.raises(ForwardExists):
        engine.add_forward("tcp", 8079, OTHER, port_count=2)
    assert engine.stats()["mappings"] == 1
    assert len(engine.forwards()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("icmp", 1, GUEST),
        ("tcp", 65536, GUEST),
        ("tcp", 0, GUEST),
        ("tcp", 80, "192.168.64.1"),
        ("tcp", 80, "10.0.0.1"),
    ],
    ids=str,
)
def test_forward_that_cannot_be_is_refused(engine: NatEngine, arguments: tuple[str, int, str]) -> None:
    with pytest.raises(ConfigError):
        engine.add_forward(*arguments)


def test_reconfigured_engine_keeps_the_flows_that_are_still_allowed(engine: NatEngine) -> None:
    send(engine, datagram())
    send(engine, datagram(remote="10.9.0.1"))
    send(engine, datagram("192.168.64.200"))
    engine.reconfigure(replace(CONFIG, inside="192.168.64.0/25", untranslated=["10.9.0.0/16"]))
    assert [(flow.source.address, flow.destination.address) for flow in engine.flows()] == [(GUEST, REMOTE)]
    assert send(engine, datagram("192.168.64.200"))[0] == Verdict.DROP_MARTIAN
    verdict, packet = send(engine, datagram(remote="10.9.0.1"))
    assert (verdict, packet.src, packet.ttl) == (Verdict.VERDICT_FORWARD, GUEST, 63)


def test_external_address_that_goes_takes_its_flows(engine: NatEngine) -> None:
    send(engine, datagram())
    engine.reconfigure(replace(CONFIG, external_ip="203.0.113.9"))
    assert engine.stats()["flows"] == 0
    assert send(engine, datagram())[1].src == "203.0.113.9"


def test_table_sizes_are_for_life(engine: NatEngine) -> None:
    with pytest.raises(ConfigError) as raised:
        engine.reconfigure(replace(CONFIG, conntrack_size=2048))
    assert raised.value.facts["field"] == "conntrack_size"
    assert engine.config is CONFIG


def test_time_does_not_go_back(engine: NatEngine) -> None:
    send(engine, datagram(), now=100.0)
    send(engine, datagram(OTHER), now=50.0)
    assert [flow.age_s for flow in engine.flows()] == [0, 0]


def test_two_threads_take_turns(engine: NatEngine) -> None:
    def work(guest: str) -> None:
        for number in range(200):
            send(engine, datagram(guest, 1 + number))
            list(engine.flows())

    threads = [threading.Thread(target=work, args=(guest,)) for guest in (GUEST, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.stats()["forward"] == engine.stats()["flows"] == 400


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e12])
def test_a_time_that_no_clock_shows_is_refused(engine: NatEngine, now: float) -> None:
    with pytest.raises(ConfigError):
        send(engine, datagram(), now=now)
    with pytest.raises(ConfigError):
        engine.expire(now)


def test_flushing_a_forward_of_an_unknown_address_closes_nothing(engine: NatEngine) -> None:
    send(engine, datagram())
    assert engine.flush(forward=NatForward("udp", "2001:db8::99", 1, GUEST, 1, 1)) == 0
    assert engine.stats()["flows"] == 1


def test_a_list_that_grew_after_it_was_checked_is_refused() -> None:
    prefixes = ["198.51.100.0/24"]
    config = replace(CONFIG, untranslated=prefixes)
    prefixes *= 1000
    with pytest.raises(LimitReached):
        NatEngine(config)
