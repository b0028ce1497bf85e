"""A guest process that configures itself: one DHCP exchange, then address, MTU and route of its interface.

The lease is not renewed: a port's address stays its own for as long as it is attached.
"""

from __future__ import annotations

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import attr_u32
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.services.dhcp.client import LeaseOffer, lease_in_this_namespace

TIMEOUT_S = 10.0


def configure(ifname: str, *, hostname: str | None = None) -> LeaseOffer:
    """Get a lease for *ifname* in this network namespace and apply it. Raises ServiceError: nobody answered."""
    with RouteSocket() as kernel:
        for name in ("lo", ifname):
            kernel.set_link(kernel.need_link(name).ifindex, operation="bring up", ifname=name, up=True)
        lease = lease_in_this_namespace(ifname, TIMEOUT_S, hostname=hostname)
        ifindex = kernel.need_link(ifname).ifindex
        if lease.mtu is not None:
            mtu = attr_u32(rtnl.IFLA_MTU, lease.mtu)
            kernel.set_link(ifindex, mtu, operation="set MTU of", ifname=ifname)
        kernel.add_ipv4(ifindex, lease.ip.packed, lease.prefix, ifname=ifname)
        if lease.router is not None:
            kernel.add_default_route(ifindex, lease.router.packed, ifname=ifname)
    return lease
