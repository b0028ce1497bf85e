"""The user-space datapath of a network: the switch that guests at sockets are on, and what leads out of it.

*Theory of operation.* Workers own descriptors and packets, and are told what to do by messages; here is who is
attached. A guest's endpoint keeps one port, of one worker, for as long as the guest is attached, whoever is connected
at the moment: MAC and addresses are bound to that port once. Each worker has a switch, which are one to everybody else.
What the uplink is, and what the host must know of a guest behind it, a subclass knows.

Whoever calls holds the network's lock.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.plan import ETHERNET_BYTES, GATEWAY_LINK_LOCAL
from arcbox_net.network.messages import PortInfo
from arcbox_net.network.views import port_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from arcbox_net.dataplane.worker import Worker
    from arcbox_net.dataplane.worker_views import WorkerEvent
    from arcbox_net.network.guest_port import Port
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.recipes.site import Layout, NetworkSite

_DROP = "PORT_DROP_"
log = logging.getLogger("arcbox_net.datapath")


class Endpoint(Protocol):
    """The socket of one guest. `number`: its port, from `start` on. `trouble`: of the last peer."""

    @property
    def number(self) -> int: ...
    @property
    def is_up(self) -> bool: ...
    @property
    def trouble(self) -> str | None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def handle(self, event: WorkerEvent) -> None: ...


class Datapath(ABC):
    """See the module's docstring. `changing` is the network's lock."""

    def __init__(
        self, site: NetworkSite, layout: Layout, kernel: KernelThread, changing: asyncio.Lock, *, workers: int
    ) -> None:
        self._network = site.network
        self._layout = layout
        self._kernel = kernel
        self._changing = changing
        self._frame_max = site.config.mtu + ETHERNET_BYTES
        self._guests: dict[str, tuple[Port, Endpoint]] = {}
        switches = [Switch() for _ in range(workers)]
        Switch.join(switches)
        self._switch = switches[0]  # each speaks for all
        self._group = WorkerGroup(switches, name=site.network)

    async def open(self) -> None:
        """Start the workers, with the uplink as their first port. Raises what keeps it from being made."""
        self._group.start()
        for worker in self._group.workers:
            asyncio.get_running_loop().add_reader(worker.event_fd, self._on_events, worker)
        try:
            await self._open_uplink()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every guest's socket, and remove the uplink."""
        for port, _ in list(self._guests.values()):
            try:
                await self.detach(port)
            except ArcboxNetError as error:
                log.error("port %s: %s", port.name, error)
        for worker in self._group.workers:
            asyncio.get_running_loop().remove_reader(worker.event_fd)
        self._group.stop()
        await self._close_uplink()

    def __len__(self) -> int:
        return len(self._guests)

    async def attach(self, port: Port) -> None:
        """Let the guest of *port* connect. On failure nothing of it is left."""
        endpoint = self._endpoint(port)
        await self._admit(port)
        try:
            await endpoint.start()
            self._guests[port.name] = (port, endpoint)
            self._switch.bind(self._group, endpoint.number, self._binding(port))
        except BaseException:
            self._guests.pop(port.name, None)
            await endpoint.stop()
            await self._dismiss(port)
            raise

    async def detach(self, port: Port) -> None:
        """Disconnect the guest and forget it. What the kernel refused to do can be tried again."""
        _, endpoint = self._guests.pop(port.name, (port, None))
        if endpoint is not None:
            self._switch.unbind(self._group, endpoint.number)
            await endpoint.stop()
        await self._dismiss(port)

    def infos(self) -> dict[str, PortInfo]:
        """Every guest's port by name; guest's view: rx is what the guest received."""
        counters = self._group.counters()
        found = {}
        for port, endpoint in self._guests.values():
            counted = counters[endpoint.number]
            assert port.socket is not None
            found[port.name] = port_info(
                port,
                "up" if endpoint.is_up else "down",
                queues=port.socket.queues,
                rx_bytes=counted.tx_bytes,
                rx_packets=counted.tx_frames,
                tx_bytes=counted.rx_bytes,
                tx_packets=counted.rx_frames,
                socket=port.socket.path,
                connects=port.socket.connect,
                remote=port.socket.remote,
                trouble=endpoint.trouble,
                drops={_text(reason): count for reason, count in counted.drops.items()},
            )
        return found

    def _endpoint(self, port: Port) -> Endpoint:
        socket = port.socket
        assert socket is not None
        place = self._group.place()
        where = (socket.path, place, place.sink)
        common: dict[str, Any] = {
            "frame_max": self._frame_max,
            "owner_uid": socket.owner_uid,
            "on_change": self._reporter(port),
        }
        if port.kind == "stream":
            from arcbox_net.ports.endpoints import StreamEndpoint

            return StreamEndpoint(*where, connect=socket.connect, **common)
        if port.kind == "dgram":
            from arcbox_net.ports.endpoints import DgramEndpoint

            return DgramEndpoint(*where, remote=socket.remote, **common)
        from arcbox_net.ports.vhost_user.server import VhostUserEndpoint

        return VhostUserEndpoint(*where, connect=socket.connect, pairs=socket.queues, **common)

    def _reporter(self, port: Port) -> Callable[[], None]:
        def report() -> None:
            found = self._guests.get(port.name)
            if found is not None:
                endpoint = found[1]
                log.info(
                    "port %s: %s%s",
                    port.name,
                    "its guest is there" if endpoint.is_up else "nobody is connected",
                    f" ({endpoint.trouble})" if endpoint.trouble else "",
                )

        return report

    @abstractmethod
    async def _open_uplink(self) -> None:
        """Add the uplink's port, and bind the network to it."""

    @abstractmethod
    async def _close_uplink(self) -> None:
        """Remove what `_open_uplink` made outside the workers, which are stopped."""

    @abstractmethod
    async def _admit(self, port: Port) -> None:
        """Have the host let the guest of *port* through. On failure nothing of it is left."""

    @abstractmethod
    async def _dismiss(self, port: Port) -> None:
        """As `_admit` never happened."""

    @abstractmethod
    def _on_other_event(self, event: WorkerEvent) -> None:
        """Of a port that is no guest's."""

    def _bind_network(
        self,
        uplink: int,
        gateway_mac: str | None = None,
        router: int | None = None,
        service: tuple[int, str] | None = None,
    ) -> None:
        """*service*: number and MAC address of a port that serves guests in the gateway's name."""
        layout = self._layout
        if service is not None:
            self._switch.bind(self._group, service[0], PortBinding("service", mac=service[1]))
        self._switch.bind(self._group, uplink, PortBinding(role="uplink", mac=gateway_mac))
        gateways6 = (GATEWAY_LINK_LOCAL.ip, layout.gateway6) if layout.gateway6 is not None else ()
        self._switch.set_network(
            self._group,
            uplink,
            SwitchNetwork(
                router=router,
                subnet6=layout.subnet6,
                gateways6=gateways6,
                gateway_mac=gateway_mac,
                subnet=layout.subnet,
                service=service[0] if service is not None else None,
                gateway=layout.gateway,
            ),
        )

    def _binding(self, port: Port) -> PortBinding:
        plan = port.plan
        return PortBinding(
            role="guest" if plan.anti_spoof else "trusted",
            mac=plan.mac if plan.anti_spoof else None,
            ipv4=plan.ips or None,
            ipv6=(port.ip6,) if plan.anti_spoof and port.ip6 is not None else (),
            isolated=plan.isolated,
        )

    def _on_events(self, worker: Worker) -> None:
        by_number = {endpoint.number: endpoint for _, endpoint in self._guests.values()}
        for event in worker.events():
            endpoint = by_number.get(event.number)
            if endpoint is not None:
                endpoint.handle(event)
            else:
                self._on_other_event(event)


def _text(reason: PortDrop) -> str:
    return reason.name.removeprefix(_DROP).lower().replace("_", " ")
