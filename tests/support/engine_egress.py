"""A guest on a TAP whose way out is a NAT engine: the switch, the router, and a packet socket on a veth to outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.router import Router
from arcbox_net.dataplane.router_config import RouterConfig
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker import Worker
from arcbox_net.host.linux.packet import open_packet
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.packet import PacketPort
from arcbox_net.ports.tap import TapPort
from tests.support.datapath import give_queue, open_tap
from tests.support.netns import Namespace

GUEST, GATEWAY, SUBNET = "192.168.64.10", "192.168.64.1", IPv4Network("192.168.64.0/24")
GATEWAY_MAC, UPLINK_MAC = "02:00:00:00:00:fe", "02:00:00:00:01:00"
EXTERNAL, NEXT_HOP, FAR = "203.0.113.5", "203.0.113.1", "198.51.100.1"
FRAME_MAX = 1514


class EngineEgress:
    """`guest` has GUEST and a default route; `outside` has NEXT_HOP on the link, and FAR behind it."""

    def __init__(
        self, guest: Namespace, middle: Namespace, outside: Namespace, worker: Worker, filtering: str
    ) -> None:
        self.guest, self.outside, self.worker = guest, outside, worker
        middle.run(f"ip link add wire0 type veth peer name eth0 netns {outside.name}")
        middle.run("ip link set wire0 up")
        outside.run(f"ip addr add {NEXT_HOP}/24 dev eth0")
        outside.run(f"ip addr add {FAR}/32 dev lo")
        outside.run("ip link set eth0 up")
        self.engine = NatEngine(NatEngineConfig(EXTERNAL, gateway=GATEWAY, filtering=filtering))
        self.router = Router(self.engine)
        self.switch = Switch()
        self.router_port = worker.add(self.router, self.switch)
        self.uplink = worker.add(PacketPort(frame_max=FRAME_MAX), self.router.outside)
        give_queue(
            worker, self.uplink, middle.call(lambda: open_packet("wire0", [bytes.fromhex("020000000100")]))
        )
        self.guest_port = worker.add(TapPort(frame_max=FRAME_MAX), self.switch)
        (fd,) = open_tap(guest, f"{GUEST}/24")
        give_queue(worker, self.guest_port, fd)
        guest.run("ip link set tap0 txqueuelen 10000")
        guest.run(f"ip neigh add {GATEWAY} lladdr {GATEWAY_MAC} dev tap0")
        guest.run(f"ip route add default via {GATEWAY}")
        mac = json.loads(guest.run("ip -j link show tap0").stdout)[0]["address"]
        self.switch.bind(worker, self.guest_port, PortBinding(mac=mac, ipv4=(IPv4Address(GUEST),)))
        self.switch.bind(worker, self.router_port, PortBinding("router"))
        self.switch.set_network(
            worker,
            self.guest_port,
            SwitchNetwork(router=self.router_port, gateway_mac=GATEWAY_MAC, subnet=SUBNET),
        )
        self.router.set_up(
            worker,
            self.router_port,
            RouterConfig(
                self.uplink,
                UPLINK_MAC,
                GATEWAY_MAC,
                (IPv4Interface(f"{EXTERNAL}/24"),),
                next_hop=IPv4Address(NEXT_HOP),
                gateway=IPv4Address(GATEWAY),
            ),
        )


@contextmanager
def engine_egress(filtering: str = "address-and-port-dependent") -> Iterator[EngineEgress]:
    with Namespace("guest") as guest, Namespace("middle") as middle, Namespace("outside") as outside:
        with PacketPool() as pool, Worker(pool, "egress") as worker:
            yield EngineEgress(guest, middle, outside, worker, filtering)
