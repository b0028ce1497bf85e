"""A real Linux guest under QEMU: Debian's cloud kernel, a busybox initramfs, driven over its serial console.

    with Guest(tap_fd(tap.fd, tap.mac), fds=[tap.fd]) as guest:
        lease = guest.lease()               # what udhcpc was given at boot
        guest.run("wget -q -O - http://server.test/")

The image is made once under build/guest/: `apt-get download`, `dpkg -x`, and a cpio written here. QEMU
emulates (`-accel tcg`): it boots in about three seconds, and needs no /dev/kvm.
"""

from __future__ import annotations

import gzip
import os
import re
import select
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support.once import make_once

IMAGE_DIR = Path(__file__).parents[2] / "build" / "guest"
NIC = "virtio-net-pci,romfile="
BOOT_TIMEOUT_S = 300.0
COMMAND_TIMEOUT_S = 240.0
MODULES = ("virtio_pci", "virtio_net")
MEMORY_MB = 160
READY = "guest is ready"

_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
stty -echo
for module in $(cat /modules/order); do insmod /modules/$module; done
for word in $(cat /proc/cmdline); do case $word in abx.*) eval "${word#abx.}";; esac; done
hostname ${hostname:-guest}
ip link set lo up
ip link set eth0 up
[ "$dhcp" = off ] || udhcpc -i eth0 -b -t 10 -T 1 -A 2 -x hostname:${hostname:-guest} -O staticroutes -O mtu \
    -s /udhcpc.script -p /udhcpc.pid >/udhcpc.log 2>&1
echo "guest is"" ready"
export PS1= PS2=
exec sh
"""

# udhcpc runs this with what it was given in its environment.
_UDHCPC_SCRIPT = r"""#!/bin/sh
case $1 in
    deconfig) ip addr flush dev $interface ;;
    bound|renew)
        ip addr replace $ip/$mask dev $interface
        [ -z "$mtu" ] || ip link set $interface mtu $mtu
        for address in $router; do ip route replace default via $address; done
        : >/etc/resolv.conf
        [ -z "$domain" ] || echo "search $domain" >>/etc/resolv.conf
        for address in $dns; do echo "nameserver $address" >>/etc/resolv.conf; done ;;
esac
echo "event=$1 ip=$ip mask=$mask router=$router dns=$dns domain=$domain" \
    "mtu=$mtu lease=$lease server=$serverid" >>/lease
"""


class Guest:
    """A running guest. `prefix` goes before qemu-system-x86_64, such as `ip netns exec HOST`."""

    def __init__(
        self,
        network: Sequence[str],
        *,
        prefix: Sequence[str] = (),
        fds: Sequence[int] = (),
        hostname: str = "guest",
        dhcp: bool = True,
        boot_timeout: float = BOOT_TIMEOUT_S,
        **popen: Any,
    ) -> None:
        self.transcript = ""
        self._read = 0  # how much of the transcript earlier waits have consumed
        self._number = 0
        options = f"abx.hostname={hostname}" + ("" if dhcp else " abx.dhcp=off")
        self.process = subprocess.Popen(
            [*prefix, *qemu_argv(options), *network],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(fds),
            **popen,
        )
        try:
            self.expect(re.escape(READY), timeout=boot_timeout)
            self.run("true")  # what the shell says of itself is no output of the first command
        except BaseException:
            self.close()
            raise

    def run(self, command: str, *, check: bool = True, timeout: float = COMMAND_TIMEOUT_S) -> str:
        """What *command* prints in the guest. With `check`, a failing one is an AssertionError."""
        status, output = self.status(command, timeout=timeout)
        assert not check or status == 0, f"{command!r} in the guest: exit {status}\n{output}"
        return output

    def status(self, command: str, *, timeout: float = COMMAND_TIMEOUT_S) -> tuple[int, str]:
        """The exit status of *command* and what it printed."""
        self._number += 1
        mark = f"@{self._number}@"
        # The mark is written in two parts, so that the command line itself never matches it.
        self.send(f"{{ {command}\n}} </dev/null 2>&1; echo '@'{self._number}@$?")
        match, before = self.expect(re.escape(mark) + r"(\d+)\r?\n", timeout=timeout)
        return int(match.group(1)), before.replace("\r\n", "\n")

    def lease(self, *, timeout: float = 120.0) -> dict[str, str]:
        """The newest lease: ip, mask, router, dns, domain, mtu, lease, server."""
        deadline = time.monotonic() + timeout
        while True:
            lines = [
                line
                for line in self.run("cat /lease || true").splitlines()
                if " ip=1" in line or " ip=2" in line
            ]
            if lines:
                pairs = re.findall(r"(\w+)=(.*?)(?= \w+=|$)", lines[-1].strip())
                return dict(pairs)
            assert time.monotonic() < deadline, "no lease: " + self.run("cat /udhcpc.log || true")

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, pattern: str, *, timeout: float) -> tuple[re.Match[str], str]:
        """Wait until the console shows *pattern*; the match and what came before it."""
        deadline = time.monotonic() + timeout
        compiled = re.compile(pattern)
        while True:
            match = compiled.search(self.transcript, self._read)
            if match is not None:
                before = self.transcript[self._read : match.start()]
                self._read = match.end()
                return match, before
            self._receive(deadline, pattern)

    def close(self) -> None:
        """Cut the power."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, deadline: float, wanted: str) -> None:
        assert self.process.stdout is not None
        left = deadline - time.monotonic()
        fd = self.process.stdout.fileno()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise AssertionError(
                f"the guest did not show {wanted!r}; its console:\n{self.transcript[-3000:]}"
            )
        received = os.read(fd, 65536)
        if not received:
            raise AssertionError(
                f"QEMU ended with status {self.process.wait()}; its console:\n{self.transcript[-3000:]}"
            )
        self.transcript += received.decode(errors="replace")


def tap_fd(fd: int, mac: str) -> list[str]:
    """QEMU's arguments for a NIC on a TAP that it inherits."""
    return ["-netdev", f"tap,id=n,fd={fd}", "-device", f"{NIC},netdev=n,mac={mac}"]


def vhost_user(path: Path | str, mac: str, *, pairs: int = 1, memory_mb: int = MEMORY_MB) -> list[str]:
    """QEMU's arguments for a NIC whose queues are served in the guest's memory, with a CPU for each pair of them.

    Without MSI-X: QEMU 7.2 crashes when it emulates and a vhost-user device has that (no irqfd is there to route).
    """
    memory = f"memory-backend-memfd,id=m,size={memory_mb}M,share=on"
    device = f"{NIC},netdev=n,mac={mac},mq={'on' if pairs > 1 else 'off'},vectors=0"
    return [
        *["-object", memory, "-machine", "memory-backend=m", "-smp", str(pairs)],
        *["-chardev", f"socket,id=c,path={path}", "-netdev", f"vhost-user,id=n,chardev=c,queues={pairs}"],
        *["-device", device],
    ]


def qemu_argv(options: str = "") -> list[str]:
    """QEMU with the guest's image and its console on stdin and stdout, but without a network device."""
    kernel, initrd = image()
    return [
        *["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MB), "-smp", "1"],
        *["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"],
        *["-kernel", str(kernel), "-initrd", str(initrd)],
        # Emulated on a busy machine, it may see too few ticks at boot, and would panic over its timer.
        *["-append", f"console=ttyS0 quiet panic=-1 no_timer_check {options}"],
    ]


@cache
def image() -> tuple[Path, Path]:
    """The guest's kernel and initramfs, made on first use."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("the guest's kernel comes from Debian's packages: no apt-get here")
    root = IMAGE_DIR / "root"
    make_once(root, lambda: _unpack(root))
    kernel = next(iter(sorted((root / "boot").glob("vmlinuz-*"))))
    initrd = IMAGE_DIR / "initrd.gz"
    made = _initramfs(root)
    if not initrd.exists() or initrd.read_bytes() != made:
        partial = IMAGE_DIR / f"initrd.{os.getpid()}"
        partial.write_bytes(made)
        partial.replace(initrd)
    return kernel, initrd


def _unpack(root: Path) -> None:
    names = [_kernel_package(), "busybox-static"]
    # A fresh machine has no package lists, an old one may have lists of versions that are gone.
    if _apt("download", *names, cwd=root) != 0:
        _apt("update", "-qq", cwd=root)
        assert _apt("download", *names, cwd=root) == 0, f"cannot download {names}"
    for package in root.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        package.unlink()


def _kernel_package() -> str:
    """The versioned package behind Debian's linux-image-cloud-amd64."""
    for attempt in range(2):
        done = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
        )
        if found := re.search(r"Depends: (linux-image-[\w.+-]+)", done.stdout):
            return found.group(1)
        if attempt == 0:
            _apt("update", "-qq", cwd=IMAGE_DIR)
    raise AssertionError("Debian's package lists do not know linux-image-cloud-amd64")


def _apt(*arguments: str, cwd: Path) -> int:
    command = ["apt-get", "-o", "APT::Sandbox::User=root", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, check=False).returncode


def _initramfs(root: Path) -> bytes:
    modules = {path.stem.replace("-", "_"): path for path in (root / "lib" / "modules").rglob("*.ko")}
    order = _load_order(modules)
    files: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"")
        for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "www", "modules")
    ]
    files.append(("bin/busybox", stat.S_IFREG | 0o755, (root / "bin" / "busybox").read_bytes()))
    files.append(("init", stat.S_IFREG | 0o755, _INIT.encode()))
    files.append(("udhcpc.script", stat.S_IFREG | 0o755, _UDHCPC_SCRIPT.encode()))
    for name in order:
        files.append((f"modules/{name}.ko", stat.S_IFREG | 0o644, modules[name].read_bytes()))
    listed = "".join(f"{name}.ko\n" for name in order)
    files.append(("modules/order", stat.S_IFREG | 0o644, listed.encode()))
    return gzip.compress(b"".join(_cpio(files)), compresslevel=1, mtime=0)


def _load_order(modules: dict[str, Path]) -> list[str]:
    """MODULES with what they need before them; the package has no modules.dep yet, so the files are asked."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        match = re.search(rb"\0depends=([^\0]*)\0", modules[name].read_bytes())
        for needed in (match.group(1).decode() if match else "").split(","):
            if needed:
                visit(needed.replace("-", "_"))
        order.append(name)

    for name in MODULES:
        visit(name)
    return order


def _cpio(files: Sequence[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The "newc" archive of *files*: (path, mode, content)."""
    for inode, (name, mode, body) in enumerate([*files, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        yield header + b"\0" * (-len(header) % 4)
        yield body + b"\0" * (-len(body) % 4)
