"""Sockets that the relay takes over, bound here: a host port in use is an error before anything else."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from arcbox_net.errors import HostPortInUse, KernelError

BACKLOG = 4096


def listen_tcp(host_ip: str, host_port: int) -> int:
    """A listening TCP socket; the descriptor is the caller's. Port 0 takes any free one."""
    fd = _bound(socket.SOCK_STREAM, host_ip, host_port)
    try:
        with socket.socket(fileno=os.dup(fd)) as listener:
            listener.listen(BACKLOG)
    except OSError as exc:
        os.close(fd)
        raise _error(exc, "tcp", host_ip, host_port) from exc
    return fd


def bind_udp(host_ip: str, host_port: int) -> int:
    """A bound UDP socket; the descriptor is the caller's. Port 0 takes any free one."""
    return _bound(socket.SOCK_DGRAM, host_ip, host_port)


def _bound(kind: socket.SocketKind, host_ip: str, host_port: int) -> int:
    family = socket.AF_INET if ipaddress.ip_address(host_ip).version == 4 else socket.AF_INET6
    protocol = "tcp" if kind is socket.SOCK_STREAM else "udp"
    try:
        with socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind is socket.SOCK_STREAM:
                # Without it, connections of an earlier run in TIME_WAIT would hold the port for a minute.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host_ip, host_port))
            return sock.detach()
    except OSError as exc:
        raise _error(exc, protocol, host_ip, host_port) from exc


def _error(exc: OSError, protocol: str, host_ip: str, host_port: int) -> HostPortInUse | KernelError:
    where = f"{host_ip} port {host_port}/{protocol}"
    if exc.errno == errno.EADDRINUSE:
        return HostPortInUse(
            f"{where} is in use on the host",
            fix=f"choose another host port, or see who has it with: ss -lnp 'sport = :{host_port}'",
            address=host_ip,
            host_port=host_port,
            protocol=protocol,
        )
    fix = None
    if exc.errno == errno.EADDRNOTAVAIL:
        fix = "that address is not on this host"
    elif exc.errno == errno.EACCES:
        fix = "ports below 1024 need root, or sysctl net.ipv4.ip_unprivileged_port_start"
    return KernelError(
        f"{where} cannot be bound: {exc.strerror}", fix=fix, operation="bind", object=where, errno=exc.errno
    )
