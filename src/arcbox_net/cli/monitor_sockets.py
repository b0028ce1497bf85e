"""The flags that give a VM a card whose other end is a unix socket. Pure, but for asking QEMU for its version."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from arcbox_net.errors import ConfigError

if TYPE_CHECKING:
    from arcbox_net.cli.monitor import Nic

MEMORY = "abx0mem"
MEMORY_DEFAULT = "128M"  # QEMU's own
VERSION_TIMEOUT_S = 5.0
_RECONNECT_MS = (9, 2)  # `reconnect-ms` since, `reconnect` in seconds before
_STREAM_RECONNECTS = (8, 0)
_VECTORS_WITHOUT_KVM = (10, 0)


def qemu_version(program: str) -> tuple[int, int] | None:
    """What `PROGRAM --version` says, None if it does not say."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(match.group(1)), int(match.group(2))) if match else None


def qemu_netdev(command: Sequence[str], nic: Nic, netdev: str) -> list[str]:
    """`-netdev` and what it needs, for the socket of *nic*. Raises ConfigError for memory that cannot be shared."""
    if nic.via == "stream":
        again = _reconnect(nic, since=_STREAM_RECONNECTS)
        return ["-netdev", f"stream,id={netdev},server=off,addr.type=unix,addr.path={nic.socket}{again}"]
    if nic.via == "dgram":
        own = f"local.type=unix,local.path={nic.guest_socket}"
        return ["-netdev", f"dgram,id={netdev},{own},remote.type=unix,remote.path={nic.socket}"]
    return [
        "-chardev",
        f"socket,id={netdev}c,path={nic.socket}{_reconnect(nic, since=(0, 0))}",
        "-netdev",
        f"vhost-user,id={netdev},chardev={netdev}c,queues={nic.queues}",
        *_shared_memory(command),
    ]


def has_vectors(command: Sequence[str], nic: Nic) -> bool:
    """Whether the card may have MSI-X vectors: QEMU 7.2 without KVM crashes when such a guest sets them up."""
    has_kvm = any(word in ("-enable-kvm", "--enable-kvm") for word in command) or any(
        "kvm" in value for flag, value in pairwise(command) if flag.lstrip("-") in ("accel", "M", "machine")
    )
    return has_kvm or nic.qemu is None or nic.qemu >= _VECTORS_WITHOUT_KVM


def cloud_hypervisor_net(command: Sequence[str], nic: Nic) -> str:
    """The value of `--net`. Raises ConfigError."""
    if not any(flag == "--memory" and "shared=on" in value.split(",") for flag, value in pairwise(command)):
        raise ConfigError(
            "vhost-user needs the guest's memory shared", fix="add shared=on to --memory", field="--memory"
        )
    return f"vhost_user=true,socket={nic.socket},mac={nic.mac},mtu={nic.mtu},num_queues={2 * nic.queues}"


def _reconnect(nic: Nic, *, since: tuple[int, int]) -> str:
    """Come back after a restart of the network, where that QEMU can."""
    if nic.qemu is None or nic.qemu < since:
        return ""
    return ",reconnect-ms=1000" if nic.qemu >= _RECONNECT_MS else ",reconnect=1"


def _shared_memory(command: Sequence[str]) -> list[str]:
    """The memory of `-m` as a shared memfd; nothing if the user's own memory is one."""
    backends = list(_values(command, "object", "memory-backend-"))
    if any(
        value.startswith("memory-backend-memfd") and re.search(r",share=(on|yes|true)\b", value)
        for value in backends
    ):
        return []
    for flag, value in [*pairwise(command)]:
        name = flag.lstrip("-")
        if (
            value in backends
            or name in ("numa", "mem-path")
            or (name in ("M", "machine") and "memory-backend=" in value)
        ):
            raise ConfigError(
                f"{flag} {value}: vhost-user needs all of the guest's memory in a shared memfd",
                fix=f"leave it out, or use -object memory-backend-memfd,id={MEMORY},size=…,share=on",
                field=name,
                value=value,
            )
    size = next(iter(_values(command, "m", "")), MEMORY_DEFAULT)
    size = size.split(",")[0].removeprefix("size=")
    if not re.fullmatch(r"[0-9.]+[kKmMgGtT]?[bB]?", size):
        raise ConfigError(f"-m {size}: not a size", field="m", value=size)
    if size[-1].isdigit():
        size += "M"
    return [
        "-object",
        f"memory-backend-memfd,id={MEMORY},size={size.rstrip('bB')},share=on",
        "-machine",
        f"memory-backend={MEMORY}",
    ]


def _values(command: Sequence[str], option: str, beginning: str) -> Iterator[str]:
    for flag, value in pairwise(command):
        if flag.startswith("-") and flag.lstrip("-") == option and value.startswith(beginning):
            yield value
