"""The user-space datapath of a network: the switch that guests at sockets are on, and its uplink to the bridge.

*Theory of operation.* Opened with the first such guest and closed with the last, so that a network without has no
worker thread and none of these modules in memory. With egress engine all guests are such, because all leave by it.
Workers own descriptors and packets, and are told what to do by messages; here is who is attached. A guest's endpoint
keeps one port, of one worker, for as long as the guest is attached, whoever is connected at the moment: MAC and
addresses are bound to that port once. Each worker has a switch, which are one to everybody else, and a queue of the
uplink. The engine is the first worker's.

The uplink is a TAP of ours. What passes it the kernel filters like what a guest sends, for exactly the guests behind
it (`SwitchedPlan`); which of them sent it is the switch's to check. The kernel answers a flow by the queue that its
last frame came from, so what a guest gets from there comes to its own worker. When the TAP is gone it is made anew,
again and again, while guests wait.

Whoever calls holds the network's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

from arcbox_net.addresses import bridge_mac, stable_mac
from arcbox_net.config import Egress
from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker_group import WorkerGroup, workers_by_cores
from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux.tap import takes_uso
from arcbox_net.host.plan import GATEWAY_LINK_LOCAL, UPLINK, PortPlan, SwitchedPlan, UplinkPlan, uplink_ifname
from arcbox_net.network.devices import connect, disconnect, port_info
from arcbox_net.network.engine_egress import ETHERNET_BYTES, EngineEgress, add_queue
from arcbox_net.network.messages import PortInfo
from arcbox_net.ports.queues import QUEUE_LOST, QUEUES_CLOSE
from arcbox_net.ports.tap import TapPort
from arcbox_net.recipes.engine import engine_uplink

if TYPE_CHECKING:
    from collections.abc import Callable

    from arcbox_net.dataplane.worker import Worker
    from arcbox_net.dataplane.worker_views import WorkerEvent
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.ports import Port
    from arcbox_net.recipes.site import Layout, Site

RESTORE_FIRST_S = 0.05
RESTORE_MOST_S = 2.0
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


class Datapath:
    """See the module's docstring. `changing` is the network's lock."""

    def __init__(self, site: Site, layout: Layout, kernel: KernelThread, changing: asyncio.Lock) -> None:
        self._site = site
        self._layout = layout
        self._kernel = kernel
        self._changing = changing
        config = site.config
        self._frame_max = config.mtu + ETHERNET_BYTES
        self.uplink = UplinkPlan(
            network=site.network,
            port=UPLINK,
            ifname=uplink_ifname(site.network),
            bridge=layout.bridge,
            mac=stable_mac(site.network, UPLINK),
            mtu=config.mtu,
            isolated=config.isolated,
            anti_spoof=config.anti_spoof,
            queues=config.workers or workers_by_cores(),
            multi_queue=True,
        )
        self._guests: dict[str, tuple[Port, Endpoint]] = {}
        self._leaving: dict[str, Port] = {}  # guests with devices of the kernel, who leave by the engine
        self._restoring: asyncio.Task[None] | None = None
        self._is_lost_again = False
        switches = [Switch() for _ in range(self.uplink.queues)]
        Switch.join(switches)
        self._switch = switches[0]  # each speaks for all
        self._group = WorkerGroup(switches, name=site.network)
        self._uplink_number = -1
        self.engine: EngineEgress | None = None

    async def open(self) -> None:
        """Start the workers, with the uplink as their first port. Raises KernelError, PermissionDenied."""
        self._group.start()
        for worker in self._group.workers:
            asyncio.get_running_loop().add_reader(worker.event_fd, self._on_events, worker)
        try:
            uso = takes_uso()
            self._uplink_number = self._group.add_everywhere(
                [TapPort(frame_max=self._frame_max, uso=uso) for _ in self._group.workers]
            )
            if self._layout.egress == Egress.ENGINE.value:
                outside = await self._kernel.run(engine_uplink, self._site)
                self.engine = EngineEgress(
                    self._site, self._layout, outside, self._group.place(0), self._switch
                )
                self.engine.open()
            self._bind_network(self._uplink_number)
            for plan in self.plans:
                await self._kernel.run(self._site.firewall.add_port, plan)
            await self.restore()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every guest's socket, and remove the uplink."""
        if self._restoring is not None:
            self._restoring.cancel()
        if self.engine is not None:
            self.engine.close()
        for port, _ in list(self._guests.values()):
            try:
                await self.detach(port)
            except ArcboxNetError as error:
                log.error("port %s: %s", port.name, error)
        for worker in self._group.workers:
            asyncio.get_running_loop().remove_reader(worker.event_fd)
        self._group.stop()
        for plan in self.plans:
            await self._kernel.run(self._remove, plan)

    @property
    def plans(self) -> tuple[PortPlan, ...]:
        """The devices by which it is on the bridge."""
        return (self.uplink,) if self.engine is None else (self.uplink, self.engine.leg)

    def __len__(self) -> int:
        return len(self._guests) + len(self._leaving)

    def let_out(self, port: Port) -> None:
        """A guest that has a device of the kernel leaves by the engine."""
        assert self.engine is not None
        self.engine.add_guest(port)
        self._leaving[port.name] = port

    def forget(self, port: Port) -> None:
        """As `let_out` never happened."""
        if self._leaving.pop(port.name, None) is not None and self.engine is not None:
            self.engine.remove_guest(port)

    async def attach(self, port: Port) -> None:
        """Let the guest of *port* connect. On failure nothing of it is left."""
        endpoint = self._endpoint(port)
        await self._kernel.run(connect, self._site, port)
        try:
            await self._kernel.run(self._pin, port)
            await endpoint.start()
            self._guests[port.name] = (port, endpoint)
            self._switch.bind(self._group, endpoint.number, self._binding(port))
        except BaseException:
            self._guests.pop(port.name, None)
            await endpoint.stop()
            await self._kernel.run(disconnect, self._site, port)
            raise

    async def detach(self, port: Port) -> None:
        """Disconnect the guest and forget it. What the kernel refused to do can be tried again."""
        _, endpoint = self._guests.pop(port.name, (port, None))
        if endpoint is not None:
            self._switch.unbind(self._group, endpoint.number)
            await endpoint.stop()
        await self._kernel.run(disconnect, self._site, port)

    async def restore(self) -> None:
        """Make the uplink as planned, whatever somebody did to it. Raises KernelError, InterfaceNotFound."""
        fds = await self._kernel.run(self._restore_uplink)
        try:
            for worker in self._group.workers if fds else ():
                # One that has not seen yet that its old queue is gone would give up the new one with it.
                worker.send(self._uplink_number, QUEUES_CLOSE)
                add_queue(worker, self._uplink_number, fds.pop())
        except BaseException:
            # A TAP of which one worker has a queue would pass for whole: without any it goes, and is made anew.
            for worker in self._group.workers:
                with contextlib.suppress(ArcboxNetError, OSError):
                    worker.send(self._uplink_number, QUEUES_CLOSE)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        if self.engine is not None:
            await self._kernel.run(self.engine.restore)

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

    def _bind_network(self, uplink: int) -> None:
        layout = self._layout
        gateway_mac = bridge_mac(self._site.network) if layout.gateway is not None else None
        self._switch.bind(self._group, uplink, PortBinding(role="uplink", mac=gateway_mac))
        gateways6 = (GATEWAY_LINK_LOCAL.ip, layout.gateway6) if layout.gateway6 is not None else ()
        self._switch.set_network(
            self._group,
            uplink,
            SwitchNetwork(
                router=self.engine.number if self.engine else None,
                subnet6=layout.subnet6,
                gateways6=gateways6,
                gateway_mac=gateway_mac,
                subnet=layout.subnet,
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

    def _pin(self, port: Port) -> None:
        assert isinstance(port.plan, SwitchedPlan)
        self._site.links.pin_behind(port.plan)

    def _restore_uplink(self) -> list[int]:
        fds = self._site.links.ensure_tap(self.uplink)
        try:
            for port, _ in list(self._guests.values()):
                self._pin(port)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _remove(self, plan: PortPlan) -> None:
        self._site.links.remove(plan.ifname)
        self._site.firewall.remove_port(plan)

    def _on_events(self, worker: Worker) -> None:
        by_number = {endpoint.number: endpoint for _, endpoint in self._guests.values()}
        for event in worker.events():
            endpoint = by_number.get(event.number)
            if endpoint is not None:
                endpoint.handle(event)
            elif event.kind == QUEUE_LOST:
                log.warning("the uplink %s is gone", self._lost(event.number))
                self._is_lost_again = True
                if self._restoring is None or self._restoring.done():
                    self._restoring = asyncio.get_running_loop().create_task(self._restore_until_there())

    def _lost(self, number: int) -> str:
        if self.engine is None or number == self._uplink_number:
            return self.uplink.ifname
        return self.engine.lose(number)

    async def _restore_until_there(self) -> None:
        delay_s = RESTORE_FIRST_S
        while True:
            self._is_lost_again = False
            with contextlib.suppress(ArcboxNetError, OSError):
                async with self._changing:
                    await self.restore()
                if not self._is_lost_again:
                    log.info("the uplink is there again")
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTORE_MOST_S)


def _text(reason: PortDrop) -> str:
    return reason.name.removeprefix(_DROP).lower().replace("_", " ")
