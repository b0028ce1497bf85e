"""Where the frames live that the engine makes."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from arcbox_net.dataplane._testing_fragments import LIMITS, Stages
from arcbox_net.dataplane.verdict import Direction, Verdict


def segment(size: int = 0) -> bytes:
    return bytes(
        IP(src="192.168.64.9", dst="198.51.100.7", proto=6) / Raw(bytes([0] * 12 + [0x50] + [0] * 7))
    )


def test_one_frame_more_than_there_are_places_for_is_counted() -> None:
    s = Stages()
    for _ in range(LIMITS["emit_frames"] + 1):
        s.reset(segment())
    assert len(s.emitted()) == LIMITS["emit_frames"]
    assert s.counts()["overflows"] == 1


def test_places_are_free_again_once_the_frames_were_sent() -> None:
    s = Stages()
    for _ in range(3):
        for _ in range(LIMITS["emit_frames"]):
            s.reset(segment())
        assert len(s.emitted()) == LIMITS["emit_frames"]
    assert s.counts()["overflows"] == 0


def test_a_packet_whose_fragments_do_not_all_find_room_has_none_of_them_sent() -> None:
    s = Stages()
    packet = bytes(IP(src="192.168.64.9", dst="198.51.100.7") / UDP() / Raw(bytes(60000)))
    verdicts = [s.cut(packet, 1500, Direction.OUTBOUND, sender=sender) for sender in range(20)]
    fitting = verdicts.index(Verdict.DROP_TOO_BIG)
    assert set(verdicts[:fitting]) == {Verdict.VERDICT_FRAGMENTED}
    frames = s.emitted()
    assert len(frames) == fitting * 41
    assert s.counts()["overflows"] == (20 - fitting) * 41
    assert sum(len(frame) for _, _, frame in frames) <= LIMITS["emit_bytes"]
    assert LIMITS["emit_frames"] - len(frames) < 41


def test_bytes_are_limited_as_places_are() -> None:
    s = Stages()
    packet = bytes(IP(src="192.168.64.9", dst="198.51.100.7") / UDP() / Raw(bytes(60000)))
    verdicts = [s.cut(packet, 65535, Direction.OUTBOUND, sender=sender) for sender in range(20)]
    fitting = verdicts.index(Verdict.DROP_TOO_BIG)
    assert 16 <= fitting <= LIMITS["emit_bytes"] // len(packet)
    assert [frame[28:] for _, _, frame in s.emitted()] == [bytes(60000)] * fitting


def test_n24_the_fragments_of_one_sender_take_a_quarter() -> None:
    s = Stages()
    packet = bytes(IP(src="192.168.64.9", dst="198.51.100.7") / UDP() / Raw(bytes(60000)))
    verdicts = [s.cut(packet, 1500, Direction.OUTBOUND, sender=1) for _ in range(4)]
    assert verdicts == [Verdict.VERDICT_FRAGMENTED] * 3 + [Verdict.DROP_TOO_BIG]
    assert len(s.emitted()) == 3 * 41 <= LIMITS["emit_frames"] // 4
    assert s.counts()["overflows"] == 41
    assert s.cut(packet, 1500, Direction.OUTBOUND, sender=2) == Verdict.VERDICT_FRAGMENTED
