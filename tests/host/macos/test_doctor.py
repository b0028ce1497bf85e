"""What doctor says of a Mac, by what its commands said."""

from __future__ import annotations

import plistlib
from pathlib import Path

import pytest

from arcbox_net.host.check import Check
from arcbox_net.host.macos import doctor

PF_ON = "No ALTQ support in kernel\nALTQ related functions disabled\nStatus: Enabled for 0 days 00:41:12\n"
PORTS = """
Hardware Port: Wi-Fi
Device: en0
Ethernet Address: 02:11:22:33:44:55

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 02:11:22:33:44:56
"""


class Recorded(doctor.Mac):
    """A Mac of recorded texts: by the last word of the command that matters."""

    def __init__(
        self, texts: dict[str, str], files: dict[Path, bytes] | None = None, root: bool = False
    ) -> None:
        self._texts = {
            "-productVersion": "15.5\n",
            "--getglobalstate": "Firewall is disabled. (State = 0) \n",
            "info": "pfctl: /dev/pf: Permission denied\n",
            "-listallhardwareports": PORTS,
        } | texts
        self._files = files or {}
        self._root = root

    @property
    def is_root(self) -> bool:
        return self._root

    def said(self, *command: str) -> str | None:
        return self._texts.get(command[-1], self._texts.get("codesign") if "codesign" in command[0] else None)

    def read(self, path: Path) -> bytes | None:
        return self._files.get(path)


def check(name: str, mac: Recorded) -> Check:
    return next(one for one in doctor.checks(mac) if one.name == name)


@pytest.mark.parametrize(
    ("version", "ok", "detail"),
    [
        ("10.15.7\n", False, "older than 11.0"),
        ("14.6.1\n", True, "without super-frames"),
        ("15.4\n", True, "without networks for everybody"),
        ("26.0\n", True, "26.0"),
        ("26\n", True, "26.0"),
        ("", False, "unknown"),
    ],
)
def test_version_says_what_is_missing(version: str, ok: bool, detail: str) -> None:
    found = check("macos", Recorded({"-productVersion": version}))
    assert found.ok is ok and detail in found.detail and (ok or found.fix)


def test_before_macos_26_root_or_the_entitlement_is_needed() -> None:
    refused = check("privileges", Recorded({}))
    assert not refused.ok and refused.fix == "sudo arcbox-net up NAME"
    assert check("privileges", Recorded({}, root=True)).ok
    assert check("privileges", Recorded({"codesign": f"<key>{doctor.ENTITLEMENT}</key><true/>"})).ok
    everybody = check("privileges", Recorded({"-productVersion": "26.1\n"}))
    assert everybody.ok and "bridge networks need root" in everybody.detail


@pytest.mark.parametrize(
    ("plist", "ok", "detail"),
    [
        ({"NAT": {"Enabled": 1, "SharingNetworkNumberStart": "192.168.2.0"}}, False, "192.168.2.0"),
        ({"NAT": {"Enabled": 0}}, True, "off"),
        ({"NAT": []}, True, "cannot be read"),
        ([], True, "cannot be read"),
    ],
)
def test_internet_sharing_is_named(plist: object, ok: bool, detail: str) -> None:
    found = check("internet sharing", Recorded({}, {doctor.SHARING: plistlib.dumps(plist)}))
    assert found.ok is ok and detail in found.detail


def test_a_broken_property_list_is_no_failure() -> None:
    assert check("internet sharing", Recorded({}, {doctor.SHARING: b"bplist00\xff"})).ok
    assert check("internet sharing", Recorded({}, {doctor.SHARING: b"<plist>"})).ok


FIREWALL_ON = {"--getglobalstate": "Firewall is enabled. (State = 1) \n"}


@pytest.mark.parametrize(
    ("texts", "ok"),
    [
        ({"--getblockall": "Firewall is set to block all non-essential incoming connections \n"}, False),
        ({"--getblockall": "Firewall is blocking all non-essential incoming connections.\n"}, False),
        ({"--getblockall": "Firewall has block all state set to enabled.\n"}, False),
        ({"--getglobalstate": "Firewall is enabled. (State = 2) \n"}, False),
        ({"--getblockall": "Firewall has block all state set to disabled.\n"}, True),
        ({"--getblockall": "Block all DISABLED! \n"}, True),
        ({"--getblockall": "Block all is off\n"}, True),
    ],
)
def test_a_firewall_that_blocks_everything_is_in_the_way(texts: dict[str, str], ok: bool) -> None:
    found = check("application firewall", Recorded(FIREWALL_ON | texts))
    assert found.ok is ok and (ok or "--setblockall off" in str(found.fix))


def test_a_firewall_that_is_off_is_in_nobodys_way() -> None:
    assert check("application firewall", Recorded({})).detail == "off"


def test_a_ruleset_without_the_systems_anchors_is_in_the_way() -> None:
    assert not check("packet filter", Recorded({"info": PF_ON, "Anchors": "mine\n"})).ok
    assert check("packet filter", Recorded({"info": PF_ON, "Anchors": "  com.apple\n"})).ok
    assert "only root" in check("packet filter", Recorded({})).detail


def test_interfaces_are_listed() -> None:
    assert check("interfaces", Recorded({})).detail == "for --nic: en0, bridge0"


def test_a_mac_on_which_no_command_runs_is_described_all_the_same() -> None:
    class Bare(Recorded):
        def said(self, *command: str) -> str | None:
            return None

    assert {one.name for one in doctor.checks(Bare({}))} >= {"macos", "privileges", "packet filter"}
