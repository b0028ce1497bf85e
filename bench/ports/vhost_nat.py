"""What answers a vhost-user guest in `bench.ports.vhost`: all the world behind the NAT engine, or right at the port.

testpmd sends the first datagrams, and swaps the ends of what comes back (`SWAP`): so they go round for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from arcbox_net.dataplane._testing_mirror import MirrorPort
from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.router import Router
from arcbox_net.dataplane.router_config import RouterConfig
from arcbox_net.dataplane.switch import Switch
from tests.support.vhost_port import ServedPort

GUEST, GUEST_MAC = "192.168.64.2", "52:54:00:00:00:01"  # as tests.support.testpmd has it
GATEWAY, GATEWAY_MAC, SUBNET = "192.168.64.1", "02:00:00:00:00:02", "192.168.64.0/24"
EXTERNAL, NEXT_HOP, SERVER = "203.0.113.5", "203.0.113.1", "198.51.100.1"
SWAP = "5tswap"  # testpmd's name for it
GUEST_OPTIONS = (f"--tx-ip={GUEST},{SERVER}", f"--eth-peer=0,{GATEWAY_MAC}")
EXTERNAL_MAC, NEXT_HOP_MAC = "02:00:00:00:00:05", "02:00:00:00:00:01"


@contextlib.contextmanager
def answered(path: Path) -> Iterator[None]:
    """Frames come back from a port that a wire leads to."""
    with ServedPort(path) as port:
        mirror = port.worker.add(MirrorPort(), port.patch)
        port.patch.lead(port.worker, port.number, mirror)
        port.patch.lead(port.worker, mirror, port.number)
        yield


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Between guest and mirror are a network's switch with its checks, the router, and its engine."""
    switch = Switch()
    with ServedPort(path, receiver=switch) as port:
        router = Router(NatEngine(NatEngineConfig(EXTERNAL, inside=SUBNET, gateway=GATEWAY)))
        number = port.worker.add(router, switch)
        switch.bind(port.worker, number, PortBinding("router"))
        switch.bind(port.worker, port.number, PortBinding(mac=GUEST_MAC, ipv4=(IPv4Address(GUEST),)))
        network = SwitchNetwork(router=number, gateway_mac=GATEWAY_MAC, subnet=IPv4Network(SUBNET))
        switch.set_network(port.worker, number, network)
        router.set_up(
            port.worker,
            number,
            RouterConfig(
                uplink=port.worker.add(MirrorPort(), router.outside),
                uplink_mac=EXTERNAL_MAC,
                gateway_mac=GATEWAY_MAC,
                external=(IPv4Interface(f"{EXTERNAL}/24"),),
                next_hop=IPv4Address(NEXT_HOP),
                gateway=IPv4Address(GATEWAY),
            ),
        )
        router.set_neighbour(port.worker, number, NEXT_HOP, NEXT_HOP_MAC)
        yield
