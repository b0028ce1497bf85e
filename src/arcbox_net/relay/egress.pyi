from collections.abc import Iterable, Sequence
from typing import Any

from arcbox_net.relay.doors import Door

FLOW_COUNTERS: tuple[str, ...]
DOOR_COUNTERS: tuple[str, ...]
DATAGRAM_COUNTERS: tuple[str, ...]
ECHO_COUNTERS: tuple[str, ...]
PROTOCOLS: dict[int, str]
REASONS: dict[int, str]

class EgressRelay:
    def __init__(
        self,
        doors: Iterable[Door],
        *,
        flows_max: int = 16384,
        flows_per_guest_max: int = 4096,
        dials_max: int = 1024,
        dials_per_guest_max: int = 256,
        udp_flows_max: int = 16384,
        udp_flows_per_guest_max: int = 4096,
        udp_idle_s: int = 300,
        dns_idle_s: int = 30,
        echo_flows_max: int = 1024,
        echo_flows_per_guest_max: int = 256,
        echo_idle_s: int = 60,
        closed_flows_max: int = 256,
        connect_timeout_ms: int = 20000,
        offer_timeout_ms: int = 60000,
        idle_timeout_s: int = 7440,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def set_host_addresses(self, addresses: Sequence[str]) -> None: ...
    def set_hairpin(self, ports: Sequence[tuple[str, int]], udp: Sequence[tuple[str, int]] = ()) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def flows(self) -> list[dict[str, Any]]: ...
