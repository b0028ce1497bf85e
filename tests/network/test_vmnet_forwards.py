"""Which forwards of macOS the system has rules for, what listeners stand beside them, and what a refusal leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from arcbox_net.errors import HostPortInUse, PermissionDenied, ServiceError, Unsupported
from arcbox_net.network import listening
from arcbox_net.network.vmnet_forwards import VmnetForwards
from arcbox_net.ports.vmnet.options import VmnetForward
from arcbox_net.recipes.vmnet import is_for_the_system, is_said_at_start
from arcbox_net.rules import ForwardRule, parse_forward
from tests.support.listening import free_port, is_free, taken

GUEST, ELSEWHERE = "192.168.64.20", "192.168.64.21"


class Interface:
    """vmnet's, whose rules are a list. *network*: that of macOS 26, if it is in one."""

    def __init__(self, network: object = None) -> None:
        self.network = network
        self.rules: list[VmnetForward] = []
        self.refuses = False

    def add_forward(self, rule: VmnetForward) -> None:
        if self.refuses:
            raise ServiceError("vmnet: no", service="vmnet")
        self.rules.append(rule)

    def remove_forward(self, rule: VmnetForward) -> None:
        self.rules.remove(rule)


class Kernel:
    async def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)


class State:
    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def items(self, table: str) -> dict[str, dict[str, Any]]:
        return dict(self.rows)

    def put(self, table: str, key: str, row: dict[str, Any]) -> None:
        self.rows[key] = row

    def delete(self, table: str, key: str) -> None:
        del self.rows[key]


class Served:
    """Forwards of a network in mode nat with one guest, `one`, which has an address from `move` on."""

    def __init__(self, network: object = None) -> None:
        self.interface = Interface(network)
        self.state = State()
        self.guest: IPv4Address | None = None
        layout = SimpleNamespace(router="192.168.64.1", check_has_forwards=lambda rule: None)
        self.forwards = VmnetForwards(
            layout,  # type: ignore[arg-type]
            self.state,  # type: ignore[arg-type]
            Kernel(),  # type: ignore[arg-type]
            self.interface,  # type: ignore[arg-type]
            lambda guest: self.guest if guest in (None, "one") else ip_address(str(guest)),
        )

    async def move(self, address: str | None) -> None:
        self.guest = IPv4Address(address) if address else None
        await self.forwards.guests_changed()

    async def expose(self, text: str) -> None:
        await self.forwards.expose(parse_forward(text))

    def listener_of(self, text: str) -> str | None:
        """Where the listener of that forward leads."""
        return self.forwards._forwards[parse_forward(text)]._listener.guest


def serving(body: Callable[[Served], Awaitable[None]], *, network: object = None) -> None:
    async def run() -> None:
        served = Served(network)
        try:
            await body(served)
        finally:
            await served.forwards.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rule", "at_start"),
    [
        ("0.0.0.0:80:one:80", False),
        ("0.0.0.0:80:80", False),
        ("0.0.0.0:80:192.168.64.5:80", True),
        ("[::]:80:[fd00::5]:80", True),
    ],
)
def test_the_system_has_rules_of_every_address_to_guests_of_its_version(rule: str, at_start: bool) -> None:
    assert is_for_the_system(parse_forward(rule))
    assert is_said_at_start(parse_forward(rule)) is at_start


@pytest.mark.parametrize(
    "rule", ["80:one:80", "10.0.0.1:80:one:80", "[::]:80:one:80", "0.0.0.0:80:[fd00::5]:80"]
)
def test_what_is_of_one_address_or_changes_the_version_is_none_of_the_system(rule: str) -> None:
    assert not is_for_the_system(parse_forward(rule)) and not is_said_at_start(parse_forward(rule))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_system_and_listener_lead_to_where_the_guest_is(protocol: str) -> None:
    host_port = free_port()
    rule = f"0.0.0.0:{host_port}:one:80/{protocol}"

    async def body(served: Served) -> None:
        await served.expose(rule)
        for address in (GUEST, ELSEWHERE, None, GUEST):
            await served.move(address)
            told = [one.internal_address for one in served.interface.rules]
            assert (told, served.listener_of(rule)) == ([IPv4Address(address)] if address else [], address)
        await served.forwards.unexpose(parse_forward(rule))
        assert not served.interface.rules and not served.state.rows and is_free(protocol, host_port)

    serving(body)


def test_what_the_system_refuses_no_listener_serves_either_until_it_is_taken() -> None:
    rule = f"0.0.0.0:{free_port()}:one:80"

    async def body(served: Served) -> None:
        await served.expose(rule)
        await served.move(GUEST)
        served.interface.refuses = True
        await served.move(ELSEWHERE)
        assert (served.interface.rules, served.listener_of(rule)) == ([], None)
        assert [info.state for info in served.forwards.infos()] == ["pending"]
        served.interface.refuses = False
        await served.forwards.guests_changed()
        assert served.listener_of(rule) == ELSEWHERE
        assert [info.state for info in served.forwards.infos()] == ["active"]

    serving(body)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_h7_a_taken_port_of_the_loopback_is_an_error_and_leaves_nothing(protocol: str) -> None:
    host_port = free_port(size=2)

    async def body(served: Served) -> None:
        await served.move(GUEST)
        with taken(protocol, host_port + 1), pytest.raises(HostPortInUse):
            await served.expose(f"0.0.0.0:{host_port}-{host_port + 1}:one:80-81/{protocol}")
        assert not served.interface.rules and not served.state.rows and not served.forwards.infos()
        assert is_free(protocol, host_port)

    serving(body)


def test_a_refusal_of_the_system_frees_the_port_again() -> None:
    host_port = free_port()

    async def body(served: Served) -> None:
        await served.move(GUEST)
        served.interface.refuses = True
        with pytest.raises(ServiceError):
            await served.expose(f"0.0.0.0:{host_port}:one:80")
        assert is_free("tcp", host_port) and not served.state.rows

    serving(body)


def test_a_rule_said_at_start_holds_for_other_machines_where_the_loopbacks_port_needs_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(rule: ForwardRule) -> None:
        raise PermissionDenied("ports below 1024 need root", fix="sudo")

    monkeypatch.setattr(listening, "hold", refused)
    rule = parse_forward(f"0.0.0.0:80:{GUEST}:80")

    async def body(served: Served) -> None:
        await served.forwards.start((rule,))
        assert [(info.path, info.state) for info in served.forwards.infos()] == [("vmnet", "active")]
        with pytest.raises(PermissionDenied):
            await served.expose("81:one:80")
        with pytest.raises(Unsupported, match="when the network was made"):
            await served.forwards.unexpose(rule)

    serving(body, network=object())


def test_counts_are_those_of_all_listeners_together() -> None:
    async def body(served: Served) -> None:
        assert served.forwards.stats() == {}
        for _ in range(2):
            await served.expose(f"{free_port()}:one:80")
        assert set(served.forwards.stats()) == {"active", *listening.COUNTERS}

    serving(body)
