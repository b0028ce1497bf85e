"""A guest port that cannot be attached leaves nothing, whichever step failed."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.errors import KernelError
from arcbox_net.network.guest_port import PortRequest
from arcbox_net.network.kernel_attaching import KernelAttaching
from arcbox_net.network.ports import PortTable
from arcbox_net.recipes.site import Layout
from tests.support.descriptors import open_descriptors

LAYOUT = Layout("bridge", "none", "br0", None, None, False)


class Kernel:
    """Links, filters and rows of a host, as names."""

    def __init__(self):
        self.links = set()
        self.filters = set()
        self.rows = {}
        self.site = SimpleNamespace(
            network="dev",
            config=NetConfig(),
            is_private=False,
            links=self,
            firewall=SimpleNamespace(
                add_port=lambda plan: self.filters.add(plan.ifname),
                remove_port=lambda plan: self.filters.discard(plan.ifname),
            ),
        )

    async def run(self, function, *arguments):
        return function(*arguments)

    def create_tap(self, plan):
        self.links.add(plan.ifname)
        return [os.memfd_create("queue")]

    def remove(self, ifname):
        self.links.discard(ifname)

    def owned(self, network):
        return []

    def put(self, table, name, row):
        self.rows[name] = row

    def delete(self, table, name):
        self.rows.pop(name, None)


@pytest.fixture
def kernel():
    return Kernel()


async def attach(kernel, request):
    """Attach where forwards cannot be aimed; how many ports there are then."""

    async def guests_changed():
        raise KernelError("nft: no memory", operation="nft", object="abx_dev", errno=12)

    ports = PortTable(kernel.site, LAYOUT)
    attaching = KernelAttaching(
        kernel.site,
        LAYOUT,
        ports,
        kernel,
        kernel,
        None,
        SimpleNamespace(add_port=lambda port: None, remove_port=lambda port: None),
        changing=asyncio.Lock(),
        awaited=lambda: (),
        guests_changed=guests_changed,
        holder_ended=lambda name: None,
        dnats=lambda: (),
    )
    with pytest.raises(KernelError, match="no memory"):
        await attaching.attach(request)
    return len(ports)


@pytest.mark.parametrize("persist", [False, True])
def test_a_port_whose_forwards_cannot_be_aimed_leaves_no_device_behind(kernel, persist):
    fds = open_descriptors()
    assert asyncio.run(attach(kernel, PortRequest("tap", name="vm", persist=persist))) == 0
    assert (kernel.links, kernel.filters, kernel.rows) == (set(), set(), {})
    assert open_descriptors() == fds


def test_a_port_is_forgotten_even_if_its_device_cannot_be_removed(kernel):
    def stuck(ifname):
        raise KernelError("delete: busy", operation="delete", object=ifname, errno=16)

    kernel.remove = stuck
    assert asyncio.run(attach(kernel, PortRequest("tap", name="vm"))) == 0
    assert kernel.rows == {}
