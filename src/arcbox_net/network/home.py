"""Where networks live on this platform: what the network process does there before and after there is a network."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Protocol, cast

from arcbox_net.host.platform import platform

if TYPE_CHECKING:
    from arcbox_net.config import NetConfig
    from arcbox_net.network.core import Network
    from arcbox_net.network.state import State

_HOMES = {"kernel": "arcbox_net.network.kernel_home", "vmnet": "arcbox_net.network.vmnet_home"}


class Home(Protocol):
    """A module for each kind of home."""

    def settle(self, config: NetConfig, state: State) -> bool:
        """Go where the network lives, while this process has one thread; whether it is alone there.

        Raises what keeps it from living anywhere.
        """
        ...

    def network(self) -> type[Network]: ...

    def has_leftovers(self, name: str) -> bool:
        """Whether something of the network outlived its process."""
        ...

    def remove_run(self, name: str, state: State) -> None:
        """Remove what *state* says of the run that was killed."""
        ...

    def remove_rest(self, name: str) -> None:
        """Remove what is left, known or not."""
        ...

    def is_elsewhere(self, state: State) -> bool:
        """Whether that network is one of a place that this process cannot see."""
        ...


@functools.cache
def home() -> Home:
    return cast(Home, importlib.import_module(_HOMES[platform().NETWORK]))
