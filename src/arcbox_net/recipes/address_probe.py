"""Whether somebody on a link of the host has an IPv4 address already (RFC 5227, with less patience)."""

from __future__ import annotations

import contextlib
import socket
import time
from ipaddress import IPv4Address

from arcbox_net.addresses import format_mac
from arcbox_net.services.dhcp.frames import FRAME_BYTES_MAX, arp_probe, arp_sender
from arcbox_net.services.dhcp.sockets import open_arp

PROBES = 3
ANSWER_WITHIN_S = 0.1


def find_holder(ifname: str, address: IPv4Address) -> str | None:
    """The MAC address of who answers for *address* on *ifname*; None also when nobody can be asked there.

    Blocks for PROBES * ANSWER_WITHIN_S if nobody answers.
    """
    with contextlib.suppress(OSError), open_arp(ifname) as sock:  # the interface is down, or goes away
        for _ in range(PROBES):
            sock.send(arp_probe(sock.getsockname()[4], int(address)))
            holder = _answer(sock, int(address), time.monotonic() + ANSWER_WITHIN_S)
            if holder is not None:
                return format_mac(holder)
    return None


def _answer(sock: socket.socket, address: int, deadline: float) -> bytes | None:
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            claim = arp_sender(sock.recv(FRAME_BYTES_MAX))
        except TimeoutError:
            return None
        if claim is not None and claim[1] == address:
            return claim[0]
    return None
