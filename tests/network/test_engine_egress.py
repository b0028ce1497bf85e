"""Egress engine without a kernel: what of engine and router holds when the uplink's changes are followed."""

from __future__ import annotations

import asyncio
import dataclasses
from ipaddress import IPv4Address, IPv4Interface
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.dataplane.router_config import RouterConfig
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.host.plan import Dnat
from arcbox_net.network.engine_egress import EngineEgress
from arcbox_net.recipes.engine import EngineUplink
from arcbox_net.recipes.site import Layout, Site

HERE = EngineUplink(
    "up0",
    is_tap=True,
    external=IPv4Interface("203.0.113.9/24"),
    next_hop=IPv4Address("203.0.113.1"),
    external6=None,
    next_hop6=None,
    mtu=1500,
)
THERE = dataclasses.replace(HERE, external=IPv4Interface("198.51.100.9/24"), mtu=1400)
FORWARD = Dnat("tcp", None, 8080, IPv4Address("192.168.64.10"), 80)


class RefusingRouter:
    """Takes no set-up but those for uplinks that it is told of."""

    def __init__(self, *taken: IPv4Interface) -> None:
        self.taken = taken
        self.config: RouterConfig | None = None

    def set_up(self, worker: Any, number: int, config: RouterConfig) -> None:
        if config.external[0] not in self.taken:
            raise OSError("not this one")
        self.config = config


def test_an_uplink_that_cannot_be_followed_leaves_engine_and_router_as_they_were() -> None:
    layout = Layout("nat", "engine", "abx0", IPv4Interface("192.168.64.1/24"), None, True)
    site = cast(Site, SimpleNamespace(network="dev", config=NetConfig()))

    async def story() -> None:
        switch = Switch()
        with WorkerGroup([switch]) as group:
            egress = EngineEgress(site, layout, HERE, group.place(0), switch)
            egress.open()
            egress.set_forwards([FORWARD])
            router = RefusingRouter(HERE.external)
            egress._router = cast(Any, router)
            with pytest.raises(OSError, match="not this one"):
                egress.follow(THERE)
            assert egress.uplink == HERE
            assert router.config is not None and router.config.external == (HERE.external,)
            with group.workers[0].paused():
                engine = egress._engine
                assert (engine.config.external_ip, engine.config.uplink_mtu) == (str(HERE.external.ip), 1500)
                assert [str(one.external_ip) for one in engine.forwards()] == [str(HERE.external.ip)]
            router.taken = (THERE.external,)
            egress.follow(THERE)
            with group.workers[0].paused():
                assert engine.config.external_ip == str(THERE.external.ip)
            egress.close()

    asyncio.run(story())
