"""An ordinary user's network on a private machine, with a guest that tests can look into.

with Rootless(directory) as site:               # IPv4 and IPv6 to a world that answers
    site.up("-p", "8080:web:80")
    guest = site.guest("web")                    # `arcbox-net run dev`, as that user
    guest.run("curl -sS http://…")
    connect(guest, site.world_ip, 80)            # and whatever takes a Namespace
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.machine import Machine, wait_gone
from tests.support.netns import Command, Namespace, wait_until
from tests.support.user import CLI, User

WORLD6, HOST6 = "2001:db8:77::1", "2001:db8:77::2"
METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16")
METADATA6 = ("fd00:ec2::254",)


class RunningGuest(Namespace):
    """The namespaces of a process that `arcbox-net run` started. Tests enter them with root's powers."""

    def __init__(self, user: User, network: str, name: str, *options: str) -> None:
        said = "echo $$; exec sleep infinity"
        words = [str(CLI), "run", network, "--name", name, *options, "--", "sh", "-c", said]
        self.process = user.popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{words} ended with {self.process.wait()}"
        self.pid = int(line)
        self.name = name
        self.path = f"/proc/{self.pid}/ns/net"
        self._closed = False
        address = self.json("ip -j -4 addr show eth0")[0]["addr_info"]
        self.ip = str(address[0]["local"]) if address else ""
        self.mac = Path(f"/proc/{self.pid}/root/sys/class/net/eth0/address").read_text().strip()

    def argv(self, command: Command) -> list[str]:
        words = super().argv(command)
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *words[4:]]

    def pids(self) -> list[int]:
        return [self.pid]

    def ip6(self) -> str:
        """The global IPv6 address that the network's advertisements gave it."""

        def address() -> str | None:
            found = self.json("ip -j -6 addr show eth0 scope global")
            usable = [
                item["local"]
                for item in found[0]["addr_info"]
                if "local" in item and not item.get("tentative") and not item.get("temporary")
            ]
            return usable[0] if usable else None

        return wait_until(address, message="an IPv6 address by SLAAC") or ""

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()
        wait_gone(self.pid)


class Rootless:
    """A machine with an ordinary user on it, whose network is `dev`. See the module's docstring."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="abxt-"))  # short: unix sockets have 108 bytes
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            root_s = self.directory / "root"
            root_s.mkdir()
            self.machine = stack.enter_context(Machine(root_s))
            self.world = self.machine.world
            self.world_ip, self.host_ip = self.machine.world_ip, self.machine.host_ip
            self.user = User(self.machine, self.directory)
            self.machine.etc("resolv.conf", f"nameserver {self.world_ip}\n")
            self.machine.sysctl("net.ipv4.ping_group_range", "0 2147483647")  # as distributions have it
            self._connect_ipv6()
            self._guests: list[RunningGuest] = []
            self._stack = stack.pop_all()

    def _connect_ipv6(self) -> None:
        machine, world = self.machine, self.world
        machine.run(f"ip -6 addr add {HOST6}/64 dev {machine.uplink} nodad")
        world.run(f"ip -6 addr add {WORLD6}/64 dev {machine.uplink_peer} nodad")
        machine.run(f"ip -6 route add default via {WORLD6}")

    def metadata(self) -> None:
        """Put a cloud's metadata addresses into the world, where the host reaches them."""
        for address in (*METADATA, *METADATA6):
            self.world.run(f"ip addr add {address} dev lo")

    def up(self, *options: str) -> None:
        self.user.cli("up", "dev", *options)

    def guest(self, name: str, *options: str) -> RunningGuest:
        made = RunningGuest(self.user, "dev", name, *options)
        self._guests.append(made)
        return made

    def network_pid(self) -> int:
        return int(self.user.cli_json("show dev")["pid"])

    def inside(self, command: Command) -> subprocess.CompletedProcess[str]:
        """Run *command* in the network's private namespace, as its owner."""
        words = command.split() if isinstance(command, str) else list(command)
        return self.user.cli("enter", "dev", "--", *words)

    def stats(self) -> dict[str, Any]:
        """What `GET /v1/stats` answers."""
        import json

        socket = self.user.runtime / "arcbox-net" / "dev" / "api.sock"
        words = ["curl", "-sS", "--unix-socket", str(socket), "http://localhost/v1/stats"]
        found: dict[str, Any] = json.loads(self.user.run(words).stdout)
        return found

    def close(self) -> None:
        for guest in reversed(self._guests):
            guest.close()
        self._stack.close()

    def __enter__(self) -> Rootless:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
