"""The working tree says what it promises: entry points exist and are runnable."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "target", ["demo", "test", "e2e", "lint", "bench", "asan", "tsan", "fuzz", "build", "clean"]
)
def test_make_knows_the_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "script",
    [
        "scripts/system-packages",
        "scripts/what-runs",
        "scripts/lint",
        "scripts/tsan",
        "scripts/fuzz",
        "scripts/standin",
        ".ci/run",
    ],
)
def test_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().split("\n", 1)[0].removeprefix("#!")
    subprocess.run([shell, "-n", path], check=True)


@pytest.mark.parametrize("name", ["LICENSE-MIT", "LICENSE-APACHE", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_document_is_there(name: str) -> None:
    assert (ROOT / name).read_text().strip()
