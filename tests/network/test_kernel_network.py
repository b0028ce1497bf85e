"""What of a network in the kernel does not succeed at once: repairs, and names on a full disk."""

import asyncio
from types import SimpleNamespace

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.errors import ServiceError, StateError
from arcbox_net.network.kernel_network import KernelNetwork
from arcbox_net.network.naming import Naming
from arcbox_net.recipes.site import Layout


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


@pytest.mark.parametrize("former", [[], ["10.0.0.5"]])
def test_k4_a_name_that_cannot_be_written_down_is_what_it_was(former):
    async def full(*_):
        raise StateError("dev.db cannot be written: disk full", path="dev.db")

    naming = Naming("dev", NetConfig(), Layout("bridge", "none", "br0", None, None, False), {})
    if former:
        naming.register("web", former)
    network = SimpleNamespace(
        _change=asyncio.Lock(),
        _naming=naming,
        _kernel=SimpleNamespace(run=full),
        _state=SimpleNamespace(put=None),
    )
    with pytest.raises(StateError):
        asyncio.run(KernelNetwork.register_dns(network, "web", ["10.0.0.9"]))
    assert naming.registered("web") == former
