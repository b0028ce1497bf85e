"""The guest ports of a network: names, MACs and interfaces in use, and what a new port is to be."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

from arcbox_net.addresses import bridge_mac, format_mac, parse_mac, stable_mac
from arcbox_net.config_ports import (
    PAIRS_MAX,
    PORT_KINDS,
    SOCKET_KINDS,
    TAP,
    check_owner,
    check_queues,
    check_remote,
    check_socket_path,
)
from arcbox_net.config_values import check_ifname, check_port_name
from arcbox_net.errors import (
    ConfigError,
    LimitReached,
    PortExists,
    PortNotFound,
)
from arcbox_net.host.plan import SwitchedPlan, TapPlan, VethPlan, port_ifname, uplink_ifname
from arcbox_net.network.guest_port import NETNS, Port, PortRequest, Socket
from arcbox_net.recipes.site import Layout, NetworkSite

PORTS_MAX = 1024  # a Linux bridge takes no more (BR_MAX_PORTS)


class PortTable:
    """Names, MACs and interface names in use; builds plans for new ports and restores them from rows."""

    def __init__(self, site: NetworkSite, layout: Layout) -> None:
        self._site = site
        self._layout = layout
        self._ports: dict[str, Port] = {}
        self._next_index = 0

    def __iter__(self) -> Iterator[Port]:
        return iter(list(self._ports.values()))

    def __len__(self) -> int:
        return len(self._ports)

    def get(self, name: str) -> Port:
        """Raises PortNotFound."""
        port = self._ports.get(name)
        if port is None:
            known = ", ".join(self._ports) or "none"
            raise PortNotFound(
                f"network {self._site.network} has no port {name!r}",
                fix=f"ports here: {known}",
                port=name,
                known=list(self._ports),
            )
        return port

    def find(self, name: str) -> Port | None:
        return self._ports.get(name)

    def by_mac(self, mac: bytes) -> Port | None:
        text = format_mac(mac)
        return next((port for port in self._ports.values() if port.plan.mac == text), None)

    def of_guest(self, name: str) -> Port | None:
        """That of the guest with that name, the port's or its own, in any case."""
        wanted = name.lower()
        return next((port for port in self if wanted in (port.name.lower(), port.hostname)), None)

    def first(self) -> Port | None:
        return next(iter(self._ports.values()), None)

    def add(self, port: Port) -> None:
        self._ports[port.name] = port

    def discard(self, name: str) -> None:
        self._ports.pop(name, None)

    def choose_name(self, wanted: str | None, awaited: Collection[str] = ()) -> str:
        """*wanted* if it is valid and free, else the next `guestN` that no forward has *awaited*.

        So a guest that happens to get a name is not exposed by the forward of an earlier one. Raises ConfigError,
        PortExists, LimitReached.
        """
        if len(self._ports) >= PORTS_MAX:
            raise LimitReached(
                f"network {self._site.network} has {PORTS_MAX} ports, the most a bridge takes",
                limit="ports",
                value=PORTS_MAX,
            )
        if wanted is None:
            return next(
                name
                for i in itertools.count()
                if (name := f"guest{i}") not in self._ports and name not in awaited
            )
        check_port_name(wanted)
        if wanted in self._ports:
            raise PortExists(
                f"network {self._site.network} has a port {wanted!r} already",
                fix=f"arcbox-net detach {self._site.network} {wanted}, or choose another name",
                port=wanted,
            )
        return wanted

    def choose_mac(self, wanted: str | None, name: str) -> str:
        """A MAC no other port has. Raises ConfigError."""
        mac = wanted
        if mac is None and self._site.config.mac and not self._ports:
            mac = self._site.config.mac
        mac = format_mac(parse_mac(mac or stable_mac(self._site.network, name)))
        if mac == bridge_mac(self._site.network):
            raise ConfigError(f"MAC {mac} is that of the network's own bridge", field="mac", value=mac)
        taken = self.by_mac(parse_mac(mac))
        if taken is not None:
            raise ConfigError(f"MAC {mac} is that of port {taken.name!r}", field="mac", value=mac)
        return mac

    def plan(self, request: PortRequest, name: str, mac: str, ip: IPv4Address | None) -> Port:
        """The port that *request* asks for. Raises ConfigError."""
        common = self._common(name, self._free_ifname(), mac, (ip,) if ip else ())
        hostname = (request.hostname or name).lower()
        check_port_name(hostname, field="hostname")
        ip6 = self._layout.guest_address6(mac)
        if request.kind in SOCKET_KINDS:
            socket = self._socket(request)
            return Port(request.kind, self._switched(common), hostname, ip6=ip6, socket=socket)
        if request.kind == TAP:
            check_owner(request.owner_uid)
            plan = TapPlan(
                **common,
                queues=self._queues(request),
                vnet_hdr=request.vnet_hdr,
                persist=request.persist,
                owner_uid=request.owner_uid,
            )
            return Port(TAP, plan, hostname, ip6=ip6)
        if request.kind != NETNS:
            kinds = ", ".join((*PORT_KINDS, NETNS))
            raise ConfigError(
                f"kind {request.kind!r}: expected one of {kinds}", field="kind", value=request.kind
            )
        check_ifname("ifname", request.ifname)
        if (request.netns is None) == (request.pid is None):
            raise ConfigError("name a namespace by netns or by pid", field="netns", value=request.netns)
        if request.pid is not None and request.pid < 1:
            raise ConfigError(f"pid {request.pid} is no process", field="pid", value=request.pid)
        if request.netns is not None and (not request.netns or "\0" in request.netns):
            raise ConfigError(f"netns {request.netns!r} is no path", field="netns", value=request.netns)
        from arcbox_net.host.linux import namespace

        veth = self._veth(common, request.ifname, configured=request.configure)
        inode = namespace.inode_of(request.netns, request.pid)
        netns = request.netns or f"pid {request.pid}"
        return Port(NETNS, veth, hostname, netns=netns, ip6=ip6, netns_inode=inode)

    def _switched(self, common: dict[str, Any]) -> SwitchedPlan:
        return SwitchedPlan(**common | {"ifname": uplink_ifname(self._site.network)})

    def _socket(self, request: PortRequest) -> Socket:
        """Where the guest that *request* asks for is met. Raises ConfigError, PortExists."""
        check_owner(request.owner_uid)
        for field in ("socket", "remote"):
            path = getattr(request, field)
            if path is None and field == "remote":
                continue
            check_socket_path(field, path)
            taken = next((port for port in self if port.socket and path in port.socket.paths()), None)
            if taken is not None:
                raise PortExists(
                    f"{path} is the socket of port {taken.name!r}",
                    fix=f"arcbox-net detach {self._site.network} {taken.name}, or choose another path",
                    port=taken.name,
                )
        if request.remote is not None and request.kind != "dgram":
            raise ConfigError("remote goes with kind dgram", field="remote", value=request.remote)
        check_remote("remote", request.socket, request.remote)
        assert request.socket is not None
        queues = self._queues(request) if request.kind == "vhost-user" else 1
        return Socket(request.socket, request.connect, request.remote, request.owner_uid, queues, request.pid)

    def _queues(self, request: PortRequest) -> int:
        config = self._site.config
        queues = request.queues
        if queues is None:
            queues = config.num_queues if config.multiqueue else 1
            return min(queues, PAIRS_MAX) if request.kind == "vhost-user" else queues
        check_queues(request.kind, queues)
        return queues

    def is_as(self, port: Port, request: PortRequest) -> bool:
        """Whether *port* is what *request* asks for, which names its kind; what it leaves open fits."""
        if port.kind != request.kind or port.hostname != (request.hostname or port.name).lower():
            return False
        if request.mac not in (None, port.plan.mac) or request.ip not in (None, str(port.ip)):
            return False
        socket = port.socket
        if socket is None:
            found = port.plan
            return isinstance(found, TapPlan) and (found.queues, found.persist, found.owner_uid) == (
                self._queues(request),
                request.persist,
                request.owner_uid,
            )
        wanted = Socket(
            str(request.socket),
            request.connect,
            request.remote,
            request.owner_uid,
            socket.queues,
            request.pid,
        )
        return socket == wanted and (port.kind != "vhost-user" or socket.queues == self._queues(request))

    def restore(self, name: str, row: dict[str, Any]) -> Port:
        """The port that `Port.to_row` described."""
        ips = tuple(IPv4Address(ip) for ip in row["ips"])
        common = self._common(name, row["ifname"], row["mac"], ips)
        plan: TapPlan | VethPlan | SwitchedPlan
        socket = row.get("socket")
        if socket is not None:
            plan = self._switched(common)
        elif row["kind"] == TAP:
            plan = TapPlan(
                **common, queues=row["queues"], persist=row["persist"], owner_uid=row.get("owner_uid")
            )
        else:
            guest_ifname = row.get("guest_ifname") or "eth0"
            plan = self._veth(common, guest_ifname, configured=row.get("configured", False))
        return Port(
            row["kind"],
            plan,
            row["hostname"],
            row["netns"],
            row["attached_ns"],
            ip6=self._layout.guest_address6(row["mac"]),
            netns_inode=row.get("netns_inode"),
            socket=Socket(**socket) if socket else None,
        )

    def _common(self, name: str, ifname: str, mac: str, ips: tuple[IPv4Address, ...]) -> dict[str, Any]:
        """What the plan of every kind of port has."""
        config = self._site.config
        return {
            "network": self._site.network,
            "port": name,
            "ifname": ifname,
            "bridge": self._layout.bridge,
            "mac": mac,
            "mtu": config.mtu,
            "ips": ips,
            "isolated": config.isolated,
            "anti_spoof": config.anti_spoof,
        }

    def _veth(self, common: dict[str, Any], guest_ifname: str, *, configured: bool) -> VethPlan:
        """A veth; *configured*: its guest's end has its addresses and route from us."""
        ip = next(iter(common["ips"]), None)
        ip6 = self._layout.guest_address6(common["mac"])
        subnet = self._layout.subnet
        address = IPv4Interface((ip, subnet.prefixlen)) if configured and ip and subnet else None
        return VethPlan(
            **common,
            guest_ifname=guest_ifname,
            # What leaves a private network leaves by sockets. Elsewhere, and for a VM on a TAP, each large frame
            # would be cut into packets of the MTU.
            large_frames=self._site.is_private and all(port.kind == NETNS for port in self),
            address=address,
            gateway=self._layout.router if address else None,
            address6=IPv6Interface((ip6, 64)) if configured and ip6 else None,
        )

    def _free_ifname(self) -> str:
        taken = {port.plan.ifname for port in self._ports.values()}
        while True:
            ifname = port_ifname(self._site.network, self._next_index)
            self._next_index = (self._next_index + 1) % 100_000
            if ifname not in taken:
                return ifname
