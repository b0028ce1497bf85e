"""Networks in the Linux kernel: in the host's namespaces, or without privileges in namespaces of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcbox_net.config_mapping import config_from_mapping
from arcbox_net.host.linux import inside
from arcbox_net.network.lock import live_networks, make_records_dir

if TYPE_CHECKING:
    from arcbox_net.config import NetConfig
    from arcbox_net.network.kernel_network import KernelNetwork
    from arcbox_net.network.state import State


def settle(config: NetConfig, state: State) -> bool:
    from arcbox_net.recipes import is_private

    private = is_private(config, has_power=inside.has_network_power())
    if private and not inside.has_namespace_power():
        _enter_user_namespace(state)
    return private


def _enter_user_namespace(state: State) -> None:
    """Enter a user namespace: that of a killed run while guests of it are left, else a new one."""
    from arcbox_net.host.linux import user_namespace

    guests = [row["netns"] for row in state.items("ports").values() if row["netns"] is not None]
    if guests and user_namespace.join_above(guests):
        inside.raise_ambient(inside.AMBIENT)
    else:
        inside.enter_user_namespace()


def network() -> type[KernelNetwork]:
    from arcbox_net.network.kernel_network import KernelNetwork

    return KernelNetwork


def has_leftovers(name: str) -> bool:
    # Without the power nothing of ours can be here: a private network ended with its process.
    if not inside.has_network_power():
        return False
    from arcbox_net.host.linux.links import Links
    from arcbox_net.host.linux.nftables import Firewall

    links = Links()
    try:
        return bool(links.owned(name)) or name in Firewall.owned_networks()
    finally:
        links.close()


def remove_run(name: str, state: State) -> None:
    from arcbox_net.host.linux.links import Links
    from arcbox_net.host.linux.nftables import Firewall
    from arcbox_net.network.reconcile import remove_everything
    from arcbox_net.recipes.site import Layout, Site

    meta = state.items("meta")
    layout = Layout.remembered(meta)
    if layout is None or layout.is_private:
        return
    links = Links()
    site = Site(
        network=name,
        config=config_from_mapping(meta["config"]),
        links=links,
        surroundings=links,
        firewall=Firewall(name),
        journal=state,
        record_dir=make_records_dir(),
        live_networks=live_networks,
    )
    try:
        remove_everything(site, layout)
    finally:
        site.close()


def remove_rest(name: str) -> None:
    if not has_leftovers(name):
        return
    from arcbox_net.host.linux.links import Links
    from arcbox_net.host.linux.nftables import Firewall

    links = Links()
    try:
        for link in links.owned(name):
            links.remove(link.ifname)
        Firewall(name).remove()
    finally:
        links.close()


def is_elsewhere(state: State) -> bool:
    from arcbox_net.host.linux.namespace import current_inode

    return bool(state.items("meta").get("netns", {}).get("inode") != current_inode())
