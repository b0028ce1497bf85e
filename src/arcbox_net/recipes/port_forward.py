"""Port forwards and host access of one network: listeners of ours, elements of the kernel's map, or both.

Every forward holds its host port with a socket of ours, so that a conflict is an error and not a surprise. The
socket belongs to a splice relay. With masquerade, what is not for the host's own loopback and needs no change of
IP version is caught by the kernel's map first: it goes to the guest at kernel speed with the client's address
intact. Where guests live in a private network namespace, the relay serves everybody, and dials from the
client's own address where it can. A forward whose guest is not known yet is pending: bound, not listening.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, TypeVar

from arcbox_net.config import HostAccess
from arcbox_net.errors import ArcboxNetError, ForwardExists, ForwardNotFound
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import Dnat, HostAccessRedirect
from arcbox_net.recipes.host_ports import bind, close, hold, listen, stop_listening
from arcbox_net.relay.splice import SpliceRelay
from arcbox_net.rules import ForwardRule

CLIENTS_OWN, GATEWAYS = "client's own", "gateway's"
log = logging.getLogger("arcbox_net.forwards")
T = TypeVar("T")
GuestIP = IPv4Address | IPv6Address


class Outside(Protocol):
    """Calls *make* in the host's network namespace, and returns what it made."""

    def __call__(self, make: Callable[[], T], /) -> T: ...


@dataclasses.dataclass(slots=True)
class Forward:
    """One rule with what it holds. `relay_ids` is empty while pending. `is_private`: guests are in another network
    namespace than the host's ports. `routed`: they have a default route, and so can answer any address.
    """

    rule: ForwardRule
    sockets: list[socket.socket]
    is_private: bool = False
    routed: bool = True
    guest_ip: GuestIP | None = None
    relay_ids: list[int] = dataclasses.field(default_factory=list)
    dials: Callable[[], tuple[int, int]] = lambda: (0, 0)  # of the relay: as the client, as the gateway

    @property
    def in_kernel(self) -> bool:
        return not self.is_private and not self.rule.is_loopback and not self._translates

    @property
    def transparent(self) -> bool:
        """Whether the relay shall dial from the client's own address."""
        return self.is_private and self.client_address[0] == CLIENTS_OWN

    @property
    def client_address(self) -> tuple[str, str | None]:
        """Whose address the guest sees, and why it is not the client's."""
        if self.rule.is_loopback:
            return GATEWAYS, "a guest cannot answer an address of the host's loopback"
        if self._translates:
            return GATEWAYS, "guest and clients differ in their IP version"
        if self.is_private and not self.routed:
            return GATEWAYS, "guests of a host-only network have no route to clients"
        return CLIENTS_OWN, None

    @property
    def _translates(self) -> bool:
        version = self.guest_ip.version if self.guest_ip else 6 if ":" in (self.rule.guest or "") else 4
        return version != ipaddress.ip_address(self.rule.host_ip).version

    def dnats(self) -> list[Dnat]:
        if not self.in_kernel or self.guest_ip is None:
            return []
        address = ipaddress.ip_address(self.rule.host_ip)
        host_ip = None if address.is_unspecified else address
        guest = self.guest_ip
        return [
            Dnat(self.rule.protocol, host_ip, host_port, guest, guest_port)
            for host_port, guest_port in self.rule.pairs()
        ]


class PortForwards:
    """All forwards of a network. Calls block; the network process makes them in its kernel thread.

    In a private network *relay* dials inside, *access_relay* on the host's side, and *outside* makes sockets there.
    """

    def __init__(
        self,
        firewall: Firewall,
        relay: SpliceRelay,
        *,
        access_relay: SpliceRelay | None = None,
        outside: Outside | None = None,
        routed: bool = True,
    ) -> None:
        self._firewall = firewall
        self._relay = relay
        self._access_relay = access_relay or relay
        self._is_private = outside is not None
        self._outside: Outside = outside or _here
        self._routed = routed
        self._forwards: dict[ForwardRule, Forward] = {}
        self._redirects: dict[HostAccessRedirect, int] = {}

    def forwards(self) -> list[Forward]:
        return list(self._forwards.values())

    def dnats(self) -> tuple[Dnat, ...]:
        return tuple(dnat for forward in self._forwards.values() for dnat in forward.dnats())

    def redirects(self) -> tuple[HostAccessRedirect, ...]:
        return tuple(self._redirects)

    def hairpins(self, protocol: str) -> list[tuple[str, int]]:
        """Address and port of the host where guests meet a forward of *protocol* that is not on loopback."""
        return [
            (rule.host_ip, host_port)
            for rule, forward in self._forwards.items()
            if rule.protocol == protocol and forward.relay_ids and not rule.is_loopback
            for host_port, _ in rule.pairs()
        ]

    def get(self, rule: ForwardRule) -> Forward:
        """Raises ForwardNotFound."""
        forward = self._forwards.get(rule)
        if forward is None:
            known = ", ".join(map(str, self._forwards)) or "none"
            raise ForwardNotFound(f"no forward {rule}", fix=f"forwards here: {known}", rule=str(rule))
        return forward

    def add(self, rule: ForwardRule, guest_ip: GuestIP | None) -> Forward:
        """Hold the host ports and, when the guest is known, start to forward.

        Raises HostPortInUse, ForwardExists, PermissionDenied; then nothing is held.
        """
        for other in self._forwards:
            if rule.overlaps(other):
                raise ForwardExists(
                    f"{rule}: {other} already forwards that host port",
                    fix=f"remove it first: arcbox-net forward rm {self._firewall.network} {other}",
                    rule=str(rule),
                    existing=str(other),
                )
        forward = Forward(rule, self._outside(partial(hold, rule)), self._is_private, self._routed)
        forward.dials = lambda: self._dials(forward)
        try:
            self._activate(forward, guest_ip)
        except BaseException:
            close(forward.sockets)
            raise
        self._forwards[rule] = forward
        return forward

    def remove(self, rule: ForwardRule) -> None:
        """Stop forwarding *rule*, end its flows and free the host ports. Raises ForwardNotFound."""
        forward = self.get(rule)
        self._deactivate(forward)
        close(forward.sockets)
        del self._forwards[rule]

    def guests_changed(self, resolved: Mapping[ForwardRule, GuestIP | None]) -> None:
        """*resolved* is where each rule's guest is now: pending forwards become active, those of a lost guest pending.

        The host ports are held all along. A forward that cannot be served (somebody else came to listen at its port
        while it was pending) stays pending, and is tried again next time.
        """
        for rule, forward in self._forwards.items():
            guest_ip = resolved.get(rule)
            if guest_ip == forward.guest_ip and (forward.relay_ids or forward.sockets):
                continue
            try:
                self._deactivate(forward)
                if not forward.sockets:
                    forward.sockets = self._outside(partial(hold, rule))
                if guest_ip is None:
                    stop_listening(forward.sockets)
                self._activate(forward, guest_ip)
            except (ArcboxNetError, OSError) as error:
                log.error("forward %s is not served: %s", rule, error)

    def open_host_access(self, gateway: IPv4Address, items: Iterable[HostAccess]) -> None:
        """Listen at the gateway for each allowed host port and send guests' packets for it there."""
        added = []
        for item in items:
            held = bind(item.protocol, str(gateway), 0)
            relay_port = held.getsockname()[1]
            target = ("127.0.0.1", item.host_port)
            relay_id = _hand_over(self._access_relay, item.protocol, [(held, target)])[0]
            redirect = HostAccessRedirect(item.protocol, item.host_port, relay_port)
            self._redirects[redirect] = relay_id
            added.append(redirect)
        if added:
            self._firewall.add_redirects(added)

    def close(self) -> None:
        """Close every listener. The kernel's map goes with the ruleset."""
        for forward in self._forwards.values():
            self._relay.remove_many(forward.relay_ids)
            close(forward.sockets)
        self._access_relay.remove_many(self._redirects.values())
        self._forwards.clear()
        self._redirects.clear()

    def _activate(self, forward: Forward, guest_ip: GuestIP | None) -> None:
        if guest_ip is None:
            return
        targets = [(str(guest_ip), guest_port) for _, guest_port in forward.rule.pairs()]
        pairs = list(zip(forward.sockets, targets, strict=True))
        forward.sockets = []
        forward.guest_ip = guest_ip
        try:
            forward.relay_ids = _hand_over(
                self._relay, forward.rule.protocol, pairs, transparent=forward.transparent
            )
            dnats = forward.dnats()
            if dnats:
                self._firewall.add_dnats(dnats)
        except BaseException:
            self._end(forward)
            stop_listening(forward.sockets)
            raise

    def _deactivate(self, forward: Forward) -> None:
        dnats = forward.dnats()
        if dnats:
            self._firewall.remove_dnats(dnats)
        self._end(forward)

    def _end(self, forward: Forward) -> None:
        """End the flows; the sockets are the forward's again."""
        if forward.relay_ids:
            fds = self._relay.release_many(forward.relay_ids)
            forward.sockets = [socket.socket(fileno=fd) for fd in fds]
        forward.relay_ids = []
        forward.guest_ip = None

    def _dials(self, forward: Forward) -> tuple[int, int]:
        counted = self._relay.stats_of(forward.relay_ids)
        return counted["dials_as_client"], counted["dials_as_gateway"]


def _here(make: Callable[[], T], /) -> T:
    return make()


def _hand_over(
    relay: SpliceRelay,
    protocol: str,
    pairs: Sequence[tuple[socket.socket, tuple[str, int]]],
    *,
    transparent: bool = False,
) -> list[int]:
    """Give bound sockets to *relay*, which closes them from now on; all are closed if that fails."""
    try:
        if protocol == "tcp":
            for held, _ in pairs:
                listen(held)
        add = relay.add_tcp_many if protocol == "tcp" else relay.add_udp_many
        relay_ids = add([(held.fileno(), target) for held, target in pairs], transparent=transparent)
    except BaseException:
        close(held for held, _ in pairs)
        raise
    for held, _ in pairs:
        held.detach()
    return relay_ids
