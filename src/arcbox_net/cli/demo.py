"""`arcbox-net demo`: the whole thing at work on this machine: no image, no internet, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import click

from arcbox_net.cli import common, output

if TYPE_CHECKING:
    from arcbox_net.host.linux.guest_process import GuestProcess
    from arcbox_net.manager import NetworkManager

BODY_BYTES = 16 << 20
SPEED_S = 1.0
GUEST = "guest"
STATIC_NAME, STATIC_ADDRESS = "printer", "198.51.100.7"  # TEST-NET-2: nobody's address
COLUMNS = (14, 58, 9)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    step: str
    result: str
    ok: bool
    seconds: float
    facts: dict[str, Any]


@click.command("demo")
@common.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Bring a network up, put a guest on it, and show every part working. Takes a few seconds.

    The guest is a process in a network namespace of its own: it gets its address by DHCP like a VM would,
    resolves names, fetches from an HTTP server on this host, is fetched from through a forwarded port, and
    measures TCP speed (with iperf3 where it is installed). Exits with 1 when a step fails, and removes
    everything it made.
    """
    common.require_admin("demo")
    demo = Demo(quiet=as_json)
    started = time.monotonic()
    demo.run()
    took = time.monotonic() - started
    failed = [row for row in demo.rows if not row.ok]
    if as_json:
        output.print_json(
            {"ok": not failed, "seconds": took, "steps": [dataclasses.asdict(row) for row in demo.rows]}
        )
    else:
        click.echo()
        verdict = (
            f"{len(failed)} of {len(demo.rows)} steps failed"
            if failed
            else f"all {len(demo.rows)} steps passed"
        )
        click.echo(output.style(verdict, bold=True, fg="red" if failed else "green") + f" in {took:.1f} s")
    ctx.exit(1 if failed else 0)


class Demo:
    """Runs the steps in order and keeps their rows. The first failure that later steps build on ends it."""

    def __init__(self, *, quiet: bool) -> None:
        self.rows: list[Row] = []
        self._quiet = quiet
        self._stack = contextlib.ExitStack()

    def run(self) -> None:
        if not self._quiet:
            self._line("step", "result", "time", "", bold=True)
        with self._stack, contextlib.suppress(_Ended):
            self._steps()
        return

    def _steps(self) -> None:
        from arcbox_net.cli.demo_guest import http_server

        body = os.urandom(BODY_BYTES)
        web = self._stack.enter_context(contextlib.closing(_Closing(http_server("127.0.0.1", body))))
        speed = self._stack.enter_context(_speed_server())
        manager = self._step("network", lambda: self._start(web.l4_port, speed.l4_port))
        guest = self._step("guest", lambda: self._guest(manager))
        lease = self._step("DHCP", lambda: self._dhcp(guest))
        status = manager.status()
        for name, expected in (
            (f"{GUEST}.{status.domain}", lease["ip"]),
            ("host.internal", status.gateway),
            (f"{STATIC_NAME}.{status.domain}", STATIC_ADDRESS),
        ):
            self._step(
                "name",
                lambda name=name, expected=expected: self._resolve(guest, name, expected),
                needed=False,
            )
        self._step("outbound HTTP", lambda: self._outbound(guest, web.l4_port, body), needed=False)
        self._step("inbound HTTP", lambda: self._inbound(guest, manager, lease["ip"]), needed=False)
        for reverse in (False, True):
            self._step(
                "from the host" if reverse else "to the host",
                lambda reverse=reverse: self._speed(guest, speed, status.gateway, reverse),
                needed=False,
            )
        self._step("clean-up", lambda: self._clean(manager), needed=False)

    def _start(self, http_port: int, speed_port: int) -> tuple[NetworkManager, str]:
        from arcbox_net.config import DnsConfig, HostAccess, NetConfig
        from arcbox_net.manager import NetworkManager

        name = f"demo-{os.getpid()}"
        config = NetConfig(
            host_access=(HostAccess("tcp", http_port), HostAccess("tcp", speed_port)),
            dns=DnsConfig(records={STATIC_NAME: (STATIC_ADDRESS,)}),
        )
        manager = NetworkManager(config, name=name)
        manager.start()
        self._stack.callback(manager.stop)
        status = manager.status()
        return manager, f"{name}: {status.mode} {status.subnet}, gateway {status.gateway}"

    def _guest(self, manager: NetworkManager) -> tuple[_Guest, str]:
        guest = self._stack.enter_context(contextlib.closing(_Guest()))
        port = manager.attach_netns(guest.process.pid, name=GUEST, hostname=GUEST, configure=False)
        guest.process.release({})
        return guest, f"a namespace with {port.ifname}, {port.mac}"

    def _dhcp(self, guest: _Guest) -> tuple[dict[str, Any], str]:
        lease = guest.ask(step="dhcp", hostname=GUEST)
        term = output.duration_text(lease["lease_s"])
        return lease, f"{lease['ip']} for {term} from {lease['server']}, MTU {lease['mtu']}"

    def _resolve(self, guest: _Guest, name: str, expected: str | None) -> tuple[dict[str, Any], str]:
        answer = guest.ask(step="resolve", name=name)
        if answer["addresses"] != [expected]:
            raise _Wrong(f"{name} is {', '.join(answer['addresses'])}, expected {expected}")
        return {"name": name, **answer}, f"{name} is {expected}"

    def _outbound(self, guest: _Guest, http_port: int, body: bytes) -> tuple[dict[str, Any], str]:
        answer = guest.ask(step="fetch", host="host.internal", http_port=http_port, path="/body")
        return answer, _checked(answer, hashlib.sha256(body).hexdigest(), f"from host.internal:{http_port}")

    def _inbound(self, guest: _Guest, manager: NetworkManager, ip: str) -> tuple[dict[str, Any], str]:
        from arcbox_net.cli.demo_guest import get

        served = guest.ask(step="serve_http", host=ip, size=BODY_BYTES)
        host_port = _free_l4_port()
        forward = manager.expose(f"127.0.0.1:{host_port}:{GUEST}:{served['http_port']}")
        answer = get("127.0.0.1", host_port, "/body")
        answer["forward"] = forward.rule
        return answer, _checked(answer, served["sha256"], f"through 127.0.0.1:{host_port}")

    def _speed(
        self, guest: _Guest, speed: _SpeedServer, gateway: str | None, reverse: bool
    ) -> tuple[dict[str, Any], str]:
        answer = guest.ask(
            step="speed",
            host=gateway,
            speed_port=speed.l4_port,
            seconds=SPEED_S,
            reverse=reverse,
            tool=speed.tool,
        )
        return answer, f"{answer['gbit_s']:.1f} Gbit/s TCP ({answer['tool']})"

    def _clean(self, manager: NetworkManager) -> tuple[dict[str, Any], str]:
        self._stack.close()
        left = [name for name in _interfaces() if name.startswith("abx-") and name in self._made(manager)]
        if left:
            raise _Wrong(f"left behind: {', '.join(left)}")
        return {}, "guest, interfaces, rules and the network are gone"

    def _made(self, manager: NetworkManager) -> set[str]:
        from arcbox_net.host.plan import bridge_ifname, port_ifname

        return {bridge_ifname(manager.name), *(port_ifname(manager.name, i) for i in range(8))}

    def _step(self, name: str, run: Callable[[], tuple[Any, str]], *, needed: bool = True) -> Any:
        from arcbox_net.errors import ArcboxNetError

        started = time.monotonic()
        value: Any = None
        try:
            value, result = run()
            ok = True
        except (_Wrong, ArcboxNetError, OSError, ValueError) as error:
            result, ok = str(error), False
        facts = value if isinstance(value, dict) else {}
        row = Row(name, result, ok, time.monotonic() - started, facts)
        self.rows.append(row)
        if not self._quiet:
            self._line(row.step, row.result, _time_text(row.seconds), "ok" if ok else "FAILED", ok=ok)
        if needed and not ok:
            raise _Ended
        return value

    def _line(
        self, step: str, result: str, took: str, mark: str, *, ok: bool = True, bold: bool = False
    ) -> None:
        text = f"{step.ljust(COLUMNS[0])}  {result.ljust(COLUMNS[1])}  {took.rjust(COLUMNS[2])}"
        shown = output.style(mark, fg="green" if ok else "red", bold=not ok)
        click.echo(output.style(text, bold=True) if bold else f"{text}  {shown}".rstrip())
        sys.stdout.flush()


class _Wrong(Exception):
    """A step ran and its result is not what it must be."""


class _Ended(Exception):
    """A step failed that the others need."""


class _Guest:
    """A process in its own namespace that does what `ask` says."""

    def __init__(self) -> None:
        from arcbox_net.host.linux.guest_process import GuestProcess

        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self._answers: IO[str] = os.fdopen(ours_in)
        self._requests: IO[str] = os.fdopen(ours_out, "w")

        def body(_order: dict[str, Any]) -> int:
            from arcbox_net.cli.demo_guest import serve
            from arcbox_net.host.linux import guest_process

            os.close(ours_out)
            guest_process.started()
            with os.fdopen(theirs_in) as requests, os.fdopen(theirs_out, "w") as answers:
                return serve(requests, answers)

        self.process: GuestProcess = GuestProcess.fork(body)
        os.close(theirs_in)
        os.close(theirs_out)

    def ask(self, **request: Any) -> dict[str, Any]:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        line = self._answers.readline()
        if not line:
            raise _Wrong("the guest process ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _Wrong(answer["error"])
        return answer

    def close(self) -> None:
        self._requests.close()
        self._answers.close()
        self.process.kill()


class _Closing:
    """An HTTP server with the `close` that `contextlib.closing` wants."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.l4_port: int = server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclasses.dataclass(frozen=True, slots=True)
class _SpeedServer:
    """Where the guest measures: iperf3 (`tool` is its path) or our own."""

    l4_port: int
    tool: str | None


@contextlib.contextmanager
def _speed_server() -> Any:
    tool = shutil.which("iperf3")
    if tool is None:
        from arcbox_net.netspeed import SpeedServer

        with SpeedServer("127.0.0.1") as server:
            yield _SpeedServer(server.port, None)
        return
    import signal

    l4_port = _free_l4_port()
    devnull = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(
        tool, [tool, "-s", "-B", "127.0.0.1", "-p", str(l4_port)], dict(os.environ), file_actions=[devnull]
    )
    try:
        yield _SpeedServer(l4_port, tool)
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _checked(answer: dict[str, Any], sha256: str, where: str) -> str:
    if answer["status"] != 200 or answer["sha256"] != sha256:
        raise _Wrong(f"HTTP {answer['status']}, {answer['bytes']} bytes {where}: SHA-256 differs")
    return f"{output.bytes_text(answer['bytes'])} {where}, SHA-256 {sha256[:8]}… equal"


def _free_l4_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _interfaces() -> list[str]:
    import socket

    return [name for _, name in socket.if_nameindex()]


def _time_text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
