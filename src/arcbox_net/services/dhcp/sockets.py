"""The sockets of DHCP: raw frames on one interface, and the UDP port that is held while they are read."""

from __future__ import annotations

import array
import errno
import socket
import struct

from arcbox_net.errors import ServiceError
from arcbox_net.services.dhcp.frames import ACCEPT_NOTHING, filter_for, pack_filter
from arcbox_net.services.dhcp.messages import SERVER_PORT

_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; the socket module has no name for it
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23  # <linux/if_packet.h>
_ETH_P_ALL, _ETH_P_ARP = 0x0003, 0x0806
RECEIVE_BYTES = (
    4 << 20
)  # a thousand guests that boot at once: about 1,300 bytes each with the kernel's overhead


def open_frames(ifname: str, dst_port: int = SERVER_PORT) -> socket.socket:
    """A non-blocking raw socket that reads only DHCP frames for *dst_port* on *ifname*. Raises ServiceError."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        raise _failed(ifname, error) from None
    try:
        # The filter is there before the socket reads anything.
        attach_filter(sock, filter_for(dst_port))
        _grow(sock)
        # Every kind of frame, though the filter takes only DHCP: a socket for IPv4 alone is asked after the IP stack,
        # which then has to clone each packet that passes the bridge (a seventh of all small packets a second).
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.bind((ifname, _ETH_P_ALL))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _failed(ifname, error) from None
    return sock


def open_arp(ifname: str) -> socket.socket:
    """A non-blocking raw socket for ARP frames on *ifname*. Raises OSError."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.bind((ifname, _ETH_P_ARP))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def hold_server_port(ifname: str) -> socket.socket:
    """Hold UDP port 67 on *ifname* and read nothing from it.

    Without it the kernel answers guests with "port unreachable". A second server there is an error.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode() + b"\0")
        attach_filter(sock, ACCEPT_NOTHING)
        sock.bind(("", SERVER_PORT))
        # dnsmasq (libvirt's networks) binds before it names its interface, and only beside a reusable socket.
        # Set after our bind, so that a server that has this interface already is still an error.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        sock.close()
        raise _failed(ifname, error) from None
    return sock


def attach_filter(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Attach a classic BPF program."""
    code = array.array("B", pack_filter(program))
    address, _ = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), address))


def _grow(sock: socket.socket) -> None:
    try:
        force = 33  # SO_RCVBUFFORCE: beyond rmem_max, needs CAP_NET_ADMIN
        sock.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


def _failed(ifname: str, error: OSError) -> ServiceError:
    fixes = {
        errno.EADDRINUSE: "stop the other DHCP server of this machine, or turn ours off with dhcp.enabled = false",
        errno.EPERM: "run as root or with CAP_NET_RAW and CAP_NET_BIND_SERVICE",
        errno.EACCES: "run as root or with CAP_NET_RAW and CAP_NET_BIND_SERVICE",
        errno.ENODEV: "the interface must exist before its DHCP server starts",
    }
    what = "port 67 is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return ServiceError(
        f"DHCP on {ifname}: {what}",
        fix=fixes.get(error.errno or 0),
        service="dhcp",
        interface=ifname,
        errno=error.errno,
    )
