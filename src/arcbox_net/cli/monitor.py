"""Which commands are VM monitors, and the flags that give them a card. Pure: arguments in, arguments out.

What the user wrote stays as it is, with one exception: a `-device …,netdev=abx0` without `mac=` gets the
port's MAC, because a guest with any other is not let through.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from itertools import pairwise

from arcbox_net.cli.monitor_sockets import cloud_hypervisor_net, has_vectors, qemu_netdev
from arcbox_net.errors import ConfigError

NETDEV = "abx0"
QEMU, CLOUD_HYPERVISOR, FIRECRACKER = "qemu", "cloud-hypervisor", "firecracker"
VFKIT, KRUNKIT = "vfkit", "krunkit"
# Which cards each monitor has, the best one first.
_VIAS = {
    QEMU: ("tap", "stream", "dgram", "vhost-user"),
    CLOUD_HYPERVISOR: ("tap", "vhost-user"),
    FIRECRACKER: ("tap",),
    VFKIT: ("dgram",),
    KRUNKIT: ("dgram",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Nic:
    """The attached port, as flags need it: `fds` of a TAP, or the `socket` of another kind.

    `guest_socket`: QEMU's own end of dgram. `qemu`: its version, if that is what is started, and it says so.
    """

    mac: str
    mtu: int
    fds: tuple[int, ...] = ()
    via: str = "tap"
    socket: str | None = None
    guest_socket: str | None = None
    queues: int = 1
    qemu: tuple[int, int] | None = None


def monitor_of(command: Sequence[str]) -> str | None:
    """The kind of VM monitor that *command* starts, or None for any other command."""
    program = os.path.basename(command[0])
    if program.startswith("qemu-system-") or program in ("qemu-kvm", "kvm", "qemu"):
        return QEMU
    return program if program in _VIAS else None


def choose_via(kind: str, wanted: str | None, served: Collection[str]) -> str:
    """How a monitor of that kind gets its card: as *wanted*, or the best of what the network has *served*.

    Raises ConfigError.
    """
    if wanted is None:
        return next((via for via in _VIAS[kind] if via in served), _VIAS[kind][0])
    if wanted not in _VIAS[kind]:
        raise ConfigError(
            f"{kind} has no card for --via {wanted}",
            fix=f"leave --via out, or --via {' or '.join(_VIAS[kind])}",
            field="via",
            value=wanted,
        )
    return wanted


def wanted_mac(command: Sequence[str]) -> str | None:
    """The MAC of the user's own `-device …,netdev=abx0`, if there is one."""
    index = _own_device(command)
    return _properties(command[index]).get("mac") if index is not None else None


def with_nic(kind: str, command: Sequence[str], nic: Nic) -> list[str]:
    """*command* with the flags that make *nic* a network card of the guest. Raises ConfigError."""
    if kind == QEMU:
        return _qemu(command, nic)
    if kind == CLOUD_HYPERVISOR:
        return _cloud_hypervisor(command, nic)
    if kind in (VFKIT, KRUNKIT):
        return [*command, "--device", f"virtio-net,unixSocketPath={nic.socket},mac={nic.mac}"]
    raise ValueError(f"{kind} opens its TAP by name")


def _qemu(command: Sequence[str], nic: Nic) -> list[str]:
    for flag, value in pairwise(command):
        if flag.lstrip("-") == "netdev" and _properties(value).get("id") == NETDEV:
            raise ConfigError(
                f"{flag} {value}: the id {NETDEV} is what `run` adds",
                fix=f"leave this flag out, or give your netdev another id; a -device may say netdev={NETDEV}",
                field="netdev",
                value=value,
            )
    result = list(command)
    if nic.via == "tap":
        descriptors = ":".join(map(str, nic.fds))
        which = "fd" if len(nic.fds) == 1 else "fds"
        result += ["-netdev", f"tap,id={NETDEV},{which}={descriptors},vhost=off"]
    else:
        result += qemu_netdev(command, nic, NETDEV)
    own = _own_device(command)
    if own is not None:
        if "mac" not in _properties(result[own]):
            result[own] += f",mac={nic.mac}"
        return result
    device = f"{_qemu_card(command)},netdev={NETDEV},mac={nic.mac},host_mtu={nic.mtu}"
    queues = len(nic.fds) or nic.queues
    if queues > 1:
        device += ",mq=on"
    if "-pci" in device:
        if nic.via == "vhost-user" and not has_vectors(command, nic):
            device += ",vectors=0"
        elif queues > 1:
            device += f",vectors={2 * queues + 2}"
    return [*result, "-device", device]


def _qemu_card(command: Sequence[str]) -> str:
    """The virtio card for the machine: PCI, but for microvm and s390x, which have no PCI bus by default."""
    if "s390x" in os.path.basename(command[0]):
        return "virtio-net-ccw"
    for flag, value in pairwise(command):
        if flag.lstrip("-") in ("M", "machine") and value.split(",")[0].removeprefix("type=") == "microvm":
            return "virtio-net-device"
    return "virtio-net-pci"


def _own_device(command: Sequence[str]) -> int | None:
    for i in range(1, len(command)):
        if command[i - 1].lstrip("-") == "device" and _properties(command[i]).get("netdev") == NETDEV:
            return i
    return None


def _properties(value: str) -> dict[str, str]:
    return {key: text for key, _, text in (part.partition("=") for part in value.split(","))}


def _cloud_hypervisor(command: Sequence[str], nic: Nic) -> list[str]:
    if nic.via == "tap":
        descriptors = str(nic.fds[0]) if len(nic.fds) == 1 else f"[{','.join(map(str, nic.fds))}]"
        value = f"fd={descriptors},mac={nic.mac},mtu={nic.mtu}"
        if len(nic.fds) > 1:
            value += f",num_queues={2 * len(nic.fds)}"
    else:
        value = cloud_hypervisor_net(command, nic)
    if "--net" in command:  # it takes several values, but only once
        at = list(command).index("--net") + 1
        return [*command[:at], value, *command[at:]]
    return [*command, "--net", value]


def firecracker_config(document: object, ifname: str, mac: str) -> dict[str, object]:
    """A firecracker configuration with the TAP as interface `abx0`. Raises ConfigError."""
    if not isinstance(document, dict) or not isinstance(document.get("network-interfaces", []), list):
        raise ConfigError("--config-file is not a firecracker configuration", field="config-file")
    others = [
        item
        for item in document.get("network-interfaces", [])
        if not isinstance(item, dict) or item.get("iface_id") != NETDEV
    ]
    card = {"iface_id": NETDEV, "host_dev_name": ifname, "guest_mac": mac}
    return {**document, "network-interfaces": [*others, card]}
