"""One file is one kind of network, read top to bottom. See ARCHITECTURE.md."""

from __future__ import annotations

from arcbox_net.config import NetworkMode
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
