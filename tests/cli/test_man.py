"""The manual page says what the program's help says, and renders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arcbox_net.cli.main import VERBS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "man" / "arcbox-net.1"


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "man.py"), "--check"])
    assert done.returncode == 0, "run scripts/man.py"


def test_the_page_describes_every_verb() -> None:
    sections = [
        line.removeprefix(".SS ") for line in PAGE.read_text().splitlines() if line.startswith(".SS ")
    ]
    assert set(VERBS) <= set(sections)
    assert {"forward add", "lease reserve", "dns rm"} <= set(sections)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_renders_without_a_warning() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}  # a sanitiser's
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
