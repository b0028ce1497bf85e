"""TAP devices by /dev/net/tun: the fds of their queues and what may be written to and read from them.

Frames on a queue of a port with `vnet_hdr` begin with a `struct virtio_net_hdr_v1` of 12 bytes. With
`offload` the kernel also hands over 64 KB segments and frames whose checksum is still to be computed; QEMU,
Firecracker and Cloud Hypervisor set header size and offloads again to what their guest agreed to. A client
that wants plain, complete frames asks for a port without `vnet_hdr`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import struct
from collections.abc import Callable
from typing import Final

from arcbox_net.errors import KernelError, LimitReached, PermissionDenied, Unsupported
from arcbox_net.host.linux.netlink import kernel_error
from arcbox_net.host.plan import TUN_VNET_HDR_BYTES

DEVICE: Final = "/dev/net/tun"
TUN_MODE_FIX: Final = (
    'sudo chmod 666 /dev/net/tun; to keep it: echo \'KERNEL=="tun", MODE="0666"\' |'
    " sudo tee /etc/udev/rules.d/60-arcbox-net.rules; in a container: start it with --device /dev/net/tun"
)
QUEUES_MAX: Final = 256  # MAX_TAP_QUEUES of the kernel
VNET_HDR_BYTES: Final = TUN_VNET_HDR_BYTES

IFF_TUN: Final = 0x0001
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_MULTI_QUEUE: Final = 0x0100
IFF_TUN_EXCL: Final = 0x8000
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOWNER: Final = 0x400454CC
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

OFFLOADS_TSO: Final = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
OFFLOADS_ALL: Final = OFFLOADS_TSO | TUN_F_USO4 | TUN_F_USO6

USO_KERNEL: Final = (6, 2)

_IFREQ = struct.Struct("=16sH22x")


def open_queues(
    ifname: str,
    queues: int,
    *,
    vnet_hdr: bool,
    multi_queue: bool,
    create: bool,
    opener: Callable[[], int] | None = None,
) -> list[int]:
    """One non-blocking fd a queue, or none. *create*: the device must not exist yet; else it must."""
    if not 1 <= queues <= QUEUES_MAX:
        raise LimitReached(f"{queues} queues: a TAP has 1 to {QUEUES_MAX}", limit="queues", value=queues)
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if multi_queue else 0)
    fds: list[int] = []
    try:
        for index in range(queues):
            fd = (opener or open_device)()
            fds.append(fd)
            exclusive = IFF_TUN_EXCL if create and index == 0 else 0
            fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(ifname.encode(), flags | exclusive))
            if vnet_hdr:
                fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("=i", VNET_HDR_BYTES))
    except OSError as error:
        close_all(fds)
        raise _refused(ifname, error) from None
    except BaseException:
        close_all(fds)
        raise
    return fds


def open_tun(ifname: str, opener: Callable[[], int] | None = None) -> int:
    """A non-blocking fd of a new TUN, whose packets begin with a header of VNET_HDR_BYTES."""
    fd = (opener or open_device)()
    try:
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(ifname.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("=i", VNET_HDR_BYTES))
    except OSError as error:
        os.close(fd)
        raise _refused(ifname, error) from None
    return fd


def open_device() -> int:
    """A fresh fd of the TUN driver, bound to the network namespace of the calling thread."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Unsupported(f"{DEVICE} does not exist", fix="modprobe tun", feature="tap") from None
    except PermissionError as error:
        raise PermissionDenied(
            f"{DEVICE} cannot be opened by this user: {error.strerror}",
            fix=TUN_MODE_FIX,
            operation=f"open {DEVICE}",
        ) from None


def kernel_version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's *release*."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])


def takes_uso(release: str | None = None) -> bool:
    """Whether the kernel of that *release*, or this one, takes UDP super-frames, from TAPs and packet sockets."""
    return kernel_version(release or platform.release()) >= USO_KERNEL


def set_offloads(fd: int, offloads: int) -> int:
    """Let the kernel hand over what *offloads* names, less USO if it has none; returns what was set."""
    for wanted in (offloads, offloads & OFFLOADS_TSO):
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, wanted)
            return wanted
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a flag this kernel does not know
                raise kernel_error("set offloads of", "a TAP", error.errno or 0) from None
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    return 0


def set_persistent(fd: int, *, owner_uid: int | None) -> None:
    """Keep the device without an fd; *owner_uid* may open it by name without privilege."""
    if owner_uid is not None:
        fcntl.ioctl(
            fd, TUNSETOWNER, ctypes.c_int(owner_uid).value
        )  # a uid is unsigned, ioctl's argument is not
    fcntl.ioctl(fd, TUNSETPERSIST, 1)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()


def _refused(ifname: str, error: OSError) -> KernelError | PermissionDenied:
    if error.errno == errno.EBUSY:
        return KernelError(
            f"open TAP {ifname}: {error.strerror}",
            fix="another program holds it: end that program, or detach the port",
            operation="open TAP",
            object=ifname,
            errno=errno.EBUSY,
        )
    return kernel_error("open TAP", ifname, error.errno or 0)
