"""What a relay thread is given to work with: the descriptors of one door, opened where the guests are."""

from __future__ import annotations

from typing import NamedTuple


class Door(NamedTuple):
    """A layer-3 TUN (non-blocking, `virtio_net_hdr` of 12 bytes) and the listeners that the ruleset gives its
    SYNs to (transparent; -1 for none), with the addresses of ours that guests know, for ICMP errors.
    """

    tun_fd: int
    listener4_fd: int
    listener6_fd: int = -1
    gateway4: str | None = None
    gateway6: str | None = None
    mtu: int = 1500  # of the guests' links
