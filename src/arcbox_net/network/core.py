"""One running network as the API sees it: ports, addresses, forwards and names. What makes them, its kind knows.

Theory of operation. The asyncio loop owns every table here. What blocks runs in one *kernel thread*, in order. Changes
are serialised by one lock; each is durable and real before it is answered, and undone if a step of it fails. A kind
of network makes its parts in `_build`, and is ready then; `_tear_down` is the same backwards, from wherever it got to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcbox_net import __version__, paths
from arcbox_net.addresses import parse_ipv4
from arcbox_net.config import NetConfig
from arcbox_net.config_dhcp import Reservation
from arcbox_net.config_mapping import config_from_mapping
from arcbox_net.errors import ArcboxNetError, ConfigError, PortNotFound
from arcbox_net.network import messages as m
from arcbox_net.network.guest_port import PortRequest
from arcbox_net.network.kernel_thread import KernelThread
from arcbox_net.network.ports import PortTable
from arcbox_net.rules import ForwardRule

if TYPE_CHECKING:
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.attaching import Attaching
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.parts import Forwards
    from arcbox_net.network.state import State
    from arcbox_net.recipes.site import Layout
    from arcbox_net.services.dhcp.link import DhcpLink

log = logging.getLogger("arcbox_net")


class Network(ABC):
    """See the module's docstring. `on_stop` is called when somebody asks the network to end."""

    hands_over_taps = False
    _layout: Layout
    _ports: PortTable
    _attaching: Attaching
    _naming: Naming

    def __init__(
        self,
        name: str,
        config: NetConfig,
        state: State,
        *,
        owner: str,
        live_networks: Callable[[], list[str]],
        record_dir: Path,
        on_stop: Callable[[], None],
        is_private: bool = False,
    ) -> None:
        self.name = name
        self.config = config
        self._state = state
        self._owner = owner
        self._live_networks = live_networks
        self._record_dir = record_dir
        self._on_stop = on_stop
        self._started = time.monotonic()
        self._is_private = is_private
        self._kernel = KernelThread()
        self._change = asyncio.Lock()
        self._warnings: list[m.Warning_] = []
        self._addressing: Addressing | None = None
        self._forwarding: Forwards | None = None
        self._background: set[asyncio.Task[Any]] = set()

    # -- start and stop --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build everything. On failure whatever was built is removed before the error is raised."""
        async with self._change:
            try:
                await self._build()
                await self._attaching.attach_configured(self.config.ports)
            except BaseException:
                try:
                    await self._tear_down()
                except ArcboxNetError as error:  # less telling than what is raised below
                    log.error("after a failed start: %s", error)
                raise

    async def stop(self) -> None:
        """Remove everything of ours; leases and reservations stay in the state file."""
        async with self._change:
            await self._tear_down()

    def request_stop(self) -> None:
        self._on_stop()

    @abstractmethod
    async def _build(self) -> None:
        """Make everything of the network, and serve."""

    @abstractmethod
    async def _tear_down(self) -> None:
        """Remove what `_build` made, as far as it got."""

    # -- addresses -------------------------------------------------------------------------------------------

    async def _start_addressing(
        self, config: NetConfig, link: DhcpLink, former: Collection[Reservation]
    ) -> None:
        """Serve DHCP on *link*, as *config* says. *former*: reservations of the configuration last time."""
        from arcbox_net.network.addressing import Addressing

        domain = self._naming.domain
        self._addressing = Addressing(self.name, config, self._layout, self._state, domain, link)
        await self._addressing.start(self._port_of, self._lease_changed, former)
        await self._addressing.keep_only_ports({port.name: port for port in self._ports})

    def _port_of(self, mac: bytes) -> str | None:
        port = self._ports.by_mac(mac)
        return port.name if port else None

    async def allocate_ip(self, *, ip: str | None, mac: str | None, hostname: str | None) -> m.LeaseInfo:
        """A free address (or *ip*) for a program. Raises PoolExhausted, AddressInUse."""
        async with self._change:
            return await self._pool().allocate("program", ip=ip, mac=mac, hostname=hostname)

    async def release_ip(self, ip: str) -> None:
        """Give back an allocation, lease or reservation. An attached port's address is refused."""
        async with self._change:
            address = parse_ipv4(ip, field="ip")
            for port in self._ports:
                if port.ip == address:
                    raise ConfigError(
                        f"{ip} is the address of port {port.name!r}",
                        fix=f"detach it: arcbox-net detach {self.name} {port.name}",
                        field="ip",
                        value=ip,
                    )
            await self._pool().release(address)
            await self._guests_changed()

    async def reserve(self, mac: str, ip: str, hostname: str | None) -> m.LeaseInfo:
        async with self._change:
            return await self._pool().reserve(mac, ip, hostname)

    def leases(self) -> list[m.LeaseInfo]:
        return self._addressing.view() if self._addressing else []

    # -- ports -----------------------------------------------------------------------------------------------

    async def attach(self, request: PortRequest) -> tuple[m.PortInfo, list[int]]:
        """A new guest port, and its TAP fds, which the caller closes after handing them on."""
        async with self._change:
            return await self._attaching.attach(request)

    async def open_tap(self, name: str) -> tuple[m.PortInfo, list[int]]:
        """The queues of an attached TAP once more. Raises PortNotFound; no fds when the port is no TAP."""
        async with self._change:
            return await self._attaching.open_tap(name)

    async def detach(self, name: str) -> None:
        """Remove the port, its device and its address. Raises PortNotFound."""
        async with self._change:
            await self._attaching.detach(self._ports.get(name))

    async def _detach_unheld(self, name: str) -> None:
        with contextlib.suppress(PortNotFound):
            await self.detach(name)

    async def ports(self) -> list[m.PortInfo]:
        async with self._change:
            await self._attaching.detach_gone()
            return await self._attaching.infos()

    def _name_ports(self) -> None:
        """Give those of an earlier run their names again."""
        for port in self._ports:
            try:
                self._naming.add_port(port)
            except ArcboxNetError as error:  # the configuration has given its name away since
                log.warning("port %s of the earlier run has no name: %s", port.name, error)

    def _awaited(self) -> set[str]:
        """Guests' names that forwards wait for."""
        return self._forwarding.awaited() if self._forwarding else set()

    @staticmethod
    def close_fds(fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)

    # -- forwards --------------------------------------------------------------------------------------------

    async def expose(self, rule: ForwardRule) -> m.ForwardInfo:
        """Add a forward. Raises HostPortInUse, ForwardExists; then nothing has changed."""
        async with self._change:
            return await self._forwards().expose(rule)

    async def unexpose(self, rule: ForwardRule) -> None:
        """Raises ForwardNotFound."""
        async with self._change:
            await self._forwards().unexpose(rule)

    def forwards(self) -> list[m.ForwardInfo]:
        return self._forwards().infos()

    def _forwards(self) -> Forwards:
        assert self._forwarding is not None, "the network has started"
        return self._forwarding

    async def _guests_changed(self) -> None:
        if self._forwarding is not None:
            await self._forwarding.guests_changed()

    # -- names -----------------------------------------------------------------------------------------------

    async def _registered_names(self) -> dict[str, list[str]]:
        """What the API added in an earlier, killed run."""
        rows = await self._kernel.run(self._state.items, "dns")
        return {name: row["addresses"] for name, row in rows.items()}

    async def register_dns(self, name: str, addresses: list[str]) -> m.DnsRecordInfo:
        """Answer *name* with *addresses*. Raises RecordExists for reserved names and other guests'."""
        async with self._change:
            former = self._naming.registered(name)
            record = self._naming.register(name, addresses)
            try:
                await self._kernel.run(
                    self._state.put, "dns", self._naming.relative(name), {"addresses": addresses}
                )
            except BaseException:
                if former:
                    self._naming.register(name, former)
                else:
                    self._naming.deregister(name)
                raise
            return record

    async def deregister_dns(self, name: str) -> None:
        """Raises RecordNotFound."""
        async with self._change:
            await self._kernel.run(self._state.delete, "dns", self._naming.relative(name))
            self._naming.deregister(name)

    def dns_records(self) -> list[m.DnsRecordInfo]:
        return self._naming.records()

    # -- looking in ------------------------------------------------------------------------------------------

    async def status(self) -> m.NetworkStatus:
        config, layout = self.config, self._layout
        return m.NetworkStatus(
            name=self.name,
            netns=self._kernel.netns_path,
            state="conflict" if self._warnings else "running",
            mode=layout.mode,
            egress=layout.egress,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started,
            bridge=layout.bridge or None,
            subnet=str(layout.subnet) if layout.subnet else None,
            gateway=str(layout.gateway) if layout.gateway else None,
            subnet6=str(layout.subnet6) if layout.subnet6 else None,
            gateway6=str(layout.gateway6) if layout.gateway6 else None,
            ipv6_egress=self._has_ipv6_egress,
            engine=await self._engine_info(),
            mtu=config.mtu,
            dhcp=config.has_dhcp,
            dns=config.has_dns,
            domain=self._naming.domain if self._naming.is_served else None,
            owner=self._owner,
            ports=await self.ports(),
            forwards=self.forwards(),
            warnings=[*self._warnings, *await self._more_warnings()],
            host_access=[str(item) for item in config.host_access],
            upstreams=self._naming.upstreams,
            leases=len(self.leases()),
            available_ips=self._addressing.available if self._addressing else 0,
            log=str(paths.log_file(self.name)),
            version=__version__,
        )

    async def stats(self) -> dict[str, Any]:
        ports = await self.ports()
        return {
            "uptime_s": time.monotonic() - self._started,
            "ports": {
                port.name: {
                    "rx_bytes": port.rx_bytes,
                    "rx_packets": port.rx_packets,
                    "tx_bytes": port.tx_bytes,
                    "tx_packets": port.tx_packets,
                }
                for port in ports
            },
            "dhcp": self._addressing.stats() if self._addressing else {},
            "dns": self._naming.stats(),
            "relay": self._forwards().stats(),
            **await self._more_stats(),
        }

    @abstractmethod
    async def flows(self) -> list[m.FlowInfo]:
        """What guests are connected to outside, as far as the way out knows."""

    @property
    def _has_ipv6_egress(self) -> bool:
        return False

    async def _engine_info(self) -> m.EngineInfo | None:
        return None

    async def _more_warnings(self) -> list[m.Warning_]:
        """What limits the network at the moment, beyond `_warnings`."""
        return []

    async def _more_stats(self) -> dict[str, Any]:
        """Counters that only this kind has."""
        return {}

    # -- events ----------------------------------------------------------------------------------------------

    def _lease_changed(self, hostname: str | None, ip: IPv4Address, active: bool, mac: bytes | None) -> None:
        self._naming.lease_changed(hostname, ip, active, mac)
        if hostname and hostname.lower() in self._awaited():
            self._spawn(self._guests_changed_locked())

    async def _guests_changed_locked(self) -> None:
        async with self._change:
            await self._guests_changed()

    # -- plumbing --------------------------------------------------------------------------------------------

    def _pool(self) -> Addressing:
        if self._addressing is None:
            raise ConfigError(
                f"network {self.name} has no addresses of its own: the LAN gives them",
                field="mode",
                value=self._layout.mode,
            )
        return self._addressing

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)  # the loop itself only holds it weakly
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_log_failure)


def former_reservations(meta: Mapping[str, dict[str, Any]]) -> tuple[Reservation, ...]:
    """Those of the configuration that an earlier run left in its rows."""
    with contextlib.suppress(ConfigError, KeyError):  # another version may have written it
        return config_from_mapping(meta["config"]).dhcp.reservations
    return ()


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background task failed", exc_info=task.exception())
