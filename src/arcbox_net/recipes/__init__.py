"""One file is one kind of network, read top to bottom. See ARCHITECTURE.md."""

from __future__ import annotations

from arcbox_net.config import Egress, NetConfig, NetworkMode
from arcbox_net.errors import PermissionDenied
from arcbox_net.recipes.site import Recipe


def recipe_for(mode: NetworkMode) -> Recipe:
    """The recipe of *mode*, imported when chosen. `NONE` has none."""
    if mode is NetworkMode.NAT:
        from arcbox_net.recipes.nat import NatRecipe

        return NatRecipe()
    if mode is NetworkMode.HOST_ONLY:
        from arcbox_net.recipes.host_only import HostOnlyRecipe

        return HostOnlyRecipe()
    if mode is NetworkMode.BRIDGE:
        from arcbox_net.recipes.bridge import BridgeRecipe

        return BridgeRecipe()
    raise ValueError(f"mode {mode.value} starts nothing")


def is_private(config: NetConfig, *, has_power: bool) -> bool:
    """Whether that network lives in a network namespace of its own. Raises what keeps it from living anywhere.

    *has_power*: this process may change the host's network.
    """
    if config.mode is NetworkMode.NAT:
        from arcbox_net.recipes.nat import choose_egress

        return choose_egress(config.egress, has_power=has_power) is Egress.RELAY
    if config.mode is NetworkMode.BRIDGE and not has_power:
        raise PermissionDenied(
            "a bridge network is part of the host's network, which needs root or CAP_NET_ADMIN",
            fix="use mode nat or host-only, which need no privilege; or run it with sudo",
            operation="join the host's network",
        )
    return not has_power
