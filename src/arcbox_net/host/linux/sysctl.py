"""Forwarding: switched on by the first network that needs it, put back as it was by the last.

One record for all networks of a network namespace lies in `record_dir`, under a lock. It is durable before the
kernel is changed, and names every value that the change touches: writing `ip_forward` also rewrites
`forwarding` of every interface and `accept_redirects` (ip-sysctl.rst).

IPv6 forwarding makes a router of the host, which then ignores the advertisements that it has its own default
route from. Linux 6.17 forwards without that (`force_forwarding`); before, those interfaces are told to listen
on (`accept_ra` 2) first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from arcbox_net.errors import KernelError, PermissionDenied
from arcbox_net.host.linux.namespace import current_inode
from arcbox_net.host.linux.netlink import kernel_error

IPV4: Final = Path("/proc/sys/net/ipv4")
SWITCH: Final = "ip_forward"
# RFC 5508 REQ-2. The other idle times are in the ruleset, but nft has no words for ICMP's.
ICMP_IDLE: Final = ("../netfilter/nf_conntrack_icmp_timeout", "../netfilter/nf_conntrack_icmpv6_timeout")
ICMP_IDLE_S: Final = 60
IPV6: Final = "../ipv6/conf"
FORCE6: Final = f"{IPV6}/all/force_forwarding"
SWITCH6: Final = f"{IPV6}/all/forwarding"
LOCK: Final = "forwarding.lock"


def enable_forwarding(
    network: str,
    ifnames: Collection[str],
    record_dir: Path,
    *,
    live: Collection[str] | None = None,
    ipv6: bool = False,
) -> None:
    """Let the host forward IPv4, for *network*. *live*: the networks that run; records of others are dropped.

    *ifnames*: interfaces that must forward even where an administrator has switched it off for one. With *ipv6*
    the host forwards that too, if it can be made to.
    """
    with _locked(record_dir):
        record = _load(record_dir)
        networks = _still(record, live) | {network}
        touched = record["touched"]
        wanted = {
            f"conf/{ifname}/forwarding" for ifname in ifnames if _value(f"conf/{ifname}/forwarding") == "0"
        }
        if _value(SWITCH) == "0":
            for name in _all_that_the_switch_changes():
                touched.setdefault(name, _value(name))
        for name in wanted:
            touched.setdefault(name, "0")
        for name in ICMP_IDLE:
            icmp_idle = _value(name)
            if icmp_idle is not None and int(icmp_idle) < ICMP_IDLE_S:
                touched.setdefault(name, icmp_idle)
        changes6 = _changes6() if ipv6 else {}
        for name in changes6:
            for changed in _all_that_changes6(name):
                touched.setdefault(changed, _value(changed))
        _store(record_dir, networks, touched)
        if _value(SWITCH) == "0":
            _write(SWITCH, "1")
        for name in sorted(wanted):
            _write(name, "1")
        for name in ICMP_IDLE:
            if touched.get(name) is not None:
                with contextlib.suppress(PermissionDenied, KernelError):  # no reason to go without a network
                    _write(name, str(ICMP_IDLE_S))
        with contextlib.suppress(PermissionDenied):  # IPv4 works; `doctor` says what IPv6 lacks
            for name, value in changes6.items():
                _write(name, value)


def restore_forwarding(network: str, record_dir: Path, *, live: Collection[str] | None = None) -> None:
    """*network* needs no forwarding any more. The last network puts back what the first one found."""
    if not _record(record_dir).exists():
        return
    with _locked(record_dir):
        record = _load(record_dir)
        networks = _still(record, live) - {network}
        touched = record["touched"]
        begun = not record["networks"]  # an earlier restoration was interrupted
        _store(record_dir, networks, touched)
        if networks:
            return
        for of_version in (False, True):
            names = [name for name in touched if name.startswith(IPV6) is of_version]
            switch = next((name for name in (SWITCH, FORCE6, SWITCH6) if name in names), None)
            # Someone who switched forwarding off since then meant it, and has reset the rest with it.
            if not begun and switch is not None and _value(switch) != "1":
                continue
            for name in sorted(names, key=lambda name: (name != switch, "accept_ra" in name)):
                if _value(name) not in (None, touched[name]):
                    _write(name, touched[name])
        _record(record_dir).unlink(missing_ok=True)


def has_ipv6() -> bool:
    """Whether new interfaces here can have IPv6: the kernel knows it and nobody switched it off."""
    return all(_value(f"{IPV6}/{entry}/disable_ipv6") == "0" for entry in ("all", "default"))


def _still(record: dict[str, Any], live: Collection[str] | None) -> set[str]:
    return {name for name in record["networks"] if live is None or name in live}


def _all_that_the_switch_changes() -> list[str]:
    forwarding = [f"conf/{entry}/forwarding" for entry in sorted(os.listdir(IPV4 / "conf"))]
    return [SWITCH, "conf/all/accept_redirects", *forwarding]


def _changes6() -> dict[str, str]:
    """What to write so that the host forwards IPv6, in this order; nothing when it does."""
    if _value(SWITCH6) != "0":
        return {}
    force = _value(FORCE6)
    if force is not None:
        # `all` sets every interface that there is, `default` those that will be.
        return {FORCE6: "1", f"{IPV6}/default/force_forwarding": "1"} if force == "0" else {}
    listening = {f"{IPV6}/{entry}/accept_ra": "2" for entry in _entries6() if _accepts_ra(entry)}
    return {**listening, SWITCH6: "1"}


def _accepts_ra(entry: str) -> bool:
    return _value(f"{IPV6}/{entry}/accept_ra") == "1"


def _all_that_changes6(name: str) -> list[str]:
    if name not in (FORCE6, SWITCH6):
        return [name]
    return [name, *(f"{IPV6}/{entry}/{name.rpartition('/')[2]}" for entry in _entries6() if entry != "all")]


def _entries6() -> list[str]:
    return sorted(os.listdir(IPV4 / IPV6))


def _value(name: str) -> str | None:
    """The sysctl's value, None when its interface is gone."""
    try:
        return (IPV4 / name).read_text().strip()
    except OSError:
        return None


def _write(name: str, value: str) -> None:
    try:
        (IPV4 / name).write_text(value)
    except FileNotFoundError:
        return
    except OSError as error:
        sysctl = (
            f"net.ipv4.{name.replace('/', '.')}" if name[0] != "." else "net" + name[2:].replace("/", ".")
        )
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise kernel_error("write", sysctl, error.errno or 0) from None
        raise PermissionDenied(
            f"write sysctl {sysctl}: {error.strerror}",
            fix="run as root; in a container, make /proc/sys writable or set ip_forward on its host",
            operation="write sysctl",
        ) from None


@contextlib.contextmanager
def _locked(record_dir: Path) -> Iterator[None]:
    record_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(record_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _load(record_dir: Path) -> dict[str, Any]:
    """The record of this boot and this network namespace; an empty one if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(_record(record_dir).read_text())
        if record["where"] == _where():
            return {"networks": list(record["networks"]), "touched": dict(record["touched"])}
    return {"networks": [], "touched": {}}


def _store(record_dir: Path, networks: Collection[str], touched: Mapping[str, str | None]) -> None:
    body = {"where": _where(), "networks": sorted(networks), "touched": touched}
    record = _record(record_dir)
    temporary = record.with_suffix(".new")
    with open(temporary, "w") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, record)


def _record(record_dir: Path) -> Path:
    return record_dir / f"forwarding-{current_inode()}.json"


def _where() -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {current_inode()}"
