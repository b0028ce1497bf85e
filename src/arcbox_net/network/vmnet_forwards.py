"""Port forwards where the system forwards: rules of vmnet, and listeners of ours for what these do not lead to guests.

A rule of vmnet is for what comes in by the host's interfaces to the outside. The host's own programs try its loopback
first, so there a listener of ours stands beside it. What is for one address of the host has a listener alone. Who comes
by one is the host to the guest.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from arcbox_net.errors import (
    ArcboxNetError,
    ConfigError,
    ForwardExists,
    ForwardNotFound,
    PermissionDenied,
    Unsupported,
)
from arcbox_net.network.tcp_forward import TcpForward
from arcbox_net.network.udp_forward import UdpForward
from arcbox_net.network.views import rule_info
from arcbox_net.ports.vmnet.options import VmnetForward
from arcbox_net.recipes.vmnet import is_for_the_system, is_said_at_start
from arcbox_net.rules import LOOPBACK, LOOPBACK6, ForwardRule, parse_forward

if TYPE_CHECKING:
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.messages import ForwardInfo
    from arcbox_net.network.state import State
    from arcbox_net.ports.vmnet.interface import VmnetInterface
    from arcbox_net.recipes.site import Layout

GuestIP = IPv4Address | IPv6Address
SYSTEM = "vmnet"
PAIRS_MAX = 256  # of ports in one rule: the system is told of each
log = logging.getLogger("arcbox_net")


class VmnetForwards:
    """*resolve*: the address that a rule's guest has now, None while it has none."""

    def __init__(
        self,
        layout: Layout,
        state: State,
        kernel: KernelThread,
        interface: VmnetInterface,
        resolve: Callable[[str | None], GuestIP | None],
    ) -> None:
        self._layout = layout
        self._state = state
        self._kernel = kernel
        self._interface = interface
        self._resolve = resolve
        self._forwards: dict[ForwardRule, _Forward] = {}
        self._said_at_start: set[ForwardRule] = set()

    async def start(self, configured: tuple[ForwardRule, ...]) -> None:
        """Serve what is configured, and what was added in an earlier run that was killed."""
        self._said_at_start = {rule for rule in configured if is_said_at_start(rule)}
        for rule in configured:
            await self._add(rule)
        for text in await self._kernel.run(self._state.items, "forwards"):
            rule = parse_forward(text)
            if rule in self._forwards:
                continue
            try:
                await self._add(rule)
            except ArcboxNetError as error:
                log.warning("forward %s of the earlier run is given up: %s", rule, error)
                await self._kernel.run(self._state.delete, "forwards", text)

    async def stop(self) -> None:
        """End what is ours; the system's rules go with the interface."""
        for forward in self._forwards.values():
            await forward.stop_listening()
        self._forwards.clear()

    async def expose(self, rule: ForwardRule) -> ForwardInfo:
        await self._add(rule)
        try:
            await self._kernel.run(self._state.put, "forwards", str(rule), {})
        except BaseException:
            await self._forwards.pop(rule).close()
            raise
        return self._forwards[rule].info()

    async def unexpose(self, rule: ForwardRule) -> None:
        if rule not in self._forwards:
            raise ForwardNotFound(f"no forward {rule}", rule=str(rule))
        if isinstance(self._forwards[rule], _SaidAtStart):
            raise Unsupported(
                f"{rule} was said when the network was made, and stays as long",
                fix="start the network without it",
                feature="removal of a forward",
            )
        await self._kernel.run(self._state.delete, "forwards", str(rule))
        await self._forwards.pop(rule).close()

    async def guests_changed(self) -> None:
        """Aim every forward at where its guest is now. One that is refused stays pending until the next change."""
        for rule, forward in self._forwards.items():
            try:
                await forward.aim(self._resolve(rule.guest))
            except ArcboxNetError as error:
                log.error("forward %s is not served: %s", rule, error)

    def infos(self) -> list[ForwardInfo]:
        return [forward.info() for forward in self._forwards.values()]

    def awaited(self) -> set[str]:
        return {rule.guest.lower() for rule in self._forwards if rule.guest}

    def stats(self) -> dict[str, int]:
        """Of the listeners, those of all forwards together."""
        totals: Counter[str] = Counter()
        for forward in self._forwards.values():
            totals.update(forward.stats())
        return dict(totals)

    async def _add(self, rule: ForwardRule) -> None:
        self._layout.check_has_forwards(rule)
        existing = next((other for other in self._forwards if other.overlaps(rule)), None)
        if existing is not None:
            raise ForwardExists(f"{rule} overlaps {existing}", rule=str(rule), existing=str(existing))
        if rule.size > PAIRS_MAX:
            raise ConfigError(f"{rule}: at most {PAIRS_MAX} ports", field="forward", value=str(rule))
        forward = self._forward(rule)
        try:
            await forward.open()
            await forward.aim(self._resolve(rule.guest))
        except BaseException:
            await forward.close()
            raise
        self._forwards[rule] = forward

    def _forward(self, rule: ForwardRule) -> _Forward:
        if self._layout.router is not None and is_for_the_system(rule):
            if self._interface.network is None:
                return _OfTheSystem(rule, self._interface, self._kernel)
            if rule in self._said_at_start:
                return _SaidAtStart(rule)
        if rule.protocol == "udp" and ipaddress.ip_address(rule.host_ip).is_unspecified:
            raise Unsupported(
                f"{rule}: on macOS UDP to all addresses of the host is forwarded by the system, in mode nat, of a"
                " network that root made, or from macOS 26 on to an address that is known when the network starts",
                fix=f"name one address of the host: {LOOPBACK}:{rule.host_port}:…/udp for its own programs",
                feature="UDP forward",
            )
        return _Relayed(rule, rule)


class _Forward:
    """One rule, `path` says how it is served. *listens_for*: what a listener of ours takes of it."""

    path = ""

    def __init__(self, rule: ForwardRule, listens_for: ForwardRule) -> None:
        self.rule = rule
        self.guest_ip: GuestIP | None = None
        self._listener: TcpForward | UdpForward = (
            TcpForward(listens_for) if rule.protocol == "tcp" else UdpForward(listens_for)
        )

    async def open(self) -> None:
        """Take the host's ports."""
        await self._listener.open()

    async def aim(self, guest_ip: GuestIP | None) -> None:
        """Lead to that address from now on. None: nobody is there yet."""
        await self._listener.aim(str(guest_ip) if guest_ip else None)
        self.guest_ip = guest_ip

    async def close(self) -> None:
        """Give everything back."""
        await self.stop_listening()

    async def stop_listening(self) -> None:
        await self._listener.close()

    def stats(self) -> dict[str, int]:
        return self._listener.stats()

    def info(self) -> ForwardInfo:
        is_own = self.path == SYSTEM
        return rule_info(
            self.rule,
            self.guest_ip,
            path=self.path,
            client_address_preserved=is_own,
            client_address="client's own" if is_own else "gateway's",
            client_address_reason=None if is_own else "the host dials the guest itself",
            dials_as_gateway=self.stats()["accepted"],
        )


class _Relayed(_Forward):
    path = "relay"


class _SaidAtStart(_Forward):
    """A rule of the network itself, to an address that it names."""

    path = SYSTEM

    def __init__(self, rule: ForwardRule) -> None:
        super().__init__(rule, _on_loopback(rule))

    async def open(self) -> None:
        try:
            await super().open()
        except PermissionDenied as error:  # what the system does is not lost for that
            log.warning("forward %s is for other machines only: %s", self.rule, error)


class _OfTheSystem(_Forward):
    path = SYSTEM

    def __init__(self, rule: ForwardRule, interface: VmnetInterface, kernel: KernelThread) -> None:
        super().__init__(rule, _on_loopback(rule))
        self._interface = interface
        self._kernel = kernel
        self._told: list[VmnetForward] = []

    async def aim(self, guest_ip: GuestIP | None) -> None:
        """Of the system and the listener, both lead there or none does."""
        try:
            if guest_ip != self.guest_ip:
                await self._kernel.run(self._take_back)
                if guest_ip is not None:
                    await self._kernel.run(self._tell, guest_ip)
            await super().aim(guest_ip)
        except BaseException:
            await super().aim(None)
            await self._kernel.run(self._take_back)
            raise

    async def close(self) -> None:
        await super().close()
        await self._kernel.run(self._take_back)

    def _tell(self, guest_ip: GuestIP) -> None:
        try:
            for host_port, guest_port in self.rule.pairs():
                rule = VmnetForward(self.rule.protocol, host_port, guest_ip, guest_port)
                self._interface.add_forward(rule)
                self._told.append(rule)
        except BaseException:
            self._take_back()
            raise

    def _take_back(self) -> None:
        while self._told:
            self._interface.remove_forward(self._told.pop())


def _on_loopback(rule: ForwardRule) -> ForwardRule:
    """What the host's own programs try of a rule for every address."""
    return dataclasses.replace(rule, host_ip=LOOPBACK6 if ":" in rule.host_ip else LOOPBACK)
