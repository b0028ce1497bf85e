from collections.abc import Iterable
from types import TracebackType
from typing import Self

from arcbox_net.ports.vmnet.options import VmnetFacts, VmnetForward, VmnetOptions, VmnetReservation

class VmnetNetwork:
    options: VmnetOptions
    def __init__(
        self,
        options: VmnetOptions,
        *,
        forwards: Iterable[VmnetForward] = (),
        reservations: Iterable[VmnetReservation] = (),
        uplink: str = "",
        dhcp: bool = True,
    ) -> None: ...

class VmnetInterface:
    options: VmnetOptions
    facts: VmnetFacts
    network: VmnetNetwork | None
    def __init__(self, options: VmnetOptions, network: VmnetNetwork | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def stop(self) -> None: ...
    def add_forward(self, rule: VmnetForward) -> None: ...
    def remove_forward(self, rule: VmnetForward) -> None: ...
    def forwards(self) -> list[VmnetForward]: ...

def bridgeable_interfaces() -> list[str]: ...
