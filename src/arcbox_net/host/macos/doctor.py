"""What this Mac can do for our networks, what is in the way, and what helps. Changes nothing.

Each check reads what one command of the system says, or a file; tests give it what was said elsewhere.
"""

from __future__ import annotations

import os
import plistlib
import re
import resource
import subprocess
import sys
from pathlib import Path
from xml.parsers.expat import ExpatError

from arcbox_net.host.check import Check

MACOS_MIN = (11, 0)
OFFLOADS_SINCE = (15, 4)
EVERYBODY_SINCE = (26, 0)
NOFILE_MIN = 1024
COMMAND_TIMEOUT_S = 10.0
ENTITLEMENT = "com.apple.vm.networking"
SHARING = Path("/Library/Preferences/SystemConfiguration/com.apple.nat.plist")
FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
# Releases have said it in several ways, some of them with "block all" where it is off.
_BLOCKS_ALL = re.compile(r"non-essential|State = 2|set to enabled|block all is on", re.IGNORECASE)
SHARING_FIX = (
    "System Settings, General, Sharing: turn Internet Sharing off, or give the network another subnet"
)


class Mac:
    """Where the facts are from."""

    @property
    def is_root(self) -> bool:
        return os.geteuid() == 0

    def said(self, *command: str) -> str | None:
        """What *command* printed, on both streams; None if it cannot be run."""
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout + done.stderr

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError:
            return None


def checks(mac: Mac) -> list[Check]:
    """Everything, in the order in which it matters."""
    release = _release(mac)
    entitled = _is_entitled(mac)
    return [
        _macos(release),
        _privileges(mac, release, entitled),
        _sharing(mac),
        _application_firewall(mac),
        _packet_filter(mac),
        _bridgeable(mac),
        _open_files(),
    ]


def _release(mac: Mac) -> tuple[int, ...]:
    """Empty where the system does not say."""
    match = re.match(r"\s*(\d+)(?:\.(\d+))?", mac.said("/usr/bin/sw_vers", "-productVersion") or "")
    return (int(match.group(1)), int(match.group(2) or 0)) if match else ()


def _macos(release: tuple[int, ...]) -> Check:
    text = ".".join(map(str, release)) or "unknown"
    if release < MACOS_MIN:
        wanted = ".".join(map(str, MACOS_MIN))
        return Check("macos", False, f"{text} is older than {wanted}", "install a newer macOS")
    if release < OFFLOADS_SINCE:
        return Check("macos", True, f"{text}: without super-frames, which came with 15.4")
    if release < EVERYBODY_SINCE:
        return Check("macos", True, f"{text}: without networks for everybody, which came with 26")
    return Check("macos", True, text)


def _is_entitled(mac: Mac) -> bool:
    """Whether the interpreter that runs us is signed with the entitlement."""
    said = mac.said("/usr/bin/codesign", "--display", "--entitlements", "-", sys.executable) or ""
    return ENTITLEMENT in said


def _privileges(mac: Mac, release: tuple[int, ...], entitled: bool) -> Check:
    if mac.is_root:
        return Check("privileges", True, "root: all kinds of networks")
    if entitled:
        return Check("privileges", True, f"the entitlement {ENTITLEMENT}: all kinds of networks")
    if release >= EVERYBODY_SINCE:
        return Check("privileges", True, "none: NAT and host-only networks; bridge networks need root")
    return Check(
        "privileges",
        False,
        f"vmnet needs root or the entitlement {ENTITLEMENT} before macOS 26",
        "sudo arcbox-net up NAME",
    )


def _sharing(mac: Mac) -> Check:
    """Internet Sharing runs on the same service, and has its subnet before us."""
    raw = mac.read(SHARING)
    if raw is None:
        return Check("internet sharing", True, "off")
    try:
        nat = plistlib.loads(raw).get("NAT", {})
        enabled = bool(nat.get("Enabled"))
        subnet = str(nat.get("SharingNetworkNumberStart", ""))
    except (plistlib.InvalidFileException, ExpatError, ValueError, AttributeError, TypeError, IndexError):
        return Check("internet sharing", True, f"{SHARING} cannot be read")
    if enabled:
        where = f" with {subnet}" if subnet else ""
        return Check(
            "internet sharing", False, f"on{where}: it and NAT networks take each other's subnet", SHARING_FIX
        )
    return Check("internet sharing", True, "off")


def _application_firewall(mac: Mac) -> Check:
    said = mac.said(FIREWALL, "--getglobalstate")
    if said is None or "disabled" in said:
        return Check("application firewall", True, "off" if said else "unknown")
    if _BLOCKS_ALL.search(said + (mac.said(FIREWALL, "--getblockall") or "")):
        return Check(
            "application firewall",
            False,
            "blocks all incoming connections: forwards on single addresses get no client, guests no service of the Mac",
            f"sudo {FIREWALL} --setblockall off",
        )
    return Check("application firewall", True, "on: it asks before forwards on single addresses are reached")


def _packet_filter(mac: Mac) -> Check:
    """NAT of the system is made of pf rules, in anchors that a ruleset of one's own may have left out."""
    info = mac.said("/sbin/pfctl", "-s", "info")
    if info is None or "ermission denied" in info or "not permitted" in info:
        return Check("packet filter", True, "unknown: only root may ask")
    if "Status: Enabled" not in info:
        return Check("packet filter", True, "off until a network needs it")
    anchors = mac.said("/sbin/pfctl", "-s", "Anchors") or ""
    if "com.apple" not in anchors:
        return Check(
            "packet filter",
            False,
            "the ruleset has no anchor com.apple: the system's NAT cannot work",
            "sudo pfctl -f /etc/pf.conf",
        )
    return Check("packet filter", True, "on, with the system's anchors")


def _bridgeable(mac: Mac) -> Check:
    """Interfaces as `networksetup` lists them; vmnet itself says which it bridges when it is asked."""
    said = mac.said("/usr/sbin/networksetup", "-listallhardwareports") or ""
    names = re.findall(r"^Device: (\S+)$", said, re.MULTILINE)
    return Check("interfaces", True, f"for --nic: {', '.join(names)}" if names else "none for --nic")


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else NOFILE_MIN
    ok = limit >= NOFILE_MIN
    return Check("open files", ok, f"{soft} of at most {hard}", None if ok else f"ulimit -n {NOFILE_MIN}")
