"""Networks of vmnet: the system removes what is its when the process ends, so all that is left of one is its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arcbox_net.config import NetConfig
    from arcbox_net.network.state import State
    from arcbox_net.network.vmnet_network import VmnetBackedNetwork


def settle(config: NetConfig, state: State) -> bool:
    return False


def network() -> type[VmnetBackedNetwork]:
    from arcbox_net.network.vmnet_network import VmnetBackedNetwork

    return VmnetBackedNetwork


def has_leftovers(name: str) -> bool:
    return False


def remove_run(name: str, state: State) -> None:
    """Nothing of it is there."""


def remove_rest(name: str) -> None:
    """Nothing of it is there."""


def is_elsewhere(state: State) -> bool:
    return False
