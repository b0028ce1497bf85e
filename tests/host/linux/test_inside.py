"""User and network namespaces of a network without privileges: what stands in their way, and what they give."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from arcbox_net.errors import KernelError, PermissionDenied, Unsupported
from arcbox_net.host.linux import inside
from tests.support.netns import Host
from tests.support.user import User

MAX = "proc/sys/user/max_user_namespaces"
CLONE = "proc/sys/kernel/unprivileged_userns_clone"
APPARMOR = "proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "value", "setting", "fix"),
    [
        pytest.param(MAX, "0\n", "user.max_user_namespaces", "sysctl -w user.max_user_namespaces=", id="max"),
        pytest.param(
            CLONE,
            "0\n",
            "kernel.unprivileged_userns_clone",
            "sysctl -w kernel.unprivileged_userns_clone=1",
            id="debian",
        ),
        pytest.param(
            APPARMOR,
            "1\n",
            "kernel.apparmor_restrict_unprivileged_userns",
            "apparmor_parser -r /etc/apparmor.d/arcbox-net",
            id="ubuntu",
        ),
    ],
)
def test_error_names_the_setting_and_its_fix(
    tmp_path: Path, name: str, value: str, setting: str, fix: str
) -> None:
    put(tmp_path, name, value)
    with pytest.raises(PermissionDenied) as raised:
        inside.refuse_user_namespace(OSError(errno.EPERM, "Operation not permitted"), root=tmp_path)
    assert raised.value.setting == setting
    assert setting in raised.value.message
    assert fix in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(MAX, "15000\n", id="max"),
        pytest.param(CLONE, "1\n", id="debian"),
        pytest.param(APPARMOR, "0\n", id="ubuntu"),
    ],
)
def test_setting_that_allows_user_namespaces_is_no_obstacle(tmp_path: Path, name: str, value: str) -> None:
    put(tmp_path, name, value)
    assert inside.user_namespace_obstacle(tmp_path) is None


def test_ubuntus_restriction_is_no_obstacle_to_a_program_with_a_profile(tmp_path: Path) -> None:
    put(tmp_path, APPARMOR, "1\n")
    put(tmp_path, "proc/self/attr/current", "arcbox-net (unconfined)\n")
    assert inside.user_namespace_obstacle(tmp_path) is None


@pytest.mark.parametrize("label", ["unconfined\n", "unprivileged_userns (enforce)\n", ""])
def test_ubuntus_restriction_is_an_obstacle_to_a_program_without_a_profile(
    tmp_path: Path, label: str
) -> None:
    put(tmp_path, APPARMOR, "1\n")
    put(tmp_path, "proc/self/attr/current", label)
    assert inside.user_namespace_obstacle(tmp_path) is not None


def test_seccomp_filter_is_named(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/status", "Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n")
    with pytest.raises(PermissionDenied, match="seccomp") as raised:
        inside.refuse_user_namespace(OSError(errno.EPERM, "Operation not permitted"), root=tmp_path)
    assert "--cap-add NET_ADMIN" in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(errno.EPERM, PermissionDenied, id="chroot"),
        pytest.param(errno.ENOSPC, PermissionDenied, id="limit-reached"),
        pytest.param(errno.EINVAL, Unsupported, id="kernel-without"),
        pytest.param(errno.ENOMEM, KernelError, id="no-memory"),
    ],
)
def test_refusal_that_no_setting_explains_is_typed(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        inside.refuse_user_namespace(OSError(code, "refused"), root=tmp_path)


ENTER = """
import json, os, subprocess, sys, threading
from arcbox_net.host.linux import inside
before = inside.has_network_power()
inside.enter_user_namespace()
found = {"before": before, "uid": os.geteuid(), "gid": os.getegid(), "home": os.stat(os.environ["HOME"]).st_uid}
def enter():
    fd = inside.enter_network_namespace()
    found["own"] = os.fstat(fd).st_ino == os.stat("/proc/thread-self/ns/net").st_ino
    found["nft"] = subprocess.run(["nft", "add table inet mine; list tables"], capture_output=True, text=True).stdout
    links = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout
    found["links"] = [(link["ifname"], "UP" in link["flags"]) for link in json.loads(links)]
thread = threading.Thread(target=enter)
thread.start()
thread.join()
outside = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout
found["outside"] = [link["ifname"] for link in json.loads(outside)]
print(json.dumps(found))
"""


@pytest.mark.e2e
def test_ordinary_user_gets_powers_inside_and_keeps_its_ids(tmp_path: Path) -> None:
    with Host() as host:
        user = User(host, tmp_path)
        found = json.loads(user.python(ENTER, env={"PATH": os.defpath + ":/usr/sbin:/sbin"}).stdout)
        assert host.run("nft list tables").stdout == ""
    assert found == {
        "before": False,
        "uid": user.uid,
        "gid": user.uid,
        "home": user.uid,
        "own": True,
        "nft": "table inet mine\n",
        "links": [["lo", True]],
        "outside": ["lo", Host.uplink],
    }


@pytest.mark.e2e
def test_process_with_more_than_one_thread_is_refused_a_user_namespace(tmp_path: Path) -> None:
    text = """
import threading
from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux import inside
started = threading.Event()
threading.Thread(target=started.wait).start()
try:
    inside.enter_user_namespace()
except ArcboxNetError as error:
    print(type(error).__name__)
finally:
    started.set()
"""
    with Host() as host:
        assert User(host, tmp_path).python(text).stdout.split() == ["Unsupported"]


@pytest.mark.e2e
def test_root_has_network_power_and_an_ordinary_user_has_none(tmp_path: Path) -> None:
    text = "from arcbox_net.host.linux import inside; print(inside.has_network_power())"
    with Host() as host:
        assert host.run([sys.executable, "-c", text]).stdout.strip() == "True"
        assert User(host, tmp_path).python(text).stdout.strip() == "False"
