"""`vmnet_return_t` as our errors, each with what to do about it."""

from __future__ import annotations

import enum

from arcbox_net.errors import (
    ArcboxNetError,
    BuffersExhausted,
    ConfigError,
    KernelError,
    LimitReached,
    PermissionDenied,
    ServiceError,
    Unsupported,
)


class VmnetStatus(enum.IntEnum):
    """`vmnet_return_t`, and what the shim adds."""

    NO_ANSWER = 1
    TOO_OLD = 2
    SUCCESS = 1000
    FAILURE = 1001
    MEM_FAILURE = 1002
    INVALID_ARGUMENT = 1003
    SETUP_INCOMPLETE = 1004
    INVALID_ACCESS = 1005
    PACKET_TOO_BIG = 1006
    BUFFER_EXHAUSTED = 1007
    TOO_MANY_PACKETS = 1008
    SHARING_SERVICE_BUSY = 1009
    NOT_AUTHORIZED = 1010


_PRIVILEGE = "run as root or with the entitlement com.apple.vm.networking; from macOS 26 on, start it in a VmnetNetwork"
_TEXTS: dict[VmnetStatus, tuple[type[ArcboxNetError], str, str]] = {
    VmnetStatus.NO_ANSWER: (
        ServiceError,
        "the system's sharing service did not answer",
        "try again; if that does not help: sudo killall InternetSharing (it is started again by the next network)",
    ),
    VmnetStatus.TOO_OLD: (Unsupported, "this macOS cannot do that", "it came with macOS 26"),
    VmnetStatus.FAILURE: (KernelError, "vmnet failed", f"if this is a first start: {_PRIVILEGE}"),
    VmnetStatus.MEM_FAILURE: (KernelError, "vmnet has no memory for it", "end programs that use a lot of it"),
    VmnetStatus.INVALID_ARGUMENT: (
        ConfigError,
        "vmnet refuses a value",
        "check subnet, MTU, prefix and the name of the bridged interface",
    ),
    VmnetStatus.SETUP_INCOMPLETE: (ServiceError, "the interface is not set up yet", "try again"),
    VmnetStatus.INVALID_ACCESS: (PermissionDenied, "vmnet denies access", _PRIVILEGE),
    VmnetStatus.PACKET_TOO_BIG: (KernelError, "a packet is larger than the interface takes", "lower the MTU"),
    VmnetStatus.BUFFER_EXHAUSTED: (BuffersExhausted, "the kernel has no buffers for packets", "try again"),
    VmnetStatus.TOO_MANY_PACKETS: (LimitReached, "more packets at once than vmnet takes", "try fewer"),
    VmnetStatus.SHARING_SERVICE_BUSY: (
        ServiceError,
        "Internet Sharing or another program has that network",
        "choose another subnet, or turn Internet Sharing off in System Settings, General, Sharing",
    ),
    VmnetStatus.NOT_AUTHORIZED: (PermissionDenied, "macOS does not authorize that", _PRIVILEGE),
}


def raise_for(status: int, operation: str, subject: str) -> None:
    """Raise what *status* of *operation* on *subject* means; nothing if it is success."""
    if status == VmnetStatus.SUCCESS:
        return
    try:
        known = VmnetStatus(status)
    except ValueError:
        raise KernelError(
            f"{operation} of {subject}: vmnet said {status}",
            operation=operation,
            object=subject,
            errno=status,
        ) from None
    cls, text, fix = _TEXTS[known]
    raise cls(
        f"{operation} of {subject}: {text}", fix=fix, operation=operation, object=subject, status=known.name
    )
