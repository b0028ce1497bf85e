"""What macOS shares with Linux, built as for macOS against tests/standin: kqueue, pipes, POSIX shared memory.

That it builds says that no module uses a name that Linux alone has: tests/standin/macos.h poisons them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.vmnet import BUILT, ROOT, build

SUITES = [
    "tests/dataplane/test_worker.py",
    "tests/dataplane/test_worker_group.py",
    "tests/dataplane/test_worker_messages.py",
    "tests/dataplane/test_worker_watch.py",
    "tests/dataplane/test_switch.py",
    "tests/dataplane/test_switch_service.py",
    "tests/memory/test_ring_shared.py",
    "tests/ports/test_stream.py",
    "tests/ports/test_dgram.py",
    "tests/ports/vmnet/test_port.py",
]
PLUGIN = "tests.support.without_linux"
LINUX_ALONE = (b"epoll_wait", b"eventfd", b"recvmmsg", b"sendmmsg", b"accept4", b"pipe2", b"splice")

pytestmark = pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="once, beside the ordinary build")


@pytest.fixture(scope="module", autouse=True)
def built() -> Path:
    build()
    return BUILT / "lib" / "arcbox_net"


def test_no_module_for_macos_calls_what_linux_alone_has(built: Path) -> None:
    modules = {path.name.split(".")[0]: path.read_bytes() for path in built.rglob("*.so")}
    assert b"kevent" in modules["worker_loop"] and b"pipe" in modules["ring"]
    for name, body in modules.items():
        assert not [call for call in LINUX_ALONE if b"\0" + call + b"\0" in body], name


def run_as_on_macos(built: Path, *arguments: str) -> str:
    """What pytest said, which passed, without anything of Linux's."""
    known = {"PYTHONPATH": str(built.parent), "LD_PRELOAD": str(BUILT / "libvmnet-26.so")}
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN), *arguments],
        cwd=ROOT,
        env={**os.environ, **known},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_suites_of_the_shared_core_pass_as_on_macos(built: Path) -> None:
    run_as_on_macos(built, *SUITES)


def test_what_the_workflow_runs_on_a_mac_can_be_collected_there(built: Path) -> None:
    workflow = (ROOT / ".github" / "workflows" / "macos.yml").read_text()
    command = workflow.partition(".venv/bin/pytest ")[2].partition("- name:")[0]
    assert "tests/dataplane" in command
    assert "tests/dataplane/test_worker.py: " in run_as_on_macos(
        built, "--collect-only", "-q", *command.split()
    )
