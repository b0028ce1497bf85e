"""What starting up costs: `ls` and completion import next to nothing, and complete what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEAR = ("msgspec", "http.client", "arcbox_net.config", "arcbox_net.manager", "subprocess", "asyncio", "ssl")


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["ls", "-q"], ["--version"]])
def test_ls_imports_nothing_dear(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from arcbox_net.cli.main import cli; "
        f"cli.main({words!r}, prog_name='arcbox-net', standalone_mode=False); "
        f"print([name for name in {DEAR!r} if name in sys.modules])"
    )
    environment = {**os.environ, "ARCBOX_NET_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def complete(line: str, runtime: Path) -> list[str]:
    """What bash is offered at the end of *line*."""
    environment = {
        **os.environ,
        "ARCBOX_NET_RUNTIME_DIR": str(runtime),
        "_ARCBOX_NET_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    program = "from arcbox_net.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


def test_verbs_options_and_networks_complete(tmp_path: Path) -> None:
    for name in ("dev", "lab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "api.sock").touch()
    assert complete("arcbox-net do", tmp_path) == ["down", "doctor"]
    assert complete("arcbox-net up x --mode ho", tmp_path) == ["host-only"]
    assert complete("arcbox-net show ", tmp_path) == ["dev", "lab"]
    assert complete("arcbox-net forward ls l", tmp_path) == ["lab"]
    assert "--subnet" in complete("arcbox-net up x --su", tmp_path)
    assert complete("arcbox-net detach dev ", tmp_path) == []
