"""Packet sockets on an interface of the host, for frames with a virtio-net header."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from arcbox_net.errors import LimitReached, PermissionDenied
from arcbox_net.host.linux.netlink import kernel_error

MACS_MAX: Final = 16
RECEIVE_BYTES: Final = 4 << 20  # a burst of frames while the worker is elsewhere

_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
# <linux/if_packet.h>
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 1, 15, 23
_PACKET_MR_ALLMULTI, _PACKET_MR_PROMISC, _PACKET_MR_UNICAST = 2, 1, 3

# <linux/filter.h>
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_EQUAL, _BIT, _RETURN = 0x15, 0x45, 0x06
_AD_VLAN_TAG_PRESENT: Final = 0xFFFFF000 + 48
_WHOLE_FRAME: Final = 0x40000
Instruction = tuple[int, int, int, int]


def open_packet(ifname: str, macs: Sequence[bytes] = ()) -> int:
    """A non-blocking fd that reads what arrives on *ifname*, and sends there; without *macs*, promiscuous.

    With *macs*, the interface takes frames to these addresses too, and only those and group addresses are read.
    What the host itself sends there is not read. Frames with a VLAN tag are not read: the kernel takes the tag off.
    """
    if len(macs) > MACS_MAX:
        raise LimitReached(f"{len(macs)} MACs: {MACS_MAX} at most", limit="macs", value=len(macs))
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except PermissionError as error:
        raise PermissionDenied(
            f"a packet socket on {ifname}: {error.strerror}",
            fix="run as root, or in a network namespace of your own",
            operation="open packet socket",
        ) from None
    with sock:
        try:
            _set_up(sock, ifname, macs)
        except OSError as error:
            raise kernel_error("open packet socket on", ifname, error.errno or 0) from None
        return os.dup(sock.fileno())


def filter_for(macs: Sequence[bytes]) -> list[Instruction]:
    """Classic BPF: frames without a VLAN tag, and with *macs* those to one of them or to a group."""
    program: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _AD_VLAN_TAG_PRESENT),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, 0),
    ]
    if macs:
        program += [(_LOAD_BYTE, 0, 0, 0), (_BIT, 0, 1, 1), (_RETURN, 0, 0, _WHOLE_FRAME)]
    for mac in macs:
        high, low = struct.unpack("!HI", mac)
        program += [
            (_LOAD_HALF, 0, 0, 0),
            (_EQUAL, 0, 3, high),
            (_LOAD_WORD, 0, 0, 2),
            (_EQUAL, 0, 1, low),
            (_RETURN, 0, 0, _WHOLE_FRAME),
        ]
    return [*program, (_RETURN, 0, 0, 0 if macs else _WHOLE_FRAME)]


def _set_up(sock: socket.socket, ifname: str, macs: Sequence[bytes]) -> None:
    index = socket.if_nametoindex(ifname)
    # The filter is there before the socket reads anything.
    program = filter_for(macs)
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), code.buffer_info()[0])
    )
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
    sock.bind((ifname, _ETH_P_ALL))
    memberships = [(_PACKET_MR_UNICAST, mac) for mac in macs] or [(_PACKET_MR_PROMISC, b"")]
    for kind, mac in [*memberships, (_PACKET_MR_ALLMULTI, b"")]:
        request = struct.pack("=iHH8s", index, kind, len(mac), mac)
        sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
