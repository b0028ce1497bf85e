"""Repairs of a network in the kernel that do not succeed at once."""

import asyncio
from types import SimpleNamespace

import pytest

from arcbox_net.errors import ServiceError
from arcbox_net.network.kernel_network import KernelNetwork


class Service:
    """Bound to bridge 7; the first *failures* times it is asked to it cannot bind to another."""

    def __init__(self, failures=0):
        self._failures = failures
        self.bound_to = 7

    async def rebind(self):
        if self._failures:
            self._failures -= 1
            raise ServiceError("DHCP on abx-dev: too many open files", service="dhcp")
        self.bound_to = 8


async def nothing():
    pass


async def call(function):
    return function()


@pytest.mark.parametrize("dhcp_failures", [0, 1])
def test_k9_services_serve_on_a_bridge_that_was_made_anew_also_if_a_first_repair_fails(dhcp_failures):
    dhcp, ra = Service(dhcp_failures), Service()
    network = SimpleNamespace(
        _change=asyncio.Lock(),
        _egress=None,
        _kernel=SimpleNamespace(run=call),
        _repair_kernel=lambda: 8,
        _attaching=SimpleNamespace(restore=nothing),
        _bridge_index=7,
        _addressing=dhcp,
        _ipv6=ra,
    )
    for _ in range(dhcp_failures):
        with pytest.raises(ServiceError):
            asyncio.run(KernelNetwork._repair(network))
    asyncio.run(KernelNetwork._repair(network))
    assert (dhcp.bound_to, ra.bound_to) == (8, 8)
