"""TUNs: how a relay thread reads and writes the packets of a private namespace.

A packet on the fd begins with a `struct virtio_net_hdr_v1` of TUN_VNET_HDR_BYTES, no packet information; the kernel
hands over segments of up to 64 KB and leaves their checksums to the reader, and takes the same.
"""

from __future__ import annotations

import os
from typing import Final

from arcbox_net.host.linux import link_messages as messages
from arcbox_net.host.linux import rtnl, tap
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.netlink import attr, attr_u32
from arcbox_net.host.linux.ownership import LINK_GROUP
from arcbox_net.host.plan import TunPlan, alias

# Packets that wait for the relay. A full queue of 64 KB segments takes 64 MB, and a thousand small ones come
# in 5 ms at most: the relay reads a hundred at once.
TUN_TXQUEUELEN: Final = 1000


def create_tun(kernel: Kernel, plan: TunPlan) -> int:
    """Make a TUN that is up, and return its non-blocking fd; it goes with the fd.

    Raises KernelError (EBUSY) when there is a link of that name.
    """
    fd = tap.open_tun(plan.ifname, opener=kernel.open_tun)
    try:
        tap.set_offloads(fd, tap.OFFLOADS_ALL)
        link = kernel.rt.need_link(plan.ifname)
        kernel.rt.set_noqueue(link.ifindex, ifname=plan.ifname)
        kernel.set_link(
            link,
            attr(rtnl.IFLA_IFALIAS, alias(plan.network).encode()),
            attr_u32(rtnl.IFLA_GROUP, LINK_GROUP),
            attr_u32(rtnl.IFLA_MTU, plan.mtu),
            attr_u32(rtnl.IFLA_TXQLEN, TUN_TXQUEUELEN),
            operation="configure",
        )
        kernel.set_link(link, messages.no_ipv6_address(), operation="keep IPv6 addresses off")
        # What the relay writes has the addresses of guests and of the whole world.
        kernel.write_sysctl(f"net/ipv4/conf/{plan.ifname}/rp_filter", "0")
        # ICMP errors of the relay come from the gateway's address, which is this namespace's own.
        kernel.write_sysctl(f"net/ipv4/conf/{plan.ifname}/accept_local", "1")
        kernel.set_link(link, operation="bring up", up=True)
    except BaseException:
        os.close(fd)
        raise
    return fd
