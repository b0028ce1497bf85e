"""The firewall of one network: puts the text of ruleset.py into the kernel and keeps its elements current.

Owns what shall be there (the plan and its ports and forwards). Every change is one `nft -f -` transaction;
when one fails because someone removed or changed our tables, they are applied anew, also in one transaction.
guard.py covers the gap until firewall_monitor.py has noticed such a removal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from arcbox_net.errors import ArcboxNetError, KernelError, PermissionDenied
from arcbox_net.host.linux import conntrack, generation, neighbour_claims, ruleset
from arcbox_net.host.linux.conntrack import Translation
from arcbox_net.host.linux.guard import Guard
from arcbox_net.host.linux.ruleset import render
from arcbox_net.host.plan import Dnat, FirewallPlan, HostAccessRedirect, PortPlan, table_name

__all__ = ["Firewall", "render"]

log = logging.getLogger("arcbox_net.nftables")

NFT_TIMEOUT_S = 30
_PREFIX = "abx_"
_Item = TypeVar("_Item")


class Firewall:
    """The tables of *network* in the network namespace of the calling thread."""

    def __init__(self, network: str) -> None:
        self.network = network
        self._lock = threading.Lock()
        self._plan: FirewallPlan | None = None
        self._ports: dict[tuple[str, str], PortPlan] = {}
        self._dnats: dict[Dnat, None] = {}
        self._redirects: dict[HostAccessRedirect, None] = {}
        self._journal = generation.OwnChanges()
        self._guard = Guard(network)
        self._fingerprint: bytes | None = None

    @property
    def plan(self) -> FirewallPlan | None:
        """What is applied now, with every port and forward added since."""
        if self._plan is None:
            return None
        return dataclasses.replace(
            self._plan,
            ports=tuple(self._ports.values()),
            dnats=tuple(self._dnats),
            redirects=tuple(self._redirects),
        )

    def apply(self, plan: FirewallPlan) -> None:
        """Replace any tables there are by those of *plan*. On KernelError nothing has changed."""
        with self._lock:
            self._apply(plan)
            self._plan = plan
            self._ports = {_key(port): port for port in plan.ports}
            self._dnats = dict.fromkeys(plan.dnats)
            self._redirects = dict.fromkeys(plan.redirects)

    def add_port(self, port: PortPlan) -> None:
        """Let a guest port speak; a port already there is changed to *port*."""
        with self._lock:
            old = self._ports.get(_key(port))
            if old == port or self._plan is None:
                return
            changes = self._port_changes("delete", old) if old is not None else ""
            self._change(
                changes + self._port_changes("add", port), lambda: self._ports.update({_key(port): port})
            )

    def remove_port(self, port: PortPlan) -> None:
        """Silence a guest port, and forget the connections of its addresses."""
        with self._lock:
            old = self._ports.get(_key(port))
            if old is None:
                return
            self._change(self._port_changes("delete", old), lambda: self._ports.pop(_key(port)))
            with _logged("forget connections"):
                conntrack.forget_guests(old.ips)
            with _logged("forget IPv6 addresses"):
                self._release_addresses(old)

    def add_dnats(self, dnats: Sequence[Dnat]) -> None:
        """Forward more host ports, in one transaction."""
        with self._lock:
            new = [dnat for dnat in dict.fromkeys(dnats) if dnat not in self._dnats]
            if new and self._plan is not None:
                changes = self._changes("add", ruleset.dnat_elements(new))
                self._change(changes, lambda: self._dnats.update(dict.fromkeys(new)))
                with _logged("forget connections"):
                    conntrack.forget_stale(map(_translation, new))

    def remove_dnats(self, dnats: Sequence[Dnat]) -> None:
        """Stop forwarding those host ports, and forget exactly their connections."""
        with self._lock:
            gone = [dnat for dnat in dict.fromkeys(dnats) if dnat in self._dnats]
            if gone:
                changes = self._changes("delete", ruleset.dnat_elements(gone))
                self._change(changes, lambda: _discard(self._dnats, gone))
                with _logged("forget connections"):
                    conntrack.forget_translations([_translation(dnat) for dnat in gone])

    def add_redirects(self, redirects: Sequence[HostAccessRedirect]) -> None:
        """Let guests use more ports of the host's loopback, through our relay."""
        with self._lock:
            new = [item for item in dict.fromkeys(redirects) if item not in self._redirects]
            if new and self._plan is not None:
                changes = self._changes("add", ruleset.redirect_elements(new))
                self._change(changes, lambda: self._redirects.update(dict.fromkeys(new)))

    def remove(self) -> None:
        """Remove both tables; nothing happens when there are none. Raises KernelError."""
        with self._lock:
            self._guard.close()
            self._run(ruleset.removal(self.network))
            self._plan = self._fingerprint = None
            self._ports.clear()
            self._dnats.clear()
            self._redirects.clear()

    def intact(self) -> bool:
        """Whether chains, rules and sets in the kernel are those that were applied last."""
        with self._lock:
            if self._plan is None:
                return True
            return generation.fingerprint(table_name(self.network)) == self._fingerprint

    def is_own_change(self, number: int) -> bool:
        """Whether this object made ruleset generation *number*, asked once each. Waits for a change under way."""
        with self._lock:
            return self._journal.take(number)

    def drops(self) -> dict[str, int]:
        """Packets dropped since the tables were applied, by reason. Raises KernelError."""
        try:
            return generation.drop_counts(table_name(self.network))
        except OSError as error:
            raise _refused("read counters", table_name(self.network), error) from None

    @staticmethod
    def owned_networks() -> list[str]:
        """Names of the networks that have a table in this network namespace. Raises KernelError."""
        try:
            names = generation.table_names()
        except OSError as error:
            raise _refused("list tables", "nftables", error) from None
        return sorted(
            {name.removeprefix(_PREFIX).replace("_", "-") for name in names if name.startswith(_PREFIX)}
        )

    def _apply(self, plan: FirewallPlan) -> None:
        fresh = self._plan is None and self.network not in self.owned_networks()
        if fresh and plan.subnet is not None:
            # Connections pass by their conntrack entry: an old one to these addresses must not.
            with _logged("forget old connections"):
                conntrack.forget_subnet(plan.subnet)
                if plan.subnet6 is not None:
                    conntrack.forget_subnet(plan.subnet6)
        self._run(ruleset.replacement(plan))
        try:
            self._fingerprint = generation.fingerprint(table_name(self.network))
            self._guard.open(plan)
        except OSError as error:
            raise _refused("guard the ruleset", table_name(self.network), error) from None

    def _change(self, changes: str, commit: Callable[[], object]) -> None:
        """Make *changes* in the kernel, then *commit* them here; if they do not fit there, apply all anew."""
        try:
            if changes:
                self._run(changes)
        except KernelError:
            saved = (dict(self._ports), dict(self._dnats), dict(self._redirects))
            commit()
            plan = self.plan
            try:
                if plan is not None:
                    self._apply(plan)
            except KernelError:
                self._ports, self._dnats, self._redirects = saved
                raise
        else:
            commit()

    def _release_addresses(self, port: PortPlan) -> None:
        """The IPv6 addresses that the guest of *port* took may be another's now."""
        if self._plan is not None and self._plan.subnet6 is not None:
            commands = neighbour_claims.release(self.network, port.mac)
            if commands:
                self._run(commands)

    def _changes(self, verb: str, elements: dict[str, list[str]]) -> str:
        return ruleset.element_changes(verb, "inet", self.network, elements)

    def _port_changes(self, verb: str, port: PortPlan) -> str:
        any_address = self._plan is not None and self._plan.subnet is None
        elements = ruleset.port_elements(port, any_address=any_address)
        return ruleset.element_changes(verb, "bridge", self.network, elements)

    def _run(self, commands: str) -> None:
        with self._journal:
            run_nft(commands, f"network {self.network}")


def nft_path() -> str:
    """Where nft is. Debian keeps it in a directory that is not on everyone's PATH."""
    return shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin") or "nft"


def run_nft(commands: str, what: str) -> None:
    """Run *commands* as one transaction. Raises KernelError with nft's first line, or PermissionDenied."""
    try:
        done = subprocess.run(
            [nft_path(), "-f", "-"],
            input=commands,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise KernelError(
            "nft is not installed",
            fix="apt-get install nftables",
            operation="nft -f -",
            object=what,
            errno=errno.ENOENT,
        ) from None
    except subprocess.TimeoutExpired:
        raise KernelError(
            f"nftables: {what}: nft did not answer in {NFT_TIMEOUT_S} s",
            operation="nft -f -",
            object=what,
            errno=errno.ETIMEDOUT,
        ) from None
    except OSError as error:  # no descriptor or no memory left for another process
        raise _refused("run nft", what, error) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["unknown error"])[0]
        if "Operation not permitted" in reason:
            raise PermissionDenied(
                f"nftables: {what}: {reason}", fix="run as root or with CAP_NET_ADMIN", operation="nft -f -"
            )
        raise KernelError(f"nftables: {what}: {reason}", operation="nft -f -", object=what, errno=None)


def _refused(operation: str, what: str, error: OSError) -> ArcboxNetError:
    message = f"cannot {operation} ({what}): {error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionDenied(message, fix="run as root or with CAP_NET_ADMIN", operation=operation)
    return KernelError(message, operation=operation, object=what, errno=error.errno)


@contextlib.contextmanager
def _logged(operation: str) -> Iterator[None]:
    """Conntrack entries end by themselves some day: failing to delete them undoes no change of the rules."""
    try:
        yield
    except OSError as error:
        log.warning("%s: %s", operation, error.strerror)


def _key(port: PortPlan) -> tuple[str, str]:
    """Guests of the switch share its uplink's name."""
    return port.ifname, port.port


def _translation(dnat: Dnat) -> Translation:
    return Translation(dnat.protocol, dnat.host_ip, dnat.host_port, dnat.guest_ip, dnat.guest_port)


def _discard(kept: dict[_Item, None], gone: Iterable[_Item]) -> None:
    for item in gone:
        kept.pop(item, None)
