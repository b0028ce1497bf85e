"""What this machine can do for our networks, what is in the way, and the command that helps. Changes nothing.

Each check is one function that reads below *root* (a directory in tests) and returns one Check. Only what would
stop or hurt a network fails; the rest informs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import resource
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.check import Check
from arcbox_net.host.linux import conntrack, foreign, inside
from arcbox_net.host.linux.egress6 import reaches_ipv6
from arcbox_net.host.linux.kernel import SYSCTL_FIX
from arcbox_net.host.linux.listeners import wildcard_listeners
from arcbox_net.host.linux.nftables import Firewall, nft_path
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.host.linux.tap import TUN_MODE_FIX, kernel_version
from arcbox_net.host.plan import parse_alias

NFT_VERSION_MIN = (1, 0, 0)
KERNEL_MIN = (5, 10)
OWNED_TABLES_KERNEL = (5, 12)
NOFILE_MIN = 4096
CONNTRACK_MAX_MIN = 65536
PIPE_PAGES_MIN = 16384  # the kernel's own default, 64 MiB for all pipes of a user
PIPE_PAGES_FIX = 131072
PIPE_BYTES = 1 << 20  # of one of the relay's
_CAP_NET_ADMIN = 12
_TUNGETFEATURES = 0x800454CF
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SYSCTL_DIRECTORIES = (
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
)
_FORWARDING_OFF = re.compile(
    r"^\s*-?net[./]ipv4[./](?:ip_forward|conf[./]all[./]forwarding)\s*=\s*0", re.MULTILINE
)


def checks(live: Collection[str] | None = None, *, root: Path = Path("/")) -> list[Check]:
    """Everything, in the order in which it matters. *live*: networks that run; None: leftovers are not looked for."""
    is_capable = _is_capable(root)
    found = [_privileges(is_capable), _kernel(), _nft(), _tun(root), _bridge(root)]
    if is_capable:
        found += [
            _forwarding(root),
            *_foreign_firewalls(root),
            _bridge_netfilter(),
            *_services(root),
            _conntrack(root),
        ]
    found += [
        _ipv6(root, is_capable),
        _resolv_conf(root),
        _open_files(),
        _user_namespaces(root, needed=not is_capable),
        _sysctls(root),
        _ping_group_range(root),
        _unprivileged_ports(root),
    ]
    if not is_capable:
        found.append(_pipes(root))
    if live is not None and is_capable:  # without the power, what a network makes goes with its process
        found.append(_leftovers(live, root))
    return found


def _is_capable(root: Path) -> bool:
    status = _read(root, "proc/self/status") or ""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return effective is not None and bool(int(effective.group(1), 16) >> _CAP_NET_ADMIN & 1)


def _privileges(is_capable: bool) -> Check:
    if is_capable:
        return Check("privileges", True, "CAP_NET_ADMIN: all kinds of networks")
    detail = "none: NAT (by relay) and host-only networks; bridge networks and masquerade need CAP_NET_ADMIN"
    return Check("privileges", True, detail)


def _kernel() -> Check:
    release = platform.release()
    version = kernel_version(release)
    if version < KERNEL_MIN:
        wanted = ".".join(map(str, KERNEL_MIN))
        return Check("kernel", False, f"{release} is older than {wanted}", "boot a newer kernel")
    guarded = "" if version >= OWNED_TABLES_KERNEL else ", too old to guard the rules against a flush (5.12)"
    return Check("kernel", True, release + guarded)


def _nft() -> Check:
    path = nft_path()
    if not os.path.isabs(path):
        return Check("nftables", False, "nft is not installed", "apt-get install nftables")
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return Check("nftables", False, f"{path} --version says {text.strip()!r}", "apt-get install nftables")
    number = match.group(0)
    if tuple(map(int, match.groups())) < NFT_VERSION_MIN:
        return Check("nftables", False, f"nft {number} is too old", "apt-get install --only-upgrade nftables")
    listed = subprocess.run([path, "list", "tables"], capture_output=True, text=True, check=False)
    if listed.returncode and os.geteuid() == 0:
        reason = (listed.stderr.strip().splitlines() or ["no reason given"])[0]
        return Check("nftables", False, f"nft {number}: {reason}", "modprobe nf_tables")
    return Check("nftables", True, f"nft {number}")


def _tun(root: Path) -> Check:
    path = root / "dev/net/tun"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        fix = "mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200; modprobe tun"
        return Check("tun", False, "/dev/net/tun is missing", fix)
    except OSError as error:
        fix = TUN_MODE_FIX if isinstance(error, PermissionError) else "modprobe tun"
        return Check("tun", False, f"/dev/net/tun: {error.strerror}", fix)
    try:
        fcntl.ioctl(fd, _TUNGETFEATURES, b"\0" * 4)
    except OSError as error:
        return Check("tun", False, f"/dev/net/tun: {error.strerror}", "modprobe tun")
    finally:
        os.close(fd)
    return Check("tun", True, "/dev/net/tun opens")


def _bridge(root: Path) -> Check:
    release = platform.release()
    if (root / "sys/module/bridge").exists():
        return Check("bridge", True, "loaded")
    for listing in ("modules.builtin", "modules.dep"):
        if re.search(r"(^|/)bridge\.ko", _read(root, f"lib/modules/{release}/{listing}") or "", re.MULTILINE):
            return Check("bridge", True, "built in" if listing == "modules.builtin" else "module available")
    return Check("bridge", False, "this kernel has no bridge module", "modprobe bridge")


def _forwarding(root: Path) -> Check:
    value = (_read(root, "proc/sys/net/ipv4/ip_forward") or "?").strip()
    forbidding = [path for path in _sysctl_files(root) if _FORWARDING_OFF.search(_read(root, path) or "")]
    if forbidding:
        fix = "echo 'net.ipv4.ip_forward = 1' > /etc/sysctl.d/99-zz-arcbox-net.conf && sysctl --system"
        detail = f"/{forbidding[0]} switches it off: guests lose the outside at every `sysctl --system`"
        return Check("ip_forward", False, detail, fix)
    if value == "1":
        return Check("ip_forward", True, "on")
    if os.geteuid() == 0 and not os.access(root / "proc/sys/net/ipv4/ip_forward", os.W_OK):
        return Check(
            "ip_forward", False, "off, and /proc/sys is read-only", "sysctl -w net.ipv4.ip_forward=1"
        )
    return Check("ip_forward", True, "off; a NAT network switches it on and back")


def _sysctl_files(root: Path) -> Iterator[str]:
    yield "etc/sysctl.conf"
    for directory in _SYSCTL_DIRECTORIES:
        yield from sorted(str(path.relative_to(root)) for path in (root / directory).glob("*.conf"))


def _foreign_firewalls(root: Path) -> list[Check]:
    present = []
    try:
        chains = foreign.list_chains()
    except OSError:
        chains = []
    present += sorted({foreign.owner_of(chain, chains) for chain in chains if chain.hook is not None})
    if "docker" not in present and (root / "run/docker.sock").exists():
        present.append("docker")
    if "ufw" not in present and "ENABLED=yes" in (_read(root, "etc/ufw/ufw.conf") or ""):
        present.append("ufw")
    with RouteSocket() as rt:
        drops = foreign.foreign_drops(ipv6=reaches_ipv6(rt))
    summary = f"present: {', '.join(present)}" if present else "none"
    if not drops:
        return [Check("other firewalls", True, summary + (", none drops what is ours" if present else ""))]
    return [Check("other firewalls", False, drop.message, drop.fix) for drop in drops]


def _bridge_netfilter() -> Check:
    if foreign.bridge_netfilter():
        detail = "on: IP rules of others also see frames between guests, and cost them speed"
        return Check(
            "bridge-nf-call-iptables", True, detail, "sysctl -w net.bridge.bridge-nf-call-iptables=0"
        )
    return Check("bridge-nf-call-iptables", True, "off")


def _services(root: Path) -> list[Check]:
    """Servers on every address of the host leave no room for ours on the gateway's."""
    found = []
    for name, protocol, port in (
        ("DNS port 53", "udp", 53),
        ("DNS port 53", "tcp", 53),
        ("DHCP port 67", "udp", 67),
    ):
        holder = next(iter(wildcard_listeners(protocol, port, root=root)), None)
        if holder is not None:
            who, fix = holder, f"ss -lnp 'sport = :{port}'"
            if "dnsmasq" in holder:
                fix = "echo bind-dynamic > /etc/dnsmasq.d/arcbox-net.conf && systemctl restart dnsmasq"
            detail = f"{who} listens on every address, {port}/{protocol}"
            found.append(
                Check(name, False, detail, f"{fix}   (then stop it or bind it to its own addresses)")
            )
    return found or [Check("ports 53 and 67", True, "free")]


def _ipv6(root: Path, is_capable: bool) -> Check:
    """What guests get of IPv6. A host without it is no fault."""
    for entry in ("all", "default"):
        value = _number(root, f"proc/sys/net/ipv6/conf/{entry}/disable_ipv6")
        if value is None:
            return Check("ipv6", True, "this kernel has none: guests get IPv4 only")
        if value:
            fix = f"sysctl -w net.ipv6.conf.{entry}.disable_ipv6=0"
            return Check("ipv6", True, "switched off on this host: guests get IPv4 only", fix)
    with RouteSocket() as rt:
        if not reaches_ipv6(rt):
            detail = (
                "no default route: guests have addresses and names, and no way out until this host has one"
            )
            return Check("ipv6", True, detail)
    switches = [root / f"proc/sys/net/ipv6/conf/all/{name}" for name in ("force_forwarding", "forwarding")]
    if is_capable and not any(_text(path).strip() == "1" or os.access(path, os.W_OK) for path in switches):
        detail = "forwarding is off, and /proc/sys is read-only: guests' packets go nowhere"
        return Check("ipv6", False, detail, "sysctl -w net.ipv6.conf.all.forwarding=1")
    return Check("ipv6", True, "default route: guests reach the outside, too")


def _resolv_conf(root: Path) -> Check:
    text = _read(root, "etc/resolv.conf")
    if text is None:
        return Check(
            "resolv.conf",
            False,
            "/etc/resolv.conf cannot be read",
            "echo nameserver 9.9.9.9 > /etc/resolv.conf",
        )
    servers = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    if not servers:
        fix = "echo nameserver 9.9.9.9 >> /etc/resolv.conf"
        return Check("resolv.conf", False, "names no server: guests can resolve nothing outside", fix)
    return Check("resolv.conf", True, ", ".join(servers))


def _open_files() -> Check:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    detail = "unlimited" if unlimited else f"{hard} open files a process"
    if unlimited or hard >= NOFILE_MIN:
        return Check("nofile", True, detail)
    return Check("nofile", False, f"{detail}: too few for large forward ranges", f"ulimit -Hn {NOFILE_MIN}")


def _conntrack(root: Path) -> Check:
    found = conntrack.room(root)
    if found is None:
        return Check("conntrack", True, "not loaded yet")
    if found.is_nearly_full:
        return Check("conntrack", False, f"{found}: nearly full, new ones will be dropped", found.fix)
    if found.limit < CONNTRACK_MAX_MIN:
        return Check("conntrack", False, f"{found}: few for a host of guests", found.fix)
    return Check("conntrack", True, str(found))


def _user_namespaces(root: Path, *, needed: bool) -> Check:
    """Fails only where networks need them: without CAP_NET_ADMIN."""
    name = "user namespaces"
    if obstacle := inside.user_namespace_obstacle(root):
        _setting, message, fix = obstacle
        return Check(name, not needed, message, fix)
    refusal = inside.try_namespaces() if needed and root == Path("/") else None
    if refusal is not None:
        return Check(name, False, refusal.message, refusal.fix)
    return Check(name, True, "available to every user")


def _sysctls(root: Path) -> Check:
    try:
        read_only = bool(os.statvfs(root / "proc/sys").f_flag & os.ST_RDONLY)
    except OSError:
        return Check("sysctl", False, "/proc/sys is missing", "mount -t proc proc /proc")
    if read_only:
        return Check("sysctl", False, "/proc/sys is read-only: no network can forward", SYSCTL_FIX)
    return Check("sysctl", True, "/proc/sys is writable")


def _ping_group_range(root: Path) -> Check:
    words = (_read(root, "proc/sys/net/ipv4/ping_group_range") or "").split()
    if len(words) == 2 and int(words[0]) <= int(words[1]):
        return Check("ping without root", True, f"groups {words[0]} to {words[1]}")
    detail = "off (net.ipv4.ping_group_range): guests behind a relay cannot ping the outside"
    return Check("ping without root", True, detail, 'sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"')


def _unprivileged_ports(root: Path) -> Check:
    name = "host ports without root"
    start = _number(root, "proc/sys/net/ipv4/ip_unprivileged_port_start")
    if start is None:
        return Check(name, True, "1024 and above")
    if start == 0:
        return Check(name, True, "all")
    fix = "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"
    return Check(name, True, f"{start} and above (net.ipv4.ip_unprivileged_port_start)", fix)


def _pipes(root: Path) -> Check:
    """The relay splices through pipes, which all programs of a user share; root has as many as it wants."""
    name = "pipes without root"
    pages = _number(root, "proc/sys/fs/pipe-user-pages-soft")
    if pages is None:
        return Check(name, True, "no limit known")
    fix = f"sudo sysctl -w fs.pipe-user-pages-soft={PIPE_PAGES_FIX}"
    detail = f"{pages * _PAGE_BYTES >> 20} MiB for all programs of a user (fs.pipe-user-pages-soft)"
    if 0 < pages < PIPE_PAGES_MIN:
        return Check(
            name, False, f"{detail}: too few, connections to the outside will cost twice the time", fix
        )
    if root == Path("/") and not _has_pipe():
        detail += " are taken, by other programs of yours: new networks will be slower"
        return Check(name, False, detail, fix)
    return Check(name, True, detail if pages else "unlimited")


def _has_pipe() -> bool:
    """Whether this user gets another pipe of the size that the relay wants."""
    ends = os.pipe()
    try:
        return fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, PIPE_BYTES) >= PIPE_BYTES
    except PermissionError:
        return False
    finally:
        for end in ends:
            os.close(end)


def _leftovers(live: Collection[str], root: Path) -> Check:
    names = set()
    for alias in (root / "sys/class/net").glob("*/ifalias"):
        parsed = parse_alias(_text(alias).strip())
        if parsed is not None:
            names.add(parsed[0])
    with contextlib.suppress(ArcboxNetError):  # no right to list tables: then the links tell
        names.update(Firewall.owned_networks())
    dead = sorted(names - set(live))
    if dead:
        detail = f"networks that do not run left interfaces or rules: {', '.join(dead)}"
        return Check("leftovers", False, detail, " && ".join(f"arcbox-net down {name}" for name in dead))
    return Check("leftovers", True, "none")


def _read(root: Path, name: str) -> str | None:
    path = root / name
    return _text(path) if path.exists() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(root: Path, name: str) -> int | None:
    text = (_read(root, name) or "").strip()
    return int(text) if text.isdigit() else None
