"""The switch alone, without ports that send: `python -m bench.dataplane.switch`.

Bursts of 64 frames that stay in the cache, from a guest's port with all checks; ports that only count. The limits, in
the same rounds: a loop that does nothing, and one that copies the first 64 bytes of each frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_switch import copy_ns, empty_ns
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from tests.support.switch import BROADCAST, NO_OFFLOAD, Segment, ether, ip_of, tcp4, udp6

NAME = "dataplane.switch"
PORTS = 4
BURST = 64
REPEATS = 20_000
TARGET_NS = 15.0


def udp4(source: int, destination: int) -> Packet:
    return ether(source, destination) / IP(src=ip_of(source), dst=ip_of(destination)) / UDP(sport=9, dport=9)


def through(frames: Sequence[Packet], repeats: int = REPEATS) -> Callable[[], Round]:
    segment = Segment()
    for port in range(PORTS):
        segment.lab.set_port(port, takes=0)  # so that nothing is joined for them
    burst = [NO_OFFLOAD + bytes(frame) for frame in frames]

    def measure() -> Round:
        return {"ns": segment.lab.burst_ns(0, burst, repeats) / repeats / len(burst)}

    measure()
    if segment.lab.drops(0):
        raise RuntimeError(f"frames were dropped: {segment.lab.drops(0)}")
    return measure


def contenders() -> dict[str, Callable[[], Round]]:
    burst = [NO_OFFLOAD + bytes(tcp4(0, 1)) for _ in range(BURST)]
    flooded = ether(0, BROADCAST) / IP(src=ip_of(0), dst="255.255.255.255") / Raw(b"x")
    return {
        "empty loop": lambda: {"ns": empty_ns(BURST, REPEATS) / REPEATS / BURST},
        "copy of 64 bytes": lambda: {"ns": copy_ns(burst, REPEATS) / REPEATS / BURST},
        "TCP to one port": through([tcp4(0, 1)] * BURST),
        "TCP to two ports in turn": through([tcp4(0, 1 + i % 2) for i in range(BURST)]),
        "UDP to one port": through([udp4(0, 1)] * BURST),
        "IPv6 to one port": through([udp6(0, 1)] * BURST),
        "TCP, one frame a burst": through([tcp4(0, 1)], REPEATS * 16),
        "broadcast to three ports": through([flooded] * 15, 64),  # within what a port may send in a second
    }


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    payload["rounds"] = found = interleave(contenders(), rounds)
    text = table(["frames", "ns each"], [[name, median_cell(found[name], "ns")] for name in found])
    known_ns = median_of(found["TCP to one port"], "ns")
    show(payload, f"{text}\n\n- known unicast: {known_ns:.1f} ns a frame (target < {TARGET_NS:.0f})")
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 9))
