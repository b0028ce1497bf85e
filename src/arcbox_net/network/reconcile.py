"""What an earlier run left behind: adopted when it is still of use, removed when not. Never touches others' objects."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arcbox_net.config import NetworkMode
from arcbox_net.config_ports import TAP
from arcbox_net.errors import ArcboxNetError, KernelError, NamespaceNotFound
from arcbox_net.network.devices import connect
from arcbox_net.recipes import recipe_for
from arcbox_net.recipes.site import Layout, Site

if TYPE_CHECKING:
    from arcbox_net.host.linux.links import OwnedLink
    from arcbox_net.network.guest_port import Port
    from arcbox_net.network.ports import PortTable
    from arcbox_net.network.state import State

# A network namespace's devices go some time after its last process: seconds where the kernel removes many of them.
OLD_DEVICE_S = 10.0
OLD_DEVICE_POLL_S = 0.02
log = logging.getLogger("arcbox_net.reconcile")


def adopt_ports(site: Site, state: State, ports: PortTable, leftovers: Sequence[OwnedLink]) -> None:
    """Keep every port whose row and device both exist; drop rows without device and devices without row.

    Guests at sockets have no device: they are let in again when there is a switch.
    """
    present = {link.ifname: link for link in leftovers if link.port is not None}
    # In the order of attachment, because a forward that names no guest means the first one.
    for name, row in sorted(state.items("ports").items(), key=lambda item: item[1]["attached_ns"]):
        if row.get("socket") is None:
            link = present.pop(row["ifname"], None)
            if link is None or link.port != name:
                state.delete("ports", name)
                continue
            log.info("port %s: adopted %s", name, link.ifname)
        ports.add(ports.restore(name, row))
    for ifname in present:
        site.links.remove(ifname)
        log.info("removed %s, which no port owns", ifname)


def attach_again(site: Site, state: State, ports: PortTable) -> None:
    """Give the namespaces of guests that outlived a private network their devices back; forget all other guests."""
    deadline = time.monotonic() + OLD_DEVICE_S
    for name, row in sorted(state.items("ports").items(), key=lambda item: item[1]["attached_ns"]):
        port = ports.restore(name, row)
        try:
            if port.kind == TAP:
                raise NamespaceNotFound(f"a {port.kind} ends with its network", namespace=None)
            _connect(site, port, deadline)
        except ArcboxNetError as error:
            log.info("port %s of the earlier run is gone: %s", name, error)
            state.delete("ports", name)
            continue
        ports.add(port)
        log.info("port %s: attached again", name)


def _connect(site: Site, port: Port, deadline: float) -> None:
    """`connect`, as often as it takes the kernel to remove the device that the guest had before."""
    while True:
        try:
            connect(site, port)
            return
        except KernelError as error:
            if error.facts.get("errno") != errno.EEXIST or time.monotonic() > deadline:
                raise
            time.sleep(OLD_DEVICE_POLL_S)


def remove_everything(site: Site, layout: Layout) -> None:
    """Every link, address, rule and sysctl of this network. Goes on past failures and raises the first of them."""
    first: ArcboxNetError | None = None
    for link in site.links.owned(site.network):
        if link.ifname == layout.bridge:
            continue
        try:
            site.links.remove(link.ifname)
        except ArcboxNetError as error:
            first = first or error
    try:
        recipe_for(NetworkMode(layout.mode)).remove(site, layout)
    except ArcboxNetError as error:
        first = first or error
    if first is not None:
        raise first
