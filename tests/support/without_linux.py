"""Whoever imports this finds nothing of Linux's any more, in its whole process: for what is to run on macOS too.

A run of pytest takes it as `-p tests.support.without_linux`.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.abc
import importlib.machinery
import os
import select
import signal
import socket
import sys
import sysconfig
from collections.abc import Sequence
from types import ModuleType

MODULES = (
    "arcbox_net.host.linux",
    "arcbox_net.memory.guest_memory",
    "arcbox_net.network.engine_egress",
    "arcbox_net.network.kernel_network",
    "arcbox_net.network.tap_datapath",
    "arcbox_net.ports.packet",
    "arcbox_net.ports.queues",
    "arcbox_net.ports.tap",
    "arcbox_net.ports.vhost_user",
    "arcbox_net.relay",
    "arcbox_net.services.dns.hotpath",
    "arcbox_net.services.ra",
)
# Beginnings of names.
NAMES: dict[ModuleType, tuple[str, ...]] = {
    fcntl: ("F_ADD_SEALS", "F_GET_SEALS", "F_OFD_", "F_SEAL_"),
    os: ("EFD_", "MFD_", "eventfd", "memfd_create", "pidfd_open", "sched_getaffinity", "setns", "unshare"),
    select: ("EPOLL", "POLLRDHUP", "epoll"),
    signal: ("sigtimedwait", "sigwaitinfo"),
    socket: (
        "AF_NETLINK",
        "AF_PACKET",
        "MSG_CMSG_CLOEXEC",
        "MSG_NOSIGNAL",
        "SOCK_CLOEXEC",
        "SOCK_NONBLOCK",
        "SO_BINDTODEVICE",
        "SO_PASSCRED",
        "SO_PEERCRED",
    ),
}
# Others choose their own modules by the platform when they are imported.
BEFORE = (
    "asyncio ctypes http.client json logging multiprocessing plistlib sqlite3 subprocess tempfile threading uuid "
    "click msgspec starlette.applications uvicorn.config uvicorn.protocols.http.h11_impl uvicorn.server"
)


class NotHere(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if f"{name}.".startswith(tuple(f"{module}." for module in MODULES)):
            raise ImportError(f"{name} is Linux's")
        return None


def no_proc(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir") and str(arguments[0]).startswith("/proc/"):
        raise FileNotFoundError(arguments[0])


def forget_linux(packages: str) -> None:
    """All but *packages*, which may go by it."""
    sysconfig.get_config_vars()
    for name in packages.split():
        importlib.import_module(name)
    for module, names in NAMES.items():
        for name in [name for name in dir(module) if name.startswith(names)]:
            delattr(module, name)
    sys.meta_path.insert(0, NotHere())
    sys.addaudithook(no_proc)
    sys.platform = "darwin"


forget_linux(BEFORE + (" hypothesis scapy.all setuptools" if "pytest" in sys.modules else ""))
