"""Ways for a guest of an ordinary user to the network, each on a machine of its own, ready to be measured.

Every machine is a host namespace, a world behind its uplink, and a guest namespace. The tool under test runs as an
ordinary user of its own on the host; only the commands that measure enter the guest as root. They set cubic on their
sockets. For the sockets of the tools the default is reno, which every namespace may have, as bbr paces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.nat import by_hand
from tests.support.netns import Host, Namespace, wait_until
from tests.support.user import FIRST_UID, UIDS, User

SERVER = f"{Host.host_ip.rpartition('.')[0]}.9"  # not the host's gateway, which pasta takes for its own
IPERF_PORTS = (5201, 5202)
SPEED_PORT = 5301
CONNECTIONS_PORT = 5302
HOST_PORTS = (*IPERF_PORTS, SPEED_PORT, CONNECTIONS_PORT)
CAP_BYTES = 256 * 1024
MTU_MAX = 65520
CONGESTION_CONTROL = os.environ.get("ABX_BENCH_CC", "reno")
# Each tool has a user to itself: the pipes of all programs of a user share one limit, which a pasta uses up.
UNUSED_UIDS = itertools.count(FIRST_UID + os.getpid() % (UIDS // 2))
Setup = Callable[[Path], "contextlib.AbstractContextManager[Contender]"]


@dataclasses.dataclass
class Contender:
    """`enter`: the words before a command that make it the guest's. `loopback`: where the guest meets 127.0.0.1 of
    the host. `pids`: the processes of the tool.
    """

    enter: list[str]
    loopback: str | None = None
    pids: tuple[int, ...] = ()

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """What the command prints in the guest. RuntimeError when it fails."""
        done = subprocess.run(
            [*self.enter, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.enter, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )

    def cpu_s(self) -> float:
        """User and system time of the tool so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, field: str) -> float:
        """`VmRSS` (now) or `VmHWM` (the most ever) of the tool."""
        total = 0
        for pid in self.pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
        return total * 1024 / 1e6


def available(pasta: str | None, gvproxy: str | None) -> tuple[dict[str, Setup], list[str]]:
    """Every contender that can run here, and why others cannot. *pasta*: a build of its own; *gvproxy*: the folder
    of `gvproxy` and `gvforwarder`.
    """
    found: dict[str, Setup] = {
        "arcbox-net": ours(1500),
        "arcbox-net mtu 65520": ours(MTU_MAX),
    }
    missing = []
    if pasta and shutil.which(pasta):
        found["pasta"] = with_pasta(pasta, MTU_MAX)
        found["pasta capped"] = with_pasta(pasta, MTU_MAX, capped=True)
        found["pasta mtu 1500"] = with_pasta(pasta, 1500)
    else:
        missing.append("pasta from source: give its path with --pasta or ABX_BENCH_PASTA")
    if packaged := shutil.which("pasta"):
        found["pasta packaged"] = with_pasta(packaged, MTU_MAX)
    else:
        missing.append("pasta of the distribution: apt-get install passt")
    if slirp := shutil.which("slirp4netns"):
        found["slirp4netns"] = with_slirp(slirp, 1500)
        found["slirp4netns mtu 65520"] = with_slirp(slirp, MTU_MAX)
    else:
        missing.append("slirp4netns: apt-get install slirp4netns")
    if gvproxy and (Path(gvproxy) / "gvforwarder").exists():
        found["gvproxy"] = with_gvproxy(Path(gvproxy), 1500)
    else:
        missing.append(
            "gvproxy: give the folder of gvproxy and gvforwarder with --gvproxy or ABX_BENCH_GVPROXY"
        )
    found["kernel NAT"] = kernel_nat
    found["veth"] = veth
    return found, missing


def ours(mtu: int) -> Setup:
    """The command line, as a user: `up` with the measured ports of the host's loopback open, and `run`."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Contender]:
        with machine() as host:
            user = User(host, directory, next(UNUSED_UIDS))
            access = [
                word for port in (*HOST_PORTS, f"{SPEED_PORT}/udp") for word in ("--host-access", str(port))
            ]
            user.cli("up", "bench", "--mtu", str(mtu), *access)
            guest = user.popen(
                [str(Path(sys.executable).with_name("arcbox-net")), "run", "bench", "--", *SLEEP]
            )
            try:
                status = user.cli_json("show bench")
                yield Contender(entered(guest.pid, host), status["gateway"], (status["pid"],))
            finally:
                ended(guest)
                user.cli("down", "bench", check=False)

    return make


def with_pasta(program: str, mtu: int, *, capped: bool = False) -> Setup:
    """*capped*: the guest's send buffers stay below what makes uploads collapse."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Contender]:
        with machine() as host:
            user = User(host, directory, next(UNUSED_UIDS))
            ports = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
            tool = user.popen([program, "-4", "--config-net", "--mtu", str(mtu), *ports, "--", *SLEEP])
            try:
                enter = entered(tool.pid, host)
                contender = Contender(enter, Host.world_ip, tuple(named(tool.pid, "pasta", "passt")))
                if capped:
                    contender.run("sysctl", "-qw", f"net.ipv4.tcp_wmem=4096 16384 {CAP_BYTES}")
                yield contender
            finally:
                ended(tool)

    return make


def with_slirp(program: str, mtu: int) -> Setup:
    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Contender]:
        with machine() as host:
            user = User(host, directory, next(UNUSED_UIDS))
            guest = user.popen(["unshare", "--user", "--map-root-user", "--net", *SLEEP])
            enter = entered(guest.pid, host)
            tool = user.popen([program, "-c", f"--mtu={mtu}", enter[2], "tap0"], stderr=subprocess.DEVNULL)
            try:
                contender = Contender(enter, "10.0.2.2")
                wait_until(lambda: "10.0.2.100" in contender.run("ip", "addr"))
                contender.pids = tuple(named(tool.pid, "slirp4netns"))
                yield contender
            finally:
                ended(tool)
                ended(guest)

    return make


def with_gvproxy(folder: Path, mtu: int) -> Setup:
    """gvproxy, and the program that carries its frames from and to a TAP: both count as the tool."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Contender]:
        with machine() as host:
            user = User(host, directory, next(UNUSED_UIDS))
            path = f"{user.runtime}/gvproxy.sock"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            words = ["-listen", f"unix://{path}", "-mtu", str(mtu), "-ssh-port", "-1"]
            proxy = user.popen([str(folder / "gvproxy"), *words], **quiet)
            guest = user.popen(["unshare", "--user", "--map-root-user", "--net", *SLEEP])
            enter = entered(guest.pid, host)
            contender = Contender(enter, "192.168.127.254")
            carrier = None
            try:
                contender.run("ip", "tuntap", "add", "tap0", "mode", "tap", "user", str(user.uid))
                contender.run("ip", "addr", "add", "192.168.127.2/24", "dev", "tap0")
                contender.run("ip", "link", "set", "tap0", "mtu", str(mtu), "up")
                contender.run("ip", "route", "add", "default", "via", "192.168.127.1")
                wait_until(lambda: Path(path).exists())
                forward = [f"{folder}/gvforwarder", "-url", f"unix://{path}", "-preexisting", "-mtu", "65535"]
                carrier = user.popen(
                    ["nsenter", "-t", enter[2], "-U", "-n", "--preserve-credentials", *forward], **quiet
                )
                wait_until(
                    lambda: (
                        contender.run("sh", "-c", "ping -c1 -W1 192.168.127.1 || true").find("1 received") > 0
                    )
                )
                contender.pids = tuple(named(proxy.pid, "gvproxy") + named(carrier.pid, "gvforwarder"))
                yield contender
            finally:
                for process in (carrier, guest, proxy):
                    if process is not None:
                        ended(process)

    return make


@contextlib.contextmanager
def kernel_nat(directory: Path) -> Iterator[Contender]:
    """The kernel's bridge, forwarding and masquerade, set up as root: a limit."""
    with by_hand() as (host, guest):
        prepare(host, guest)
        with servers(host.world, "0.0.0.0"):
            yield Contender(guest.argv([]))


@contextlib.contextmanager
def veth(directory: Path) -> Iterator[Contender]:
    """Guest and world on the two ends of a veth: the other limit."""
    with machine() as host:
        guest = host.namespace("guest")
        guest.run(f"ip link add eth0 type veth peer name g0 netns {host.world.name}")
        guest.run("ip addr add 198.51.100.2/24 dev eth0")
        guest.run("ip link set eth0 up")
        host.world.run("ip addr add 198.51.100.1/24 dev g0")
        host.world.run("ip link set g0 up")
        guest.run("ip route add default via 198.51.100.1")
        prepare(guest)
        yield Contender(guest.argv([]))


SLEEP = ["sleep", "infinity"]


@contextlib.contextmanager
def machine() -> Iterator[Host]:
    """A host and a world, with servers in the world and on the host's loopback."""
    with Host() as host:
        prepare(host)
        with servers(host.world, "0.0.0.0"), servers(host, "127.0.0.1"):
            yield host


def prepare(host: Namespace, *others: Namespace) -> None:
    for namespace in (host, getattr(host, "world", host), *others):
        namespace.sysctl("net.ipv4.tcp_congestion_control", CONGESTION_CONTROL)
    if isinstance(host, Host):
        host.world.run(f"ip addr add {SERVER}/24 dev {host.uplink_peer}")


@contextlib.contextmanager
def servers(namespace: Namespace, address: str) -> Iterator[None]:
    python = [sys.executable, "-m", "arcbox_net.netspeed", "server", "--host", address]
    commands = [["iperf3", "-s", "-B", address, "-p", str(port)] for port in IPERF_PORTS]
    commands.append([*python, "--port", str(SPEED_PORT), "--connections-port", str(CONNECTIONS_PORT)])
    started = [namespace.popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        wait_until(lambda: all(f":{n} " in namespace.run("ss -Hltn").stdout for n in HOST_PORTS))
        yield
    finally:
        for server in started:
            server.kill()
            server.wait()


def entered(pid: int, host: Host) -> list[str]:
    """The words that enter the network namespace of the `sleep` that *pid* is or started, once it has left *host*'s."""
    outside = os.stat(host.path).st_ino

    def asleep() -> int:
        for one in below(pid):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{one}/comm").read_text().strip()
                if name == SLEEP[0] and os.stat(f"/proc/{one}/ns/net").st_ino != outside:
                    return one
        return 0

    return ["nsenter", "-t", str(wait_until(asleep, timeout=20, message="the guest")), "-n"]


def named(pid: int, *names: str) -> list[int]:
    """*pid* and its descendants that are so called, once there is one."""

    def look() -> list[int]:
        return [one for one in below(pid) if Path(f"/proc/{one}/comm").read_text().strip().startswith(names)]

    return wait_until(look, message=f"a process {names}")


def below(pid: int) -> list[int]:
    """*pid* and its descendants."""
    parents: Mapping[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents = {**parents, int(entry): int(fields[1])}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def ended(process: subprocess.Popen[str]) -> None:
    for pid in reversed(below(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()
