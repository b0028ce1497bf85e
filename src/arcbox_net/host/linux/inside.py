"""A network without privileges: a user namespace for the process, a network namespace for one of its threads.

*Theory of operation.* The process enters a user namespace of its own while it has one thread. The user's ids mean
themselves there, so files, sockets and peers stay the user's; the powers over network namespaces that it gains
are ambient, so that the `nft` it executes has them too. A thread then enters a network namespace that the user
namespace owns, and stays: what it makes is inside. All other threads stay in the host's network namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, NoReturn

from arcbox_net.errors import ArcboxNetError, KernelError, PermissionDenied, Unsupported, from_json
from arcbox_net.host.linux.namespace import CLONE_NEWNET
from arcbox_net.host.linux.rtsocket import RouteSocket

CLONE_NEWUSER: Final = 0x10000000
NS_GET_USERNS: Final = 0xB701
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
CAP_SYS_ADMIN: Final = 21
AMBIENT: Final = (CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN)
APPARMOR_PROFILE: Final = "/etc/apparmor.d/arcbox-net"
_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_SECCOMP_FILTER: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityWords(ctypes.Structure):
    """Capabilities 0 to 31, then 32 to 63."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def has_network_power() -> bool:
    """Whether this process may change the network namespace it runs in, as root may: with CAP_NET_ADMIN over it."""
    return bool(_effective() >> CAP_NET_ADMIN & 1) and _is_netns_within_reach()


def has_namespace_power() -> bool:
    """Whether this process may make network namespaces as it is, without a user namespace of its own."""
    return has_network_power() and bool(_effective() >> CAP_SYS_ADMIN & 1)


def enter_user_namespace(powers: Collection[int] = AMBIENT) -> None:
    """Move this process into a user namespace of its own, in which it may do all that a network needs.

    Programs that it executes have *powers*. The process must have one thread. Raises PermissionDenied or
    Unsupported, whose fix names the setting in the way.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _check(_libc.unshare(CLONE_NEWUSER))
        _write_map("setgroups", "deny")  # without it, the kernel takes no map of groups from an ordinary user
        _write_map("uid_map", f"{uid} {uid} 1")
        _write_map("gid_map", f"{gid} {gid} 1")
        raise_ambient(powers)
    except OSError as error:
        refuse_user_namespace(error)


def enter_network_namespace() -> int:
    """Move the calling thread into a network namespace of its own, for good. Returns a new fd of it; its lo is up.

    Raises PermissionDenied or Unsupported.
    """
    try:
        _check(_libc.unshare(CLONE_NEWNET))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise PermissionDenied(
                "no further network namespace may be made: user.max_net_namespaces is reached",
                fix="sudo sysctl -w user.max_net_namespaces=15000",
                operation="make a network namespace",
                setting="user.max_net_namespaces",
            ) from None
        refuse_user_namespace(error)
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with RouteSocket() as rt:
            rt.set_link(rt.need_link("lo").ifindex, operation="bring up", ifname="lo", up=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def try_namespaces() -> ArcboxNetError | None:
    """What keeps this user from both namespaces, found out by a child process that enters them. None: nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter_user_namespace()
            enter_network_namespace()
        except ArcboxNetError as error:
            os.write(writer, json.dumps(error.to_json()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return from_json(json.loads(answer)) if answer else None


def refuse_user_namespace(error: OSError, *, root: Path = Path("/")) -> NoReturn:
    """Raise what says why the kernel refused a user namespace with *error*, and what the administrator can do."""
    if obstacle := user_namespace_obstacle(root):
        setting, message, fix = obstacle
        raise PermissionDenied(message, fix=fix, operation="make a user namespace", setting=setting) from None
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        raise PermissionDenied(
            "no further user namespace may be made: user.max_user_namespaces is reached",
            fix="sudo sysctl -w user.max_user_namespaces=15000",
            operation="make a user namespace",
            setting="user.max_user_namespaces",
        ) from None
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        raise Unsupported(
            f"this kernel has no user namespaces: {error.strerror}",
            fix="boot a kernel with CONFIG_USER_NS, or run as root: sudo arcbox-net …",
            feature="user namespaces",
        ) from None
    if error.errno not in (errno.EPERM, errno.EACCES):
        raise KernelError(
            f"make a user namespace: {error.strerror}",
            operation="make a user namespace",
            object="user namespace",
            errno=error.errno,
        ) from None
    if _status_field(root, "Seccomp") == str(_SECCOMP_FILTER):
        raise PermissionDenied(
            "a seccomp filter, such as a container's, forbids user namespaces here",
            fix="start the container with --cap-add NET_ADMIN, or with --security-opt seccomp=unconfined",
            operation="make a user namespace",
            setting="seccomp",
        ) from None
    raise PermissionDenied(
        f"make a user namespace: {error.strerror}",
        fix="leave the chroot or sandbox this program runs in, or run as root: sudo arcbox-net …",
        operation="make a user namespace",
        setting=None,
    ) from None


def user_namespace_obstacle(root: Path = Path("/")) -> tuple[str, str, str] | None:
    """The setting below *root* that keeps ordinary users from user namespaces: its name, what it does, the fix."""
    if _number(root, "proc/sys/user/max_user_namespaces") == 0:
        return (
            "user.max_user_namespaces",
            "user.max_user_namespaces is 0: user namespaces are off",
            "sudo sysctl -w user.max_user_namespaces=15000",
        )
    if _number(root, "proc/sys/kernel/unprivileged_userns_clone") == 0:
        return (
            "kernel.unprivileged_userns_clone",
            "kernel.unprivileged_userns_clone is 0: user namespaces are for root only",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if _number(root, "proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1 and not _is_profiled(root):
        return (
            "kernel.apparmor_restrict_unprivileged_userns",
            "AppArmor (kernel.apparmor_restrict_unprivileged_userns=1) restricts user namespaces to programs with"
            " a profile that allows them",
            f"sudo cp contrib/apparmor/arcbox-net {APPARMOR_PROFILE} && sudo apparmor_parser -r {APPARMOR_PROFILE};"
            " or for all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    return None


def _is_profiled(root: Path) -> bool:
    """Whether an AppArmor profile of this process may allow user namespaces: any but the kernel's default."""
    with contextlib.suppress(OSError):
        label = (root / "proc/self/attr/current").read_text().strip("\0\n ")
        return label not in ("", "unconfined") and not label.startswith("unprivileged_userns")
    return False


def _write_map(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)


def raise_ambient(powers: Collection[int]) -> None:
    """Make *powers* survive an execve of this process, which as an ordinary user would drop every capability."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    words = (_CapabilityWords * 2)()
    _check(_libc.capget(ctypes.byref(header), words))
    for capability in powers:
        words[0].inheritable |= 1 << capability
    _check(_libc.capset(ctypes.byref(header), words))
    for capability in powers:
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, *map(ctypes.c_ulong, (capability, 0, 0))))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _effective() -> int:
    return int(_status_field(Path("/"), "CapEff") or "0", 16)


def _is_netns_within_reach() -> bool:
    """Whether the network namespace belongs to our user namespace or one below: in a container it may not."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.ioctl(fd, NS_GET_USERNS))
            return True
        finally:
            os.close(fd)
    return False


def _status_field(root: Path, name: str) -> str | None:
    with contextlib.suppress(OSError):
        status = (root / "proc/self/status").read_text()
        found = re.search(rf"^{name}:\s*(\S+)", status, re.MULTILINE)
        return found.group(1) if found else None
    return None


def _number(root: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        text = (root / "proc/sys" / name.removeprefix("proc/sys/")).read_text().strip()
        return int(text) if text.isdigit() else None
    return None
