"""NetworkManager: a network as an embedding program sees it. Spawns the network process and talks to it.

    with NetworkManager(NetConfig(mode=NetworkMode.NAT)) as manager:
        tap = manager.attach_tap("vm1")

A network that a manager starts ends with the manager's process, even when that is killed. One started with
`start_detached()` (what `arcbox-net up` does) stays until `stop()`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from arcbox_net import paths
from arcbox_net.attachments import NetnsAttachment, SocketAttachment, TapAttachment
from arcbox_net.config import NetConfig, NetworkMode
from arcbox_net.config_mapping import config_to_mapping
from arcbox_net.config_values import check_network_name
from arcbox_net.errors import AlreadyRunning, ArcboxNetError, NotRunning, Unsupported, from_json
from arcbox_net.host.platform import platform
from arcbox_net.network.client import Client
from arcbox_net.network.messages import (
    AllocateRequest,
    AttachRequest,
    AttachTap,
    DnsRecordInfo,
    DnsRecordRequest,
    FlowInfo,
    ForwardInfo,
    ForwardRequest,
    LeaseInfo,
    NetworkStatus,
    OpenTap,
    PortInfo,
    ReserveRequest,
)
from arcbox_net.network_process import (
    STOP_TIMEOUT_S,
    Process,
    end_network,
    is_running,
    remove_leftovers,
    run_network,
    running_networks,
    running_statuses,
)
from arcbox_net.rules import ForwardRule, parse_forward

_serial = itertools.count()
T = TypeVar("T")


class NetworkManager:
    """One network. Errors are those of `arcbox_net.errors`, raised here whichever process met them."""

    def __init__(self, config: NetConfig | None = None, *, name: str | None = None) -> None:
        self.config = config or NetConfig()
        wanted = name or self.config.name
        self._ephemeral = wanted is None
        self.name = check_network_name(wanted or f"net-{os.getpid():x}-{next(_serial):x}")
        self._client = Client(self.name)
        self._process: Process | None = None
        self._starting = threading.Lock()
        self._none_started = False

    @classmethod
    def connect(cls, name: str) -> NetworkManager:
        """The running network *name*. Raises NotRunning."""
        manager = cls(name=name)
        manager.status()
        return manager

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the network; it ends with this process. A second call does nothing.

        Raises SubnetConflict, PermissionDenied, HostPortInUse, InterfaceNotFound, AlreadyRunning …; then nothing
        is left behind.
        """
        with self._starting:
            if self._process is None or self._process.poll() is not None:
                self._spawn(detached=False)

    def start_detached(self) -> None:
        """Start the network so that it outlives this process. Raises AlreadyRunning, and what `start` raises."""
        self._spawn(detached=True)

    def stop(self) -> None:
        """Stop the network and wait until everything of it is gone. Does nothing when it is not running."""
        self._none_started = False
        process, self._process = self._process, None
        if process is None:
            self._stop_remote()
        else:
            end_network(self.name, process)

    @property
    def state(self) -> str:
        """`stopped`, `running`, or `failed`: the process ended by itself; `start` reconciles what it left."""
        if self.config.mode is NetworkMode.NONE:
            return "running" if self._none_started else "stopped"
        if self._process is not None:
            return "running" if self._process.poll() is None else "failed"
        return "running" if is_running(self.name) else "stopped"

    @property
    def pid(self) -> int | None:
        """The network process, None when there is none."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        try:
            return self.status().pid
        except NotRunning:
            return None

    def __enter__(self) -> NetworkManager:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- looking in ------------------------------------------------------------------------------------------

    def status(self) -> NetworkStatus:
        return self._get("/network", NetworkStatus)

    def stats(self) -> dict[str, Any]:
        """Counters: `uptime_s`, `ports`, `dhcp`, `dns`, `relay`, `host`, `firewall_drops`, `conntrack`…"""
        return self._get("/stats", dict[str, Any])

    def flows(self) -> list[FlowInfo]:
        """Connections of guests to the outside, those that ended lately with their reason."""
        return self._get("/flows", list[FlowInfo])

    # -- addresses -------------------------------------------------------------------------------------------

    def allocate_ip(
        self, ip: str | IPv4Address | None = None, *, mac: str | None = None, hostname: str | None = None
    ) -> IPv4Address:
        """A free guest address, or *ip* itself; DHCP gives it to nobody else, and to *mac* if given."""
        request = AllocateRequest(ip=_text(ip), mac=mac, hostname=hostname)
        return IPv4Address(self._post("/addresses", request, LeaseInfo).ip)

    def release_ip(self, ip: str | IPv4Address) -> None:
        """Give an address back. Raises AddressNotFound."""
        self._call("DELETE", _path("addresses", ip))

    def available_ips(self) -> int:
        """How many addresses of the pool are free."""
        return self.status().available_ips

    def leases(self) -> list[LeaseInfo]:
        return self._get("/leases", list[LeaseInfo])

    def reserve(self, mac: str, ip: str | IPv4Address, hostname: str | None = None) -> LeaseInfo:
        """Keep *ip* for *mac*, also after restarts. Raises AddressInUse."""
        return self._post("/reservations", ReserveRequest(mac=mac, ip=str(ip), hostname=hostname), LeaseInfo)

    def release_lease(self, ip: str | IPv4Address) -> None:
        """Forget a lease or reservation. Raises AddressNotFound."""
        self._call("DELETE", _path("leases", ip))

    # -- guests ----------------------------------------------------------------------------------------------

    def attach_tap(
        self,
        name: str | None = None,
        *,
        mac: str | None = None,
        ip: str | IPv4Address | None = None,
        hostname: str | None = None,
        queues: int | None = None,
        persist: bool = False,
        owner_uid: int | None = None,
    ) -> TapAttachment:
        """A TAP for a VM. With *persist* it stays until `detach` and is opened by name by *owner_uid*; no fds then."""
        address = _text(ip)
        fds: list[int] = []
        if persist:
            request = AttachRequest(
                kind="tap",
                name=name,
                mac=mac,
                ip=address,
                hostname=hostname,
                queues=queues,
                owner_uid=owner_uid,
            )
            port = self._post("/ports", request, PortInfo)
        else:
            self._refuse_mode_none()
            wanted = AttachTap(name=name, mac=mac, ip=address, hostname=hostname, queues=queues)
            reply, fds = self._client.request_fds(wanted)
            assert reply.port is not None
            port = reply.port
        return TapAttachment.of(port, fds)

    def open_tap(self, name: str) -> TapAttachment:
        """The queues of the attached TAP *name* once more, such as for a monitor that was restarted."""
        self._refuse_mode_none()
        reply, fds = self._client.request_fds(OpenTap(name=name))
        assert reply.port is not None
        return TapAttachment.of(reply.port, fds)

    def attach_netns(
        self,
        target: str | int,
        *,
        name: str | None = None,
        mac: str | None = None,
        ip: str | IPv4Address | None = None,
        hostname: str | None = None,
        ifname: str = "eth0",
        configure: bool = True,
    ) -> NetnsAttachment:
        """Put *ifname* into the network namespace at a path (or of a pid); *configure* sets address and route."""
        request = AttachRequest(
            kind="netns",
            name=name,
            mac=mac,
            ip=_text(ip),
            hostname=hostname,
            netns=target if isinstance(target, str) else None,
            pid=target if isinstance(target, int) else None,
            ifname=ifname,
            configure=configure,
        )
        port = self._post("/ports", request, PortInfo)
        return NetnsAttachment.of(port, ifname)

    def attach_stream(
        self,
        socket: str | Path,
        *,
        name: str | None = None,
        connect: bool = False,
        mac: str | None = None,
        ip: str | IPv4Address | None = None,
        hostname: str | None = None,
        owner_uid: int | None = None,
        holder: int | None = None,
    ) -> SocketAttachment:
        """A guest whose frames come over a unix stream socket, each after its length in 4 bytes (`-netdev stream`).

        We listen at *socket*, also for *owner_uid*, or *connect* to it, as often as the guest comes back. The port
        goes with process *holder*, if one is named, else with `detach`.
        """
        request = AttachRequest(
            "stream", name, mac, _text(ip), hostname, connect=connect, owner_uid=owner_uid
        )
        return self._attach_socket(request, socket, holder)

    def attach_dgram(
        self,
        socket: str | Path,
        *,
        name: str | None = None,
        remote: str | Path | None = None,
        mac: str | None = None,
        ip: str | IPv4Address | None = None,
        hostname: str | None = None,
        owner_uid: int | None = None,
        holder: int | None = None,
    ) -> SocketAttachment:
        """A guest each of whose frames is a datagram (vfkit, krunkit, libkrun, `-netdev dgram`).

        The peer is at *remote*, or whoever sends to *socket* first.
        """
        request = AttachRequest(
            "dgram", name, mac, _text(ip), hostname, remote=_text(remote), owner_uid=owner_uid
        )
        return self._attach_socket(request, socket, holder)

    def attach_vhost_user(
        self,
        socket: str | Path,
        *,
        name: str | None = None,
        connect: bool = False,
        mac: str | None = None,
        ip: str | IPv4Address | None = None,
        hostname: str | None = None,
        queues: int | None = None,
        owner_uid: int | None = None,
        holder: int | None = None,
    ) -> SocketAttachment:
        """A guest whose memory is shared with us (`-netdev vhost-user`), with up to *queues* queue pairs.

        Its memory must be a sealed memfd: in QEMU `memory-backend-memfd,share=on`.
        """
        request = AttachRequest(
            "vhost-user", name, mac, _text(ip), hostname, connect=connect, queues=queues, owner_uid=owner_uid
        )
        return self._attach_socket(request, socket, holder)

    def _attach_socket(
        self, request: AttachRequest, socket: str | Path, holder: int | None
    ) -> SocketAttachment:
        path = os.path.abspath(socket)
        remote = os.path.abspath(request.remote) if request.remote is not None else None
        port = self._post(
            "/ports", msgspec.structs.replace(request, socket=path, remote=remote, pid=holder), PortInfo
        )
        return SocketAttachment.of(port, path)

    def detach(self, name: str) -> None:
        """Remove a guest port and its device. Raises PortNotFound."""
        self._call("DELETE", _path("ports", name))

    def ports(self) -> list[PortInfo]:
        return self._get("/ports", list[PortInfo])

    # -- forwards and names ----------------------------------------------------------------------------------

    def expose(self, rule: ForwardRule | str) -> ForwardInfo:
        """Forward a host port to a guest. Raises HostPortInUse, ForwardExists."""
        parsed = parse_forward(rule) if isinstance(rule, str) else rule
        return self._post("/forwards", ForwardRequest(rule=str(parsed)), ForwardInfo)

    def unexpose(self, rule: ForwardRule | str) -> None:
        """Stop forwarding. Raises ForwardNotFound."""
        parsed = parse_forward(rule) if isinstance(rule, str) else rule
        self._call("DELETE", "/forwards", rule=str(parsed))

    def forwards(self) -> list[ForwardInfo]:
        return self._get("/forwards", list[ForwardInfo])

    def register_dns(self, name: str, *addresses: str | IPv4Address) -> DnsRecordInfo:
        """Answer *name* with *addresses* on this network. Raises RecordExists."""
        request = DnsRecordRequest(name=name, addresses=[str(address) for address in addresses])
        return self._post("/dns", request, DnsRecordInfo)

    def deregister_dns(self, name: str) -> None:
        """Raises RecordNotFound."""
        self._call("DELETE", _path("dns", name))

    def dns_records(self) -> list[DnsRecordInfo]:
        return self._get("/dns", list[DnsRecordInfo])

    # -- plumbing --------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        self._refuse_mode_none()
        return self._client.call(method, path, body, **query)

    def _get(self, path: str, kind: type[T]) -> T:
        return msgspec.convert(self._call("GET", path), kind)

    def _post(self, path: str, body: Any, kind: type[T]) -> T:
        return msgspec.convert(self._call("POST", path, body), kind)

    def _refuse_mode_none(self) -> None:
        if self.config.mode is NetworkMode.NONE:
            raise Unsupported(
                "a network of mode NONE has no addresses, ports or services",
                fix="use another mode",
                feature="mode none",
            )

    def _spawn(self, *, detached: bool) -> None:
        if self.config.mode is NetworkMode.NONE:
            self._none_started = True
            return
        arguments = [] if detached else ["--parent", str(os.getpid())]
        if self._ephemeral:
            arguments.append("--ephemeral")
        process, answer = run_network(self.name, arguments, config_to_mapping(self.config))
        if "error" in answer:
            process.wait()
            raise from_json(answer["error"])
        if detached:
            process.returncode = 0  # it is not ours to wait for
        else:
            self._process = process

    def _stop_remote(self) -> None:
        try:
            pid = self.status().pid
            end = platform().watch_process(pid)
        except (NotRunning, Unsupported, ProcessLookupError):
            return
        try:
            with contextlib.suppress(NotRunning):
                self._client.call("DELETE", "/network")
            if not end.wait(STOP_TIMEOUT_S):
                raise ArcboxNetError(
                    f"network {self.name} (pid {pid}) does not stop",
                    fix=f"kill -9 {pid}, then arcbox-net down {self.name}",
                    network=self.name,
                    pid=pid,
                )
        finally:
            end.close()
        if paths.runtime_dir(self.name).exists():  # its end failed
            with contextlib.suppress(AlreadyRunning):
                remove_leftovers(self.name)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _path(collection: str, item: object) -> str:
    return f"/{collection}/{quote(str(item), safe='')}"


__all__ = [
    "NetnsAttachment",
    "NetworkManager",
    "SocketAttachment",
    "TapAttachment",
    "is_running",
    "remove_leftovers",
    "running_networks",
    "running_statuses",
]
