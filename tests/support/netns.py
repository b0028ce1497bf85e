"""Private "hosts" for tests that change a kernel: network namespaces that go away with everything in them.

    with Host() as host:                        # a namespace with lo up, and a `world` one veth away
        host.run("ip link add br0 type bridge")
        host.call(lambda: socket.socket(...))   # Python, in a thread that entered the namespace
        guest = host.namespace("guest")         # another one, removed together with the host

Names carry the pid of the test run, so that runs do not meet and a later one removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

PREFIX = "abxt"
NETNS_DIR = Path("/run/netns")
ETC_DIR = Path("/etc/netns")
WORLD_SUBNET = "203.0.113"  # TEST-NET-3: never a private range, so it never clashes with a network under test
COMMAND_TIMEOUT_S = 120.0
PATIENCE_S = 30.0  # for what is expected to happen: it costs nothing when it does
CLONE_NEWNET = 0x40000000

requires_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2 (network namespaces)"
)

_counter = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")
Command = str | Sequence[str]


def run_checked(
    argv: Sequence[str],
    what: str,
    *,
    check: bool,
    timeout: float,
    stdin: str | None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run *argv*; with `check`, a failure names *what* ran and shows all it printed."""
    done = subprocess.run(
        argv,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{what}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Namespace:
    """A named network namespace with lo up. Everything started in it ends with it."""

    def __init__(self, label: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_counter)}-{label}"
        self.path = str(NETNS_DIR / self.name)
        self._closed = False
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip link set lo up")

    def argv(self, command: Command) -> list[str]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        return ["ip", "netns", "exec", self.name, *words]

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        timeout: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* inside; with `check`, a failure shows the command and all it printed."""
        return run_checked(
            self.argv(command),
            f"{command!r} in {self.name}",
            check=check,
            timeout=timeout,
            env={**os.environ, **env} if env else None,
            stdin=stdin,
        )

    def popen(self, command: Command, **options: Any) -> subprocess.Popen[Any]:
        """Start *command* inside. It is killed with the namespace if it still runs then."""
        return subprocess.Popen(self.argv(command), **options)

    def json(self, command: Command) -> Any:
        """What *command* (such as `ip -j addr`) prints as JSON."""
        return json.loads(self.run(command).stdout or "[]")

    def call(self, function: Callable[[], T]) -> T:
        """The result of *function*, run in a thread that has entered the namespace and then ends."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(fd, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"setns {self.path}")
                finally:
                    os.close(fd)
                outcome.append(function())
            except BaseException as error:  # handed to the caller's thread
                failure.append(error)

        thread = threading.Thread(target=inside, name=self.name)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def open(self) -> int:
        """A new fd of the namespace; the caller closes it."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def links(self) -> dict[str, dict[str, Any]]:
        """`ip -d -j link` by interface name."""
        return {link["ifname"]: link for link in self.json("ip -d -j link")}

    def sysctl(self, name: str, value: object | None = None) -> str:
        """Read, or first set, a net sysctl such as `net.ipv4.ip_forward`."""
        path = Path("/proc/sys") / name.replace(".", "/")

        def access() -> str:
            if value is not None:
                path.write_text(str(value))
            return path.read_text().strip()

        return self.call(access)

    def etc(self, file: str, text: str) -> None:
        """Give commands run inside their own /etc/*file* (such as resolv.conf)."""
        directory = ETC_DIR / self.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(text)

    def pids(self) -> list[int]:
        """Processes inside, of which the test run itself may be one (a thread that entered counts)."""
        return _pids(self.name)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _remove(self.name)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Host(Namespace):
    """A machine of its own, and behind its uplink `world`: another namespace that it has a default route to.

    The host is `host_ip` on `uplink`, the world `world_ip` on `uplink_peer`. The world has no route back to
    guests, so what arrives there was translated.
    """

    uplink = "up0"
    uplink_peer = "w0"
    host_ip = f"{WORLD_SUBNET}.2"
    world_ip = f"{WORLD_SUBNET}.1"

    def __init__(self, *, world: bool = True) -> None:
        remove_stale()
        super().__init__("host")
        self._others: list[Namespace] = []
        self.world: Namespace = self
        if not world:
            return
        try:
            self.world = self.namespace("world")
            peer = f"peer name {self.uplink_peer} netns {self.world.name}"
            self.run(f"ip link add {self.uplink} type veth {peer}")
            self.run(f"ip addr add {self.host_ip}/24 dev {self.uplink}")
            self.run(f"ip link set {self.uplink} up")
            self.world.run(f"ip addr add {self.world_ip}/24 dev {self.uplink_peer}")
            self.world.run(f"ip link set {self.uplink_peer} up")
            self.run(f"ip route add default via {self.world_ip}")
        except BaseException:
            self.close()
            raise

    def namespace(self, label: str) -> Namespace:
        """Another namespace (a guest, a router), removed with the host."""
        created = Namespace(label)
        self._others.append(created)
        return created

    def close(self) -> None:
        for other in reversed(self._others):
            other.close()
        super().close()

    def __enter__(self) -> Host:
        return self


def wait_until(
    condition: Callable[[], T], *, timeout: float = PATIENCE_S, message: str = "", interval: float = 0.02
) -> T:
    """The first true value of *condition*; AssertionError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {message or condition}")
        time.sleep(interval)


def remove_stale() -> None:
    """Remove namespaces of test runs whose process is gone."""
    if not NETNS_DIR.is_dir():
        return
    for entry in os.listdir(NETNS_DIR):
        prefix, _, rest = entry.partition("-")
        pid = rest.partition("-")[0]
        if prefix == PREFIX and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _remove(entry)


def _pids(name: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split() if int(word) != os.getpid()]


def _remove(name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (left := _pids(name)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    shutil.rmtree(ETC_DIR / name, ignore_errors=True)
