"""A private machine with arcbox-net on it: a host namespace, its own runtime and state folders, and a world.

machine.cli("up dev -p 8080:80")             # the command line, inside
with machine.network(NetConfig()) as net:    # the library, inside
    guest = machine.guest(net)               # a namespace attached as a guest
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbox_net import NetConfig, NetworkManager
from tests.support.netns import Host, Namespace, wait_until

CLI = Path(sys.executable).with_name("arcbox-net")
SUPPORT = Path(__file__).parent
# Counters and tables that move on their own.
VOLATILE_SYSCTLS = ("nf_conntrack_count",)
# How far the kernel is with a carrier.
CARRIER_FLAGS = {"LOWER_UP", "NO-CARRIER"}


each_bridge_nf = pytest.mark.parametrize("bridge_nf", [0, 1], ids=["plain-bridge", "br-netfilter"])

# The members of a set or map whose flags say so; it may have other lines before and behind those.
FILLED_BY_PACKETS = re.compile(
    r"(^\t(?:set|map) [^\n]*\n(?:\t\t(?!elements)[^\n]*\n)*\t\tflags [^\n]*\bdynamic\b[^\n]*\n"
    r"(?:\t\t(?!elements)[^\n]*\n)*)\t\telements = \{[^}]*\}\n",
    re.MULTILINE,
)


class NetnsGuest(Namespace):
    """A guest that is a network namespace, and the address and MAC it was given."""

    ip: str
    mac: str


class Machine(Host):
    """See the module's docstring. Everything that ran on it is gone after `close`."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.runtime = directory / "run"
        self.state = directory / "state"
        self.env = {"ARCBOX_NET_RUNTIME_DIR": str(self.runtime), "ARCBOX_NET_STATE_DIR": str(self.state)}
        os.environ.update(self.env)  # the library in this process looks in the same places
        self._guests = 0

    def close(self) -> None:
        for pid in self.network_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for key in self.env:
            os.environ.pop(key, None)
        super().close()

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `arcbox-net WORDS`; one string is split at spaces."""
        arguments = words[0].split() if len(words) == 1 else list(words)
        return self.run([str(CLI), *arguments], check=check)

    def cli_json(self, *words: str) -> Any:
        arguments = words[0].split() if len(words) == 1 else list(words)
        return json.loads(self.cli(*arguments, "--json").stdout)

    def start(self, manager: NetworkManager) -> NetworkManager:
        """`manager.start()` inside, so that the network process lives here."""
        self.call(manager.start)
        return manager

    @contextlib.contextmanager
    def network(
        self, config: NetConfig | None = None, *, name: str | None = None
    ) -> Iterator[NetworkManager]:
        """A started library-owned network, stopped at the end."""
        manager = NetworkManager(config, name=name)
        self.call(manager.start)
        try:
            yield manager
        finally:
            manager.stop()

    def guest(self, manager: NetworkManager, name: str | None = None, **options: Any) -> NetnsGuest:
        """A namespace attached to *manager*'s network."""
        self._guests += 1
        label = name or f"g{self._guests}"
        guest = NetnsGuest(label)
        self._others.append(guest)
        attached = manager.attach_netns(guest.path, name=label, **options)
        guest.ip, guest.mac = str(attached.ip), attached.mac
        return guest

    def bare_guest(self, manager: NetworkManager, name: str | None = None, **options: Any) -> NetnsGuest:
        """A namespace attached to *manager*'s network that has to ask for its address."""
        return self.guest(manager, name, configure=False, **options)

    def network_pids(self) -> list[int]:
        """The network processes of this machine, dead runtime folders left out."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if b"arcbox_net.network.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def bridge_netfilter(self, enabled: int) -> None:
        """Whether bridged packets pass the IP tables too, as on hosts with docker; skips where it is not there."""
        name = "net.bridge.bridge-nf-call-iptables"
        if Path("/proc/sys/" + name.replace(".", "/")).exists():
            self.sysctl(name, enabled)
        elif enabled:
            pytest.skip("br_netfilter is not loaded")

    def drop_forwarded(self, table: str) -> None:
        """Somebody else's firewall that forwards nothing."""
        chain = "type filter hook forward priority 0; policy drop;"
        self.run(["nft", f"add table ip {table}; add chain ip {table} forward {{ {chain} }}"])

    def ours(self) -> dict[str, list[str]]:
        """Kernel objects here that carry our names."""
        tables = [
            line.split()[-1] for line in self.run("nft list tables").stdout.splitlines() if " abx" in line
        ]
        return {"links": [name for name in self.links() if name.startswith("abx")], "tables": tables}

    def snapshot(self) -> dict[str, Any]:
        """Everything a network may change here: links, addresses, routes, rules, the ruleset, sysctls.

        Without what the kernel adds for IPv6 on its own, some seconds after a link is up.
        """
        # `linkdown` says how far the kernel is with a carrier.
        routes = self.run("ip route show table all").stdout.replace("linkdown ", "").splitlines()
        return {
            "links": {
                name: (
                    link.get("master"),
                    sorted({*link["flags"]} - CARRIER_FLAGS),
                    link["mtu"],
                    link["address"],
                )
                for name, link in self.links().items()
            },
            "addresses": self.run("ip -o addr show scope global").stdout,
            "routes": [line for line in routes if "fe80::" not in line and "ff00::" not in line],
            "rules": self.run("ip rule show").stdout,
            "ruleset": self.ruleset(),
            "sysctls": self.sysctls(),
        }

    def ruleset(self) -> str:
        """The ruleset by table, without counters and without the members of sets that packets fill."""
        text = self.run("nft -s list ruleset").stdout
        text = FILLED_BY_PACKETS.sub(r"\1", text)
        return "".join(sorted(re.findall(r"^table .*?^\}\n", text, re.MULTILINE | re.DOTALL)))

    def sysctls(self) -> dict[str, str]:
        """Every net sysctl by path, without those that move on their own."""

        def read() -> dict[str, str]:
            found = {}
            for path in Path("/proc/sys/net").rglob("*"):
                with contextlib.suppress(OSError):  # some can only be written
                    if path.is_file() and not any(word in str(path) for word in VOLATILE_SYSCTLS):
                        found[str(path)] = path.read_text().strip()
            return found

        return self.call(read)


def udhcpc(guest: Namespace, *options: str, check: bool = True) -> dict[str, str]:
    """The lease that busybox udhcpc gets, and sets, on eth0: its script's variables. Empty for none."""
    script = SUPPORT / "udhcpc.script"
    done = guest.run(
        ["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "20", "-T", "1", "-s", str(script), *options],
        check=False,
    )
    lease = dict(
        line.removeprefix("lease:").split("=", 1)
        for line in done.stdout.splitlines()
        if line.startswith("lease:") and "=" in line
    )
    assert not check or lease.get("ip"), f"udhcpc: {done.stdout}{done.stderr}"
    return lease


def is_running(pid: int) -> bool:
    """Whether *pid* runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int) -> None:
    wait_until(lambda: not is_running(pid), message=f"process {pid} ends")


def kill9(pid: int) -> None:
    """Kill the network process without a chance to clean up, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def cpu_seconds(pid: int) -> float:
    """User and system time that *pid* has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_rest(pid: int, share: float = 0.5) -> None:
    """Until *pid* uses less than *share* of a core for a second: one that spins never does."""

    def used() -> float:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        return cpu_seconds(pid) - before

    wait_until(lambda: used() < share, message=f"process {pid} rests")


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")
