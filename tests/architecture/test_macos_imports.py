"""What runs on macOS imports nothing that is Linux's: in a process without those modules, and without Linux's calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.vmnet import ROOT, Standin, missing

BEFORE = "import ctypes, os, sys, tests.support.without_linux\n"
LIVE = ["attach", "detach", "dns", "down", "flows", "forward", "lease", "ls", "run", "show", "up"]
VERBS = [*LIVE, "completion", "demo", "doctor", "enter", "exec-tap"]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEFORE + code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    "module", ["arcbox_net.manager", "arcbox_net.network.main", "arcbox_net.network.presence"]
)
def test_what_starts_a_network_needs_nothing_of_linux(module: str) -> None:
    done = run(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_the_network_process_needs_nothing_of_linux() -> None:
    if reason := missing():
        pytest.skip(reason)
    Standin(26)
    path = Path("build/standin/lib/arcbox_net/ports/vmnet").absolute()
    done = run(
        f"""
ctypes.CDLL("build/standin/libvmnet-26.so", mode=ctypes.RTLD_GLOBAL)
import arcbox_net.ports.vmnet
arcbox_net.ports.vmnet.__path__.append({str(path)!r})
from arcbox_net.network.home import home
import arcbox_net.network.addressing, arcbox_net.network.api, arcbox_net.services.dns.service
print(home().network().__name__)
"""
    )
    assert done.stdout.strip() == "VmnetBackedNetwork", done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_needs_nothing_of_linux(verb: str) -> None:
    done = run(
        "from arcbox_net.cli.main import main; sys.argv = ['arcbox-net', *sys.argv[1:]]; main()",
        verb,
        "--help",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["doctor"],
        ["ls"],
        ["run", "--", "true"],
        ["down", "none"],
        ["demo"],
        ["enter", "none"],
        ["attach", "none", "one", "--tap"],
    ],
    ids=" ".join,
)
def test_a_verb_ends_with_an_error_of_ours_if_any(words: list[str], tmp_path: Path) -> None:
    code = (
        f"os.environ |= {{'ARCBOX_NET_RUNTIME_DIR': {str(tmp_path)!r}, 'ARCBOX_NET_STATE_DIR': {str(tmp_path)!r}}};"
        "from arcbox_net.cli.main import main; sys.argv = ['arcbox-net', *sys.argv[1:]]; main()"
    )
    done = run(code, *words)
    assert "Traceback" not in done.stderr, done.stderr
