"""DPDK's testpmd, whose virtio_user is a vhost-user driver that nobody here wrote, and whose vhost is a back end.

`ABX_TESTPMD` names an installed one. Otherwise Debian's packages are unpacked once under build/dpdk/, as the guest's
kernel is (guest.py). No huge pages, and no devices of this machine.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.once import make_once

DPDK_DIR = Path(__file__).parents[2] / "build" / "dpdk"
LIBRARY_DIR = "usr/lib/x86_64-linux-gnu"
PLUGINS = ("librte_net_virtio.so", "librte_net_vhost.so", "librte_mempool_ring.so")
MEMORY_MB = 192
BUFFERS = 4096
FOREIGN = ("libc6", "libdpdk-dev", "zlib1g")  # every machine has these, or does not need them
PROMPT = "testpmd> "
START_TIMEOUT_S = 120.0
COUNTER = re.compile(r"(RX|TX)-packets: (\d+)")


@cache
def testpmd() -> tuple[Path, dict[str, str]]:
    """The binary, and what its environment needs; skips where it cannot be had."""
    if named := os.environ.get("ABX_TESTPMD") or shutil.which("dpdk-testpmd"):
        library = Path(named).parents[2] / LIBRARY_DIR
        return Path(named), {**os.environ, "LD_LIBRARY_PATH": str(library)}
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("testpmd is in none of PATH and ABX_TESTPMD, and no apt-get is here to fetch it")
    make_once(DPDK_DIR, _unpack)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(DPDK_DIR / LIBRARY_DIR)}
    binary = DPDK_DIR / "usr/bin/dpdk-testpmd"
    linked = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, env=environment)
    if missing := re.findall(r"(\S+) => not found", linked.stdout):
        pytest.skip(f"testpmd needs {', '.join(missing)}")
    return binary, environment


class Testpmd:
    """A running testpmd with one device; it forwards nothing until it is told so.

    *vdev* is the device: see `driver` and `back_end`. It runs on *core*.
    """

    __test__ = False

    def __init__(
        self,
        vdev: str,
        *,
        forward: str,
        core: int = 0,
        queues: int = 1,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        binary, environment = testpmd()
        plugins = [word for name in PLUGINS for word in ("-d", _plugin(environment, name))]
        eal = [
            "--lcores",
            f"0@{core},1@{core}",
            "--no-huge",
            "-m",
            str(MEMORY_MB),
            "--no-pci",
            "--no-telemetry",
        ]
        self.process = subprocess.Popen(
            [
                *[*prefix, str(binary), *eal, f"--file-prefix=abx{os.getpid()}-{id(self):x}", *plugins],
                *["--vdev", vdev, "--", "-i", f"--forward-mode={forward}", "--no-mlockall"],
                *[f"--total-num-mbufs={BUFFERS}", f"--rxq={queues}", f"--txq={queues}", *options],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.output = ""
        self._wait_for_prompt(time.monotonic() + START_TIMEOUT_S)

    def command(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self, *, timeout: float = 120.0) -> dict[str, int]:
        """Stop forwarding and quit: the packets that its device received ("RX") and sent ("TX")."""
        rest, _ = self.process.communicate("stop\nshow port stats all\nquit\n", timeout=timeout)
        self.output += rest
        statistics = self.output.rpartition("NIC statistics")[2]
        found = {way: int(count) for way, count in reversed(COUNTER.findall(statistics))}
        assert self.process.returncode == 0 and found, f"testpmd:\n{self.output[-3000:]}"
        return found

    def _wait_for_prompt(self, deadline: float) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while PROMPT not in self.output:
            left = max(0.0, deadline - time.monotonic())
            received = os.read(fd, 65536) if select.select([fd], [], [], left)[0] else b""
            if not received:
                self.process.kill()
                self.process.communicate()
                raise AssertionError(f"testpmd did not start:\n{self.output[-3000:]}")
            self.output += received.decode(errors="replace")

    def __enter__(self) -> Testpmd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


def driver(path: Path, *, queues: int = 1, server: bool = False) -> str:
    """A virtio_user device on a vhost-user socket, at which it may listen itself."""
    listens = ",server=1" if server else ""
    return f"net_virtio_user0,path={path},queues={queues},mac=52:54:00:00:00:01{listens}"


def back_end(path: Path) -> str:
    """DPDK's own back end at the socket."""
    return f"net_vhost0,iface={path},queues=1"


def _plugin(environment: dict[str, str], name: str) -> str:
    found = sorted(Path(environment["LD_LIBRARY_PATH"]).glob(f"{name}.*"))
    if not found:
        pytest.skip(f"testpmd has no {name}")
    return found[0].name


def _unpack() -> None:
    listed = subprocess.run(["apt-cache", "depends", "dpdk-dev"], capture_output=True, text=True).stdout
    needed = [
        name for name in re.findall(r"^ +Depends: ([\w.+-]+)$", listed, re.MULTILINE) if name not in FOREIGN
    ]
    version = next(
        (name.removeprefix("librte-eal") for name in needed if name.startswith("librte-eal")), None
    )
    if version is None:
        pytest.skip("the package lists have no dpdk-dev")
    packages = ["dpdk-dev", f"librte-net-virtio{version}", f"librte-net-vhost{version}", *needed]
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages]
    done = subprocess.run(command, cwd=DPDK_DIR, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"testpmd's packages cannot be had: {done.stderr.strip()[-200:]}")
    for package in DPDK_DIR.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(DPDK_DIR)], check=True)
        package.unlink()
