"""Port forwards and host access of one network: listeners of ours, elements of the kernel's map, or both.

Every forward holds its host port with a socket of ours, so that a conflict is an error and not a surprise.
The socket belongs to the splice relay, which serves the host's own loopback and IPv6 clients. For an IPv4
address that is not loopback, the kernel's map catches packets first: they go to the guest at kernel speed with
the client's address intact. A forward whose guest is not known yet is pending: the socket is bound, not listening.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import logging
import resource
import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from arcbox_net.config import HostAccess
from arcbox_net.errors import (
    ArcboxNetError,
    ConfigError,
    ForwardExists,
    ForwardNotFound,
    HostPortInUse,
    LimitReached,
    PermissionDenied,
)
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import Dnat, HostAccessRedirect
from arcbox_net.relay.splice import SpliceRelay
from arcbox_net.rules import ForwardRule

FDS_RESERVED = 1024  # what the rest of the process needs beside listeners
LISTEN_BACKLOG = 1024
log = logging.getLogger("arcbox_net.forwards")
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclasses.dataclass(slots=True)
class Forward:
    """One rule with what it holds. `relay_ids` is empty while pending."""

    rule: ForwardRule
    sockets: list[socket.socket]
    guest_ip: IPv4Address | None = None
    relay_ids: list[int] = dataclasses.field(default_factory=list)

    @property
    def in_kernel(self) -> bool:
        address = ipaddress.ip_address(self.rule.host_ip)
        return address.version == 4 and not address.is_loopback

    def dnats(self) -> list[Dnat]:
        if not self.in_kernel or self.guest_ip is None:
            return []
        address = IPv4Address(self.rule.host_ip)
        host_ip = None if address.is_unspecified else address
        guest = self.guest_ip
        return [
            Dnat(self.rule.protocol, host_ip, host_port, guest, guest_port)
            for host_port, guest_port in self.rule.pairs()
        ]


class PortForwards:
    """All forwards of a network. Calls block; the network process makes them in its kernel thread."""

    def __init__(self, firewall: Firewall, relay: SpliceRelay) -> None:
        self._firewall = firewall
        self._relay = relay
        self._forwards: dict[ForwardRule, Forward] = {}
        self._redirects: dict[HostAccessRedirect, int] = {}

    def forwards(self) -> list[Forward]:
        return list(self._forwards.values())

    def dnats(self) -> tuple[Dnat, ...]:
        return tuple(dnat for forward in self._forwards.values() for dnat in forward.dnats())

    def redirects(self) -> tuple[HostAccessRedirect, ...]:
        return tuple(self._redirects)

    def get(self, rule: ForwardRule) -> Forward:
        """Raises ForwardNotFound."""
        forward = self._forwards.get(rule)
        if forward is None:
            known = ", ".join(map(str, self._forwards)) or "none"
            raise ForwardNotFound(f"no forward {rule}", fix=f"forwards here: {known}", rule=str(rule))
        return forward

    def add(self, rule: ForwardRule, guest_ip: IPv4Address | None) -> Forward:
        """Hold the host ports and, when the guest is known, start to forward.

        Raises HostPortInUse, ForwardExists; then nothing is held.
        """
        for other in self._forwards:
            if rule.overlaps(other):
                raise ForwardExists(
                    f"{rule}: {other} already forwards that host port",
                    fix=f"remove it first: forward rm NETWORK {other}",
                    rule=str(rule),
                    existing=str(other),
                )
        forward = Forward(rule, _hold(rule))
        self._activate(forward, guest_ip)
        self._forwards[rule] = forward
        return forward

    def remove(self, rule: ForwardRule) -> None:
        """Stop forwarding *rule*, end its flows and free the host ports. Raises ForwardNotFound."""
        forward = self.get(rule)
        self._deactivate(forward)
        _close(forward.sockets)
        del self._forwards[rule]

    def guests_changed(self, resolved: Mapping[ForwardRule, IPv4Address | None]) -> None:
        """*resolved* is where each rule's guest is now: pending forwards become active, those of a lost guest pending.

        A forward that cannot be served (its host port was taken by somebody else in between) stays pending, and is
        tried again next time.
        """
        for rule, forward in self._forwards.items():
            guest_ip = resolved.get(rule)
            if guest_ip == forward.guest_ip and (forward.relay_ids or forward.sockets):
                continue
            try:
                self._deactivate(forward)
                _close(forward.sockets)
                forward.sockets = []
                forward.sockets = _hold(rule)
                self._activate(forward, guest_ip)
            except (ArcboxNetError, OSError) as error:
                log.error("forward %s is not served: %s", rule, error)

    def open_host_access(self, gateway: IPv4Address, items: Iterable[HostAccess]) -> None:
        """Listen at the gateway for each allowed host port and send guests' packets for it there."""
        added = []
        for item in items:
            held = _bind(item.protocol, str(gateway), 0)
            relay_port = held.getsockname()[1]
            relay_id = self._hand_over(item.protocol, [(held, ("127.0.0.1", item.host_port))])[0]
            redirect = HostAccessRedirect(item.protocol, item.host_port, relay_port)
            self._redirects[redirect] = relay_id
            added.append(redirect)
        if added:
            self._firewall.add_redirects(added)

    def close(self) -> None:
        """Close every listener. The kernel's map goes with the ruleset."""
        for forward in self._forwards.values():
            self._relay.remove_many(forward.relay_ids)
            _close(forward.sockets)
        self._relay.remove_many(self._redirects.values())
        self._forwards.clear()
        self._redirects.clear()

    def _activate(self, forward: Forward, guest_ip: IPv4Address | None) -> None:
        if guest_ip is None:
            return
        targets = [(str(guest_ip), guest_port) for _, guest_port in forward.rule.pairs()]
        pairs = list(zip(forward.sockets, targets, strict=True))
        forward.sockets = []
        forward.relay_ids = self._hand_over(forward.rule.protocol, pairs)
        forward.guest_ip = guest_ip
        try:
            dnats = forward.dnats()
            if dnats:
                self._firewall.add_dnats(dnats)
        except BaseException:
            self._end(forward)
            raise

    def _deactivate(self, forward: Forward) -> None:
        dnats = forward.dnats()
        if dnats:
            self._firewall.remove_dnats(dnats)
        self._end(forward)

    def _end(self, forward: Forward) -> None:
        self._relay.remove_many(forward.relay_ids)
        forward.relay_ids = []
        forward.guest_ip = None

    def _hand_over(self, protocol: str, pairs: Sequence[tuple[socket.socket, tuple[str, int]]]) -> list[int]:
        """Give bound sockets to the relay, which closes them from now on; all are closed if that fails."""
        try:
            if protocol == "tcp":
                for held, _ in pairs:
                    _listen(held)
            given = [(held.fileno(), target) for held, target in pairs]
            relay_ids = (
                self._relay.add_tcp_many(given) if protocol == "tcp" else self._relay.add_udp_many(given)
            )
        except BaseException:
            _close(held for held, _ in pairs)
            raise
        for held, _ in pairs:
            held.detach()
        return relay_ids


def _hold(rule: ForwardRule) -> list[socket.socket]:
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
            held.append(_bind(rule.protocol, rule.host_ip, host_port))
    except BaseException:
        _close(held)
        raise
    return held


def _bind(protocol: str, host_ip: str, host_port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    held = socket.socket(family, _KINDS[protocol] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            # Connections of an earlier run in TIME_WAIT must not block a restart; a listener still conflicts.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host_ip, host_port))
    except OSError as error:
        held.close()
        where = f"[{host_ip}]" if ":" in host_ip else host_ip
        if isinstance(error, PermissionError):
            raise PermissionDenied(
                f"{where}:{host_port}/{protocol}: port numbers below net.ipv4.ip_unprivileged_port_start need root",
                fix=f"sysctl net.ipv4.ip_unprivileged_port_start={host_port}, or use a higher port",
                operation=f"bind {where}:{host_port}",
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"forward: {host_ip} is not an address of this host",
                fix="choose one of: ip -brief address; or 0.0.0.0 for all",
                field="host_ip",
                value=host_ip,
            ) from None
        raise _in_use(host_ip, host_port, protocol, error) from None
    return held


def _listen(held: socket.socket) -> None:
    try:
        held.listen(LISTEN_BACKLOG)
    except OSError as error:
        # Bound while pending, but somebody else came to listen there first.
        host_ip, host_port = held.getsockname()[:2]
        raise _in_use(host_ip, host_port, "tcp", error) from None


def _close(sockets: Iterable[socket.socket]) -> None:
    for held in sockets:
        held.close()


def _in_use(host_ip: str, host_port: int, protocol: str, error: OSError) -> HostPortInUse:
    where = f"[{host_ip}]" if ":" in host_ip else host_ip
    return HostPortInUse(
        f"{where}:{host_port}/{protocol}: {error.strerror}",
        fix=f"find its owner with: ss -lnp 'sport = :{host_port}'",
        address=host_ip,
        host_port=host_port,
        protocol=protocol,
    )
