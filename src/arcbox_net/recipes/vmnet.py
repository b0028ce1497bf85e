"""Networks of macOS: the system's own, which vmnet makes for us, with our switch before them.

nat         guest ── socket ── switch ── vmnet shared ── the system's NAT
host-only   guest ── socket ── switch ── vmnet host ── the host
bridge      guest ── socket ── switch ── vmnet bridged ── an interface of the host

But for a bridge, DHCP and DNS are ours, on the switch. The system's own DHCP server gets the first addresses of the
subnet, for guests of others, or is off where that can be said.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

from arcbox_net.addresses import candidate_subnets, parse_subnet, parse_subnet6
from arcbox_net.config import AUTO, OFF, Egress, NetConfig, NetworkMode, gateway_of
from arcbox_net.config_dhcp import DhcpConfig
from arcbox_net.config_dns import DnsConfig
from arcbox_net.errors import (
    ArcboxNetError,
    InterfaceNotFound,
    KernelError,
    ServiceError,
    SubnetConflict,
    Unsupported,
)
from arcbox_net.ports.vmnet.options import VmnetForward, VmnetMode, VmnetOptions
from arcbox_net.ports.vmnet.status import VmnetStatus
from arcbox_net.recipes.site import Layout, NetworkSite
from arcbox_net.rules import ForwardRule

if TYPE_CHECKING:
    from arcbox_net.ports.vmnet.interface import VmnetInterface

EGRESS = "vmnet"
AUTO_SUBNETS_MAX = 16  # each takes the system a while to refuse
MODES = {
    NetworkMode.NAT: VmnetMode.SHARED,
    NetworkMode.HOST_ONLY: VmnetMode.HOST,
    NetworkMode.BRIDGE: VmnetMode.BRIDGED,
}
SYSTEM_ADDRESSES_MAX = 8  # that its DHCP server keeps


def is_privileged() -> bool:
    """Whether vmnet makes interfaces for this process without a network of macOS 26, an entitlement aside."""
    return os.geteuid() == 0


class VmnetRecipe:
    """`open` starts an interface; `interface.stop()` removes all that it was. *privileged*: see `is_privileged`."""

    def __init__(self, privileged: Callable[[], bool] = is_privileged) -> None:
        self._privileged = privileged

    def open(self, site: NetworkSite, previous: Layout | None) -> tuple[VmnetInterface, Layout]:
        """Raises Unsupported for what macOS cannot do, SubnetConflict, and what vmnet refuses with."""
        config = site.config
        _check(config)
        if config.mode is NetworkMode.BRIDGE:
            _check_nic(config)
        first = None
        for subnet in _subnets(config, previous):
            options = VmnetOptions(
                MODES[config.mode],
                subnet=subnet,
                dhcp_last=_system_last(subnet) if subnet else None,
                nat66_prefix=_prefix(config, previous),
                mtu=config.mtu,
                interface_id=uuid.uuid5(uuid.NAMESPACE_OID, f"arcbox-net {os.getuid()} {site.network}"),
                shared_interface=config.nic or "",
            )
            try:
                interface = self._start(options, config)
            except (ServiceError, KernelError) as error:
                if not self._is_of_the_subnet(error):
                    raise
                first = first or error
                continue
            return interface, _layout(config, interface)
        raise SubnetConflict(
            f"subnet {subnet} is in use on this host: {first}",
            fix='choose another subnet, or "auto"; or turn Internet Sharing off in System Settings',
            subnet=str(subnet),
            route="",
            interface="",
        )

    def _is_of_the_subnet(self, error: ArcboxNetError) -> bool:
        """Whether another one may do. Networks of macOS 26 do not say why they cannot be."""
        status = error.facts.get("status")
        if status == VmnetStatus.FAILURE.name:
            return not self._privileged()
        return status == VmnetStatus.SHARING_SERVICE_BUSY.name

    def _start(self, options: VmnetOptions, config: NetConfig) -> VmnetInterface:
        """In a network of macOS 26 if that is all that this user may have, else as it always was."""
        from arcbox_net.ports.vmnet.interface import VmnetInterface, VmnetNetwork

        if options.mode is VmnetMode.BRIDGED:
            return VmnetInterface(options)
        if self._privileged():
            return VmnetInterface(options)
        try:
            network = VmnetNetwork(options, forwards=_said_at_start(config), dhcp=False)
        except Unsupported:
            return VmnetInterface(options)  # an entitlement may do
        return VmnetInterface(options, network)


def with_pool(config: NetConfig, subnet: IPv4Network) -> NetConfig:
    """*config* with a pool that leaves the system its addresses, unless it has one of its own."""
    if config.dhcp.pool is not None:
        return config
    pool = (str(_system_last(subnet) + 1), str(subnet.broadcast_address - 1))
    return dataclasses.replace(config, dhcp=dataclasses.replace(config.dhcp, pool=pool))


def _system_last(subnet: IPv4Network) -> IPv4Address:
    """The last address that the system's DHCP server is told to give; its first is the one behind the gateway's."""
    return subnet[1 + max(1, min(SYSTEM_ADDRESSES_MAX, subnet.num_addresses // 8))]


def is_for_the_system(rule: ForwardRule) -> bool:
    """Whether vmnet has rules of that kind: of every address, to a guest of its IP version, which for a name is 4."""
    host, guest = ipaddress.ip_address(rule.host_ip), _guest_address(rule)
    return host.is_unspecified and host.version == (guest.version if guest else 4)


def is_said_at_start(rule: ForwardRule) -> bool:
    """Whether a network of macOS 26 can have that forward when it is made: its guest's address is known."""
    return is_for_the_system(rule) and _guest_address(rule) is not None


def _said_at_start(config: NetConfig) -> list[VmnetForward]:
    if config.mode is not NetworkMode.NAT:
        return []
    return [
        VmnetForward(rule.protocol, host_port, guest, guest_port)
        for rule in config.forwards
        if is_said_at_start(rule) and (guest := _guest_address(rule))
        for host_port, guest_port in rule.pairs()
    ]


def _guest_address(rule: ForwardRule) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(rule.guest or "")
    except ValueError:
        return None


def _check(config: NetConfig) -> None:
    """Raise Unsupported for the first thing that is asked for and that nothing here can do."""
    if config.egress not in (Egress.AUTO, Egress.NONE):
        raise Unsupported(
            f"egress {config.egress.value} is for Linux: on macOS the system's NAT is the way out",
            fix="leave egress at auto",
            feature=f"egress {config.egress.value}",
        )
    if config.host_access:
        raise Unsupported(
            "host_access is for Linux: on macOS guests reach what listens on the gateway's address",
            fix="have the service listen there, or on 0.0.0.0",
            feature="host_access",
        )
    if config.bridge is not None:
        raise Unsupported(
            f"bridge {config.bridge!r}: vmnet makes the bridge itself",
            fix="name the interface to bridge: --nic en0",
            feature="bridge",
        )
    if config.mode is NetworkMode.BRIDGE:
        _check_has_no_services(config)


def _check_has_no_services(config: NetConfig) -> None:
    """For a bridged network: whoever is on the other side gives addresses and answers."""
    for part, default in (("dhcp", DhcpConfig()), ("dns", DnsConfig())):
        given = getattr(config, part)
        for field in dataclasses.fields(default):
            if getattr(given, field.name) not in (getattr(default, field.name), False):
                raise Unsupported(
                    f"{part}.{field.name}: on macOS a bridged network has no DHCP and DNS of ours",
                    fix="leave it out: the network that it is bridged to has its own",
                    feature=f"{part}.{field.name}",
                )


def _check_nic(config: NetConfig) -> None:
    from arcbox_net.ports.vmnet.interface import bridgeable_interfaces

    known = bridgeable_interfaces()
    if config.nic not in known:
        raise InterfaceNotFound(
            f"{config.nic} is no interface that vmnet bridges",
            fix=f"choose one of: {', '.join(known) or 'none is there'}",
            interface=config.nic,
        )


def _subnets(config: NetConfig, previous: Layout | None) -> Iterator[IPv4Network | None]:
    if config.mode is NetworkMode.BRIDGE:
        yield None
        return
    if config.subnet != AUTO:
        subnet = parse_subnet(config.subnet)
        if gateway_of(config, subnet) != subnet[1]:
            raise Unsupported(
                f"gateway {config.gateway}: vmnet takes the first address, {subnet[1]}",
                fix="leave gateway out",
                feature="gateway",
            )
        yield subnet
        return
    former = previous.subnet if previous is not None and previous.mode == config.mode.value else None
    if former is not None:
        yield former
    for subnet in itertools.islice(candidate_subnets(config.default_subnet()), AUTO_SUBNETS_MAX):
        if subnet != former:
            yield subnet


def _prefix(config: NetConfig, previous: Layout | None) -> IPv6Network | None:
    """That of NAT, if it is not left to the system."""
    if config.mode is not NetworkMode.NAT or config.subnet6 == OFF:
        return None
    if config.subnet6 != AUTO:
        return parse_subnet6(config.subnet6)
    return previous.subnet6 if previous is not None else None


def _layout(config: NetConfig, interface: VmnetInterface) -> Layout:
    """What the network is, by what the system says that it made."""
    facts = interface.facts
    prefix = facts.nat66_prefix if config.has_ipv6 else None
    gateway = facts.gateway if config.mode is not NetworkMode.BRIDGE else None
    return Layout(
        mode=config.mode.value,
        egress=EGRESS,
        bridge="",
        address=gateway,
        router=gateway.ip if gateway is not None and config.mode is NetworkMode.NAT else None,
        owns_bridge=False,
        nic=config.nic,
        address6=IPv6Interface((prefix.network_address + 1, prefix.prefixlen)) if prefix else None,
    )
