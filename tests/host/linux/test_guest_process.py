"""A guest process: its own namespaces, its own resolver, and an honest answer when its command cannot run."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arcbox_net.errors import ArcboxNetError, PermissionDenied
from arcbox_net.host.linux.guest_mounts import dress, replace_resolv_conf
from arcbox_net.host.linux.guest_process import CommandFailed, GuestProcess, execute, started
from tests.support.descriptors import open_descriptors


def ended(process: GuestProcess) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def inside(body: Callable[[], Any]) -> Any:
    """What *body* returns in a guest process."""
    result_in, result_out = os.pipe()

    def run(_order: dict[str, Any]) -> int:
        started()
        os.write(result_out, json.dumps(body()).encode())
        return 0

    process = GuestProcess.fork(run)
    os.close(result_out)
    process.release({})
    assert ended(process) == 0
    with os.fdopen(result_in) as answer:
        return json.loads(answer.read())


def test_a_released_child_executes_its_command_with_its_status() -> None:
    process = GuestProcess.fork(
        lambda order: execute(["sh", "-c", f"exit {order['status']}"]), namespaces=False
    )
    process.release({"status": 42})
    assert ended(process) == 42


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("/nonexistent/command", 127, "command not found"),
        ("no-such-command-anywhere", 127, "command not found"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/etc", 126, "Permission denied"),
    ],
)
def test_a_command_that_cannot_run_is_an_error_with_the_shells_status(
    command: str, status: int, said: str
) -> None:
    process = GuestProcess.fork(lambda _order: execute([command]), namespaces=False)
    with pytest.raises(CommandFailed, match=said) as caught:
        process.release({})
    assert caught.value.exit_status == status
    process.kill()


def test_a_child_that_fails_before_its_command_says_why() -> None:
    def body(_order: dict[str, Any]) -> int:
        raise ArcboxNetError("no lease")

    process = GuestProcess.fork(body, namespaces=False)
    with pytest.raises(ArcboxNetError, match="no lease"):
        process.release({})
    process.kill()


def test_a_child_that_is_not_released_does_nothing_and_ends() -> None:
    process = GuestProcess.fork(lambda _order: 1, namespaces=False)
    process.kill()
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "child"
    parent = os.fork()
    if parent == 0:
        process = GuestProcess.fork(lambda _order: execute(["sleep", "100"]), namespaces=False)
        process.release({})
        note.write_text(str(process.pid))
        signal.pause()
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    child = int(note.read_text())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while Path(f"/proc/{child}").exists() and _state(child) != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists() or _state(child) == "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def test_descriptors_do_not_leak_over_many_guests() -> None:
    before = open_descriptors()
    for _ in range(20):
        process = GuestProcess.fork(lambda _order: execute(["true"]), namespaces=False)
        process.release({})
        ended(process)
        GuestProcess.fork(lambda _order: 0, namespaces=False).kill()
    assert open_descriptors() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_without_privilege_the_namespace_is_refused_with_the_fix() -> None:
    with pytest.raises(PermissionDenied):
        GuestProcess.fork(lambda _order: 0)


@pytest.mark.e2e
def test_the_namespaces_are_its_own_before_it_is_released() -> None:
    process = GuestProcess.fork(lambda _order: 0)
    try:
        for kind in ("net", "mnt"):
            assert os.readlink(f"/proc/{process.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    finally:
        process.kill()


@pytest.mark.e2e
def test_sys_shows_the_namespaces_own_interfaces_and_still_the_control_groups() -> None:
    def look() -> list[Any]:
        before = sorted(os.listdir("/sys/fs/cgroup"))
        missed = dress(None)
        return [missed, sorted(os.listdir("/sys/class/net")), before == sorted(os.listdir("/sys/fs/cgroup"))]

    assert inside(look) == [[], ["lo"], True]


@pytest.mark.e2e
@pytest.mark.parametrize("shape", ["file", "link", "relative link", "dangling link", "missing"])
def test_the_resolver_is_replaced_inside_only(
    tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "other").write_text("other")
    path = etc / "resolv.conf"
    if shape == "file":
        path.write_text("host's")
    elif shape == "link":
        (tmp_path / "stub.conf").write_text("host's")
        path.symlink_to(tmp_path / "stub.conf")
    elif shape == "relative link":
        (tmp_path / "stub.conf").write_text("host's")
        path.symlink_to("../stub.conf")
    elif shape == "dangling link":
        path.symlink_to("/nonexistent/stub.conf")

    def look() -> list[str]:
        replace_resolv_conf("guest's", str(path))
        return [path.read_text(), (etc / "other").read_text()]

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert inside(look) == ["guest's", "other"]
    assert list(scratch.iterdir()) == []
    if shape in ("dangling link", "missing"):
        assert not path.exists()
    else:
        assert path.read_text() == "host's"
