"""A process that serves DHCP on one interface, as the network process would: FILE IFNAME SETTINGS-AS-JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from arcbox_net.errors import ServiceError
from arcbox_net.network.state import State
from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.link import InterfaceLink
from arcbox_net.services.dhcp.records import Lease
from arcbox_net.services.dhcp.settings import DhcpSettings
from arcbox_net.services.dhcp.shell import DhcpService, system_clock


def tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


async def serve(path: str, ifname: str, changes: dict[str, Any]) -> None:
    if "subnet" in changes:
        changes["subnet"] = IPv4Network(changes["subnet"])
    if "pool" in changes:
        changes["pool"] = tuple(IPv4Address(text) for text in changes["pool"])
    gateway = IPv4Address("10.77.0.1")
    values: dict[str, Any] = {
        "subnet": IPv4Network("10.77.0.0/24"),
        "gateway": gateway,
        "pool": (IPv4Address("10.77.0.2"), IPv4Address("10.77.0.254")),
        "dns": (gateway,),
        "domain": "t.internal",
        "requests_per_s": 0,
    }
    settings = DhcpSettings(**(values | changes))
    state = State.open(Path(path))
    table = LeaseTable(settings, state.leases(), now=system_clock())

    def on_lease(lease: Lease, active: bool) -> None:
        tell(event="lease", ip=str(lease.ip), hostname=lease.hostname, active=active)

    link = InterfaceLink(ifname, gateway)
    service = DhcpService(settings, table, state, link, port_of=lambda mac: None, on_lease=on_lease)
    try:
        await service.start()
    except ServiceError as error:
        tell(event="failed", message=error.message, fix=error.fix)
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    async def rebind() -> None:
        await service.rebind()
        tell(event="rebound")

    again: list[asyncio.Task[None]] = []
    loop.add_signal_handler(signal.SIGHUP, lambda: again.append(loop.create_task(rebind())))
    tell(event="ready")
    await ended.wait()
    await service.stop()
    state.close()
    tell(event="stopped", stats=service.stats())


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
