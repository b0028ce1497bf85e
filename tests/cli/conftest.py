"""The command line without a network behind it: a manager that writes down what it was asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from click.testing import CliRunner, Result

import arcbox_net.manager as manager_module
from arcbox_net.cli.main import cli
from arcbox_net.config import NetConfig
from arcbox_net.errors import AlreadyRunning, HostPortInUse, NotRunning, PortNotFound
from arcbox_net.manager import NetnsAttachment, SocketAttachment, TapAttachment
from arcbox_net.network.messages import (
    DnsRecordInfo,
    EngineInfo,
    FlowInfo,
    ForwardInfo,
    LeaseInfo,
    NetworkStatus,
    PortInfo,
    Warning_,
)
from arcbox_net.rules import ForwardRule, parse_forward

VM1 = PortInfo(
    name="vm1", kind="tap", ifname="abx-0_1", mac="02:00:00:00:00:01", ip="192.168.64.2", state="up", mtu=1500
)


class FakeManager:
    """Stands in for NetworkManager. `asked` holds every call that changes something."""

    asked: ClassVar[list[tuple[Any, ...]]] = []
    running: ClassVar[set[str]] = set()
    leftovers: ClassVar[set[str]] = set()
    warnings: ClassVar[list[Warning_]] = []
    engine: ClassVar[EngineInfo | None] = None
    found_flows: ClassVar[list[FlowInfo]] = []
    taken_host_port: int | None = None
    socket_port: PortInfo | None = None

    def __init__(self, config: NetConfig | None = None, *, name: str | None = None) -> None:
        self.config = config or NetConfig()
        self.name = name or "net-1"
        self.state = "running"

    @classmethod
    def connect(cls, name: str) -> FakeManager:
        if name not in cls.running:
            raise NotRunning(
                f"network {name} is not running", fix=f"start it: arcbox-net up {name}", network=name
            )
        return cls(name=name)

    def start_detached(self) -> None:
        if self.name in self.running:
            raise AlreadyRunning(f"network {self.name} runs already (pid 7)", network=self.name, pid=7)
        self.asked.append(("start_detached", self.name, self.config))
        self.running.add(self.name)

    def stop(self) -> None:
        self.asked.append(("stop", self.name))
        self.running.discard(self.name)

    def status(self) -> NetworkStatus:
        return NetworkStatus(
            name=self.name,
            state="running",
            mode=self.config.mode.value,
            egress="masquerade",
            pid=7,
            uptime_s=61.0,
            bridge=f"abx-{self.name}",
            subnet="192.168.64.0/24",
            gateway="192.168.64.1",
            mtu=1500,
            dhcp=True,
            dns=True,
            domain=f"{self.name}.internal",
            owner="root",
            ports=[VM1],
            forwards=self.forwards(),
            warnings=self.warnings,
            engine=self.engine,
            leases=1,
            available_ips=252,
        )

    def ports(self) -> list[PortInfo]:
        return [self.socket_port or VM1]

    def leases(self) -> list[LeaseInfo]:
        return [LeaseInfo(ip="192.168.64.2", state="bound", mac=VM1.mac, hostname="vm1", expires_s=3599.5)]

    def forwards(self) -> list[ForwardInfo]:
        return [_forward(parse_forward("8080:vm1:80"))]

    def dns_records(self) -> list[DnsRecordInfo]:
        return [DnsRecordInfo(name="host.internal", addresses=["192.168.64.1"], source="builtin")]

    def expose(self, rule: ForwardRule | str) -> ForwardInfo:
        parsed = parse_forward(rule) if isinstance(rule, str) else rule
        if parsed.host_port == self.taken_host_port:
            raise HostPortInUse(f"host port {parsed.host_port} is taken", host_port=parsed.host_port)
        self.asked.append(("expose", str(parsed)))
        return _forward(parsed)

    def unexpose(self, rule: ForwardRule | str) -> None:
        self.asked.append(("unexpose", str(rule)))

    def attach_tap(self, name: str | None = None, **options: Any) -> TapAttachment:
        self.asked.append(("attach_tap", name, options))
        if options.get("persist"):
            return TapAttachment("vm1", VM1.ifname, VM1.mac, IPv4Address("192.168.64.2"), 1500, [])
        return self._tap(name or "guest0")

    def open_tap(self, name: str) -> TapAttachment:
        if name != VM1.name:
            raise PortNotFound(f"no port {name}", port=name, known=["vm1"])
        self.asked.append(("open_tap", name))
        return self._tap(name)

    def flows(self) -> list[FlowInfo]:
        return self.found_flows

    def _tap(self, name: str) -> TapAttachment:
        fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(2)]
        return TapAttachment(name, VM1.ifname, VM1.mac, IPv4Address("192.168.64.2"), 1500, fds)

    def attach_netns(self, target: str | int, **options: Any) -> NetnsAttachment:
        self.asked.append(("attach_netns", target, options))
        return NetnsAttachment("vm1", "eth0", VM1.ifname, VM1.mac, IPv4Address("192.168.64.2"), 1500)

    def attach_stream(self, socket: str, **options: Any) -> SocketAttachment:
        return self._socket("stream", socket, options)

    def attach_dgram(self, socket: str, **options: Any) -> SocketAttachment:
        return self._socket("dgram", socket, options)

    def attach_vhost_user(self, socket: str, **options: Any) -> SocketAttachment:
        return self._socket("vhost-user", socket, options)

    def _socket(self, kind: str, path: str, options: dict[str, Any]) -> SocketAttachment:
        self.asked.append((f"attach_{kind.replace('-', '_')}", path, options))
        port = self.socket_port = msgspec.structs.replace(
            VM1, kind=kind, socket=path, connects=options.get("connect", False)
        )
        ip, queues = IPv4Address("192.168.64.2"), options.get("queues") or 1
        return SocketAttachment(port.name, kind, path, port.connects, port.mac, ip, port.mtu, queues)

    def detach(self, name: str) -> None:
        if name != VM1.name:
            raise PortNotFound(
                f"no port {name} on {self.name}", fix="ports are vm1", port=name, known=["vm1"]
            )
        self.asked.append(("detach", name))

    def reserve(self, mac: str, ip: str, hostname: str | None = None) -> None:
        self.asked.append(("reserve", mac, ip, hostname))

    def release_lease(self, ip: str) -> None:
        self.asked.append(("release_lease", ip))

    def register_dns(self, name: str, *addresses: str) -> None:
        self.asked.append(("register_dns", name, addresses))

    def deregister_dns(self, name: str) -> None:
        self.asked.append(("deregister_dns", name))


def _forward(rule: ForwardRule) -> ForwardInfo:
    return ForwardInfo(
        rule=str(rule),
        protocol=rule.protocol,
        host_ip=rule.host_ip,
        host_port=rule.host_port,
        host_port_end=rule.host_port_end,
        guest=rule.guest,
        guest_ip="192.168.64.2",
        guest_port=rule.guest_port,
        guest_port_end=rule.guest_port_end,
        path="splice",
        state="active",
        client_address_preserved=False,
    )


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeManager]]:
    """The fake, in place of NetworkManager; the network `dev` runs."""
    monkeypatch.setenv("ARCBOX_NET_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    FakeManager.asked, FakeManager.running, FakeManager.warnings = [], {"dev"}, []
    FakeManager.engine = None
    FakeManager.leftovers, FakeManager.taken_host_port, FakeManager.found_flows = set(), None, []

    def remove_leftovers(name: str) -> bool:
        FakeManager.asked.append(("remove_leftovers", name))
        return name in FakeManager.leftovers

    monkeypatch.setattr(manager_module, "NetworkManager", FakeManager)
    monkeypatch.setattr(manager_module, "remove_leftovers", remove_leftovers)
    yield FakeManager


@pytest.fixture
def arcbox_net(manager: type[FakeManager]) -> Callable[..., Result]:
    """Runs `arcbox-net WORDS…`."""
    return lambda *words: CliRunner().invoke(cli, list(words), prog_name="arcbox-net")
