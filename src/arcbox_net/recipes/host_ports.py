"""Ports of the host, held by bound sockets: conflicts and missing rights are errors that say what to do."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterable
from pathlib import Path

from arcbox_net.errors import ArcboxNetError, ConfigError, HostPortInUse, LimitReached, PermissionDenied
from arcbox_net.rules import ForwardRule

FDS_RESERVED = 1024  # what the rest of the process needs beside listeners
LISTEN_BACKLOG = 1024
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
FIRST_UNPRIVILEGED = 1024
_PRIVILEGED_BELOW = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def hold(rule: ForwardRule) -> list[socket.socket]:
    """A bound socket for each host port of *rule*, in order; all or none.

    Raises HostPortInUse, PermissionDenied, LimitReached or ConfigError.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and rule.size > limit - FDS_RESERVED:
        raise LimitReached(
            f"{rule}: {rule.size} ports need {rule.size} file descriptors, this process may open {limit}",
            fix=f"raise the hard limit (ulimit -Hn {rule.size + FDS_RESERVED}) or split the range",
            limit="nofile",
            value=limit,
        )
    held: list[socket.socket] = []
    try:
        for host_port, _ in rule.pairs():
            held.append(bind(rule.protocol, rule.host_ip, host_port))
    except BaseException:
        close(held)
        raise
    return held


def bind(protocol: str, host_ip: str, host_port: int) -> socket.socket:
    """A socket bound to that address of the calling thread's network namespace. IPv6 sockets take no IPv4."""
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    try:
        held = socket.socket(family, _KINDS[protocol])
        held.setblocking(False)
    except OSError as error:
        raise _refusal(protocol, host_ip, host_port, error) from None
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            # Connections of an earlier run in TIME_WAIT must not block a restart; a listener still conflicts.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host_ip, host_port))
    except OSError as error:
        held.close()
        raise _refusal(protocol, host_ip, host_port, error) from None
    return held


def listen(held: socket.socket) -> None:
    """Raises HostPortInUse: bound while pending, but somebody else came to listen there first."""
    try:
        held.listen(LISTEN_BACKLOG)
    except OSError as error:
        host_ip, host_port = held.getsockname()[:2]
        raise _refusal("tcp", host_ip, host_port, error) from None


def stop_listening(sockets: Iterable[socket.socket]) -> None:
    """Refuse who connects from now on. The ports stay bound, and `listen` may follow."""
    for held in sockets:
        if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            held.shutdown(socket.SHUT_RD)


def close(sockets: Iterable[socket.socket]) -> None:
    for held in sockets:
        held.close()


def _refusal(protocol: str, host_ip: str, host_port: int, error: OSError) -> ArcboxNetError:
    where = f"[{host_ip}]" if ":" in host_ip else host_ip
    if isinstance(error, PermissionError):
        return _privileged(where, host_port, protocol)
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ConfigError(
            f"forward: {host_ip} is not an address of this host",
            fix="choose one that it has (ip -brief address, or ifconfig); or 0.0.0.0 for all",
            field="host_ip",
            value=host_ip,
        )
    return HostPortInUse(
        f"{where}:{host_port}/{protocol}: {error.strerror}",
        fix=f"find its owner with: ss -lnp 'sport = :{host_port}', or lsof -nP -i :{host_port}",
        address=host_ip,
        host_port=host_port,
        protocol=protocol,
    )


def _privileged(where: str, host_port: int, protocol: str) -> PermissionDenied:
    try:
        first = int(_PRIVILEGED_BELOW.read_text())
    except OSError:  # not Linux: there the bound is what it always was
        return PermissionDenied(
            f"{where}:{host_port}/{protocol}: ports below {FIRST_UNPRIVILEGED} of one address need root",
            fix=f"use a port from {FIRST_UNPRIVILEGED} on, or sudo",
            operation=f"bind {where}:{host_port}",
        )
    return PermissionDenied(
        f"{where}:{host_port}/{protocol}: ports below {first} (net.ipv4.ip_unprivileged_port_start) need root",
        fix=f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={host_port}, or use a port from {first} on",
        operation=f"bind {where}:{host_port}",
        setting="net.ipv4.ip_unprivileged_port_start",
    )
