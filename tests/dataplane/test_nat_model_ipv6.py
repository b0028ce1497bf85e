"""The NAT engine's IPv6 beside the oracle: the model speaks of IPv4 addresses, each of which stands for one of IPv6."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import settings
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

from arcbox_net.dataplane.verdict import Direction
from tests.dataplane.test_nat_model import NatMachine
from tests.oracle.nat import Packet
from tests.support.frames import ICMP_ECHO
from tests.support.nat import E2, E3, EXTERNAL, A, B
from tests.support.nat6 import ELSEWHERE, GUEST, OTHER, REMOTE
from tests.support.nat6 import EXTERNAL as EXTERNAL6


class Nat6Machine(NatMachine):
    told: ClassVar[dict[str, Any]] = {"external_ip6": EXTERNAL6, "inside6": "fd00:64::/64"}
    address_of: ClassVar[dict[str, str]] = {
        A: GUEST,
        B: OTHER,
        E2: REMOTE,
        E3: ELSEWHERE,
        EXTERNAL: EXTERNAL6,
    }

    def built(self, packet: Packet, direction: Direction) -> bytearray:
        was = IP(bytes(super().built(packet, direction)))
        l4 = was.payload
        if ICMP in was:
            kind = ICMPv6EchoRequest if was[ICMP].type == ICMP_ECHO else ICMPv6EchoReply
            l4 = kind(id=was[ICMP].id, seq=was[ICMP].seq, data=bytes(was[ICMP].payload))
        else:
            del l4.chksum
        return bytearray(bytes(IPv6(src=self.address_of[was.src], dst=self.address_of[was.dst]) / l4))

    def seen(self, frame: bytearray) -> Packet:
        """What scapy reads in *frame*, the checksum of which it would have made the same."""
        packet, fresh = IPv6(bytes(frame)), IPv6(bytes(frame))
        l4 = packet.payload
        field = "cksum" if hasattr(l4, "cksum") else "chksum"
        delattr(fresh.payload, field)
        assert bytes(fresh) == bytes(packet), "L4 checksum"
        if UDP in packet:
            return Packet("udp", self.end((packet.src, l4.sport)), self.end((packet.dst, l4.dport)))
        if TCP in packet:
            ends = self.end((packet.src, l4.sport)), self.end((packet.dst, l4.dport))
            return Packet("tcp", *ends, int(l4.flags), l4.seq)
        return Packet("icmp", self.end((packet.src, l4.id)), self.end((packet.dst, l4.id)))


TestNat6Model = Nat6Machine.TestCase
TestNat6Model.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
