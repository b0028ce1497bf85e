"""`arcbox-net demo`: all of it at work on this machine: no image, no internet, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from arcbox_net.cli import common, output
from arcbox_net.config import Egress
from arcbox_net.errors import ArcboxNetError

if TYPE_CHECKING:
    from arcbox_net.cli.demo_guest import Guest
    from arcbox_net.cli.demo_speed import Speed
    from arcbox_net.manager import NetworkManager
    from arcbox_net.network.messages import NetworkStatus

T = TypeVar("T")

BODY_BYTES = 16 << 20
SPEED_S = 1.0
GUEST = "guest"
STATIC_NAME, STATIC_ADDRESS = "printer", "198.51.100.7"  # TEST-NET-2: nobody's address
COLUMNS = (13, 60, 7)
KINDS = {
    Egress.MASQUERADE: "egress masquerade: the kernel forwards, which takes root",
    Egress.RELAY: "egress relay: in a private namespace, which takes no privilege",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `facts`: the numbers in it, for --json."""

    step: str
    ok: bool
    result: str
    seconds: float
    facts: dict[str, Any]


@click.command("demo")
@common.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Bring a network up, put a guest on it, and show every part working. Takes a few seconds.

    The guest is a process in a network namespace of its own: it gets its address by DHCP like a VM would,
    resolves names, fetches from an HTTP server on this host, is fetched from through a forwarded port, and
    measures TCP speed (with iperf3 where it is installed). An ordinary user sees the network that needs no
    privilege; root sees both kinds, one after the other. Exits with 1 when a step fails, and removes everything
    it made.
    """
    common.require_guests("netns", "demo")
    tables: dict[Egress, Table] = {}
    started = time.monotonic()
    for egress in (Egress.MASQUERADE, Egress.RELAY) if common.is_admin() else (Egress.RELAY,):
        tables[egress] = Table(KINDS[egress], shown=not as_json)
        with contextlib.suppress(_CannotGoOn):
            run(tables[egress], egress)
    took = time.monotonic() - started
    rows = [row for table in tables.values() for row in table.rows]
    failed = sum(not row.ok for row in rows)
    if as_json:
        networks = [
            {"egress": egress.value, "steps": [dataclasses.asdict(row) for row in table.rows]}
            for egress, table in tables.items()
        ]
        output.print_json({"ok": failed == 0, "seconds": round(took, 3), "networks": networks})
    else:
        verdict = f"{failed} of {len(rows)} steps failed" if failed else f"all {len(rows)} steps passed"
        colour = "red" if failed else "green"
        click.echo(output.style(verdict, bold=True, fg=colour) + f" in {took:.1f} s")
    ctx.exit(1 if failed else 0)


class Table:
    """Runs steps and shows each as a row when it is done."""

    def __init__(self, title: str, *, shown: bool) -> None:
        self.rows: list[Row] = []
        self._shown = shown
        if shown:
            click.echo(title)
            click.echo(output.style(_line("step", "result", "time"), bold=True))

    def end(self) -> None:
        if self._shown:
            click.echo()

    def need(self, step: str, run: Callable[[], tuple[T, str, dict[str, Any]]]) -> T:
        """Run a step that later ones build on, and return what it made."""
        made = self._run(step, run)
        if made is None:
            raise _CannotGoOn
        return made

    def show(self, step: str, run: Callable[[], tuple[str, dict[str, Any]]]) -> None:
        """Run a step whose failure does not keep the others from running."""
        self._run(step, lambda: (True, *run()))

    def _run(self, step: str, run: Callable[[], tuple[T, str, dict[str, Any]]]) -> T | None:
        from arcbox_net.cli.demo_guest import GuestError

        started = time.monotonic()
        made: T | None = None
        facts: dict[str, Any] = {}
        try:
            made, result, facts = run()
        except (_Wrong, GuestError, ArcboxNetError, OSError, ValueError) as error:
            result = str(error)
        row = Row(step, made is not None, result, time.monotonic() - started, facts)
        self.rows.append(row)
        if self._shown:
            mark = output.style("ok", fg="green") if row.ok else output.style("FAILED", fg="red", bold=True)
            click.echo(_line(step, result, _time_text(row.seconds)) + "  " + mark)
            sys.stdout.flush()
        return made


def run(table: Table, egress: Egress) -> None:
    """Every step, in order. What one makes is removed when this returns, however it returns."""
    from arcbox_net.cli.demo_http import BodyServer
    from arcbox_net.cli.demo_speed import serving

    with contextlib.ExitStack() as stack:
        web = stack.enter_context(contextlib.closing(BodyServer("127.0.0.1", os.urandom(BODY_BYTES))))
        speed = stack.enter_context(serving())
        manager, status = table.need("network", partial(_network, stack, egress, web.l4_port, speed.l4_port))
        guest = table.need("guest", partial(_guest, stack, manager, status.pid))
        lease = table.need("DHCP", partial(_dhcp, guest))
        names = {
            f"{GUEST}.{status.domain}": lease["ip"],
            "host.internal": str(status.gateway),
            f"{STATIC_NAME}.{status.domain}": STATIC_ADDRESS,
        }
        for name, address in names.items():
            table.show("name", partial(_name, guest, name, address))
        table.show("outbound HTTP", partial(_outbound, guest, web))
        table.show("inbound HTTP", partial(_inbound, guest, manager, lease["ip"]))
        for reverse in (False, True):
            table.show("speed", partial(_speed, guest, speed, str(status.gateway), reverse))
        table.show("clean-up", partial(_clean_up, stack, manager, status))
    table.end()


class _Wrong(Exception):
    """A step ran, and what came out is not what must come out."""


class _CannotGoOn(Exception):
    """A step failed that the others build on."""


def _network(
    stack: contextlib.ExitStack, egress: Egress, *host_ports: int
) -> tuple[tuple[NetworkManager, NetworkStatus], str, dict[str, Any]]:
    from arcbox_net.config import HostAccess, NetConfig
    from arcbox_net.config_dns import DnsConfig
    from arcbox_net.manager import NetworkManager

    config = NetConfig(
        egress=egress,
        host_access=tuple(HostAccess("tcp", number) for number in host_ports),
        dns=DnsConfig(records={STATIC_NAME: (STATIC_ADDRESS,)}),
    )
    manager = NetworkManager(config)
    stack.enter_context(manager)
    status = manager.status()
    facts = {"name": status.name, "subnet": status.subnet, "gateway": status.gateway, "egress": status.egress}
    return (manager, status), f"{status.mode} {status.subnet}, gateway {status.gateway}", facts


def _guest(
    stack: contextlib.ExitStack, manager: NetworkManager, network_pid: int
) -> tuple[Guest, str, dict[str, Any]]:
    from arcbox_net.cli.demo_guest import IFNAME, Guest

    guest = stack.enter_context(contextlib.closing(Guest(network_pid)))
    port = manager.attach_netns(guest.process.pid, name=GUEST, ifname=IFNAME, configure=False)
    guest.process.release({})
    return guest, f"a network namespace with {port.ifname}, {port.mac}", {"mac": port.mac}


def _dhcp(guest: Guest) -> tuple[dict[str, Any], str, dict[str, Any]]:
    lease = guest.ask(step="dhcp", hostname=GUEST)
    term = output.duration_text(lease["lease_s"])
    return lease, f"{lease['ip']} from {lease['server']} for {term}, MTU {lease['mtu']}", lease


def _name(guest: Guest, name: str, expected: str) -> tuple[str, dict[str, Any]]:
    found = guest.ask(step="resolve", name=name)["addresses"]
    if found != [expected]:
        raise _Wrong(f"{name} is {', '.join(found)}, not {expected}")
    return f"{name} is {expected}", {"name": name, "addresses": found}


def _outbound(guest: Guest, web: Any) -> tuple[str, dict[str, Any]]:
    arrived = guest.ask(step="fetch", host="host.internal", l4_port=web.l4_port)
    return _same(arrived, web.sha256, f"from host.internal:{web.l4_port}"), arrived


def _inbound(guest: Guest, manager: NetworkManager, ip: str) -> tuple[str, dict[str, Any]]:
    from arcbox_net.cli.demo_http import fetch
    from arcbox_net.cli.demo_speed import free_l4_port

    served = guest.ask(step="serve", host=ip, size=BODY_BYTES)
    host_port = free_l4_port()
    forward = manager.expose(f"127.0.0.1:{host_port}:{GUEST}:{served['l4_port']}")
    arrived = fetch("127.0.0.1", host_port)
    said = _same(arrived, served["sha256"], f"through 127.0.0.1:{host_port}")
    return said, {**arrived, "forward": forward.rule}


def _same(arrived: dict[str, Any], sha256: str, way: str) -> str:
    if arrived["status"] != 200 or arrived["sha256"] != sha256:
        raise _Wrong(f"HTTP {arrived['status']}, {arrived['bytes']} bytes {way}, and the SHA-256 differs")
    return f"{output.bytes_text(arrived['bytes'])} {way}, SHA-256 equal"


def _speed(guest: Guest, speed: Speed, gateway: str, reverse: bool) -> tuple[str, dict[str, Any]]:
    found = guest.ask(
        step="speed", host=gateway, l4_port=speed.l4_port, tool=speed.tool, seconds=SPEED_S, reverse=reverse
    )
    way = "host to guest" if reverse else "guest to host"
    return f"{found['gbit_s']:.1f} Gbit/s TCP {way} ({found['tool']})", {"way": way, **found}


def _clean_up(
    stack: contextlib.ExitStack, manager: NetworkManager, status: NetworkStatus
) -> tuple[str, dict[str, Any]]:
    import socket

    ours = {status.bridge, *(port.ifname for port in manager.ports())}
    stack.close()
    left = [name for _, name in socket.if_nameindex() if name in ours]
    if left or manager.state != "stopped":
        raise _Wrong(f"left behind: {', '.join(left) or 'the network process'}")
    return "guest, interfaces, rules and network are gone", {}


def _line(step: str, result: str, took: str) -> str:
    return f"{step.ljust(COLUMNS[0])}  {result.ljust(COLUMNS[1])}  {took.rjust(COLUMNS[2])}"


def _time_text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
