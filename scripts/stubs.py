"""Compares every compiled module with the .pyi beside it, both ways (mypy.stubtest). Not those of another platform."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

sys.argv = ["setup.py", "--version"]  # importing setup.py shall build nothing
sys.path.insert(0, ".")


def macos_only() -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        from setup import MACOS_ONLY
    return MACOS_ONLY


def main() -> int:
    modules = [
        ".".join(path.relative_to("src").with_suffix("").parts) for path in sorted(Path("src").rglob("*.pyx"))
    ]
    if sys.platform != "darwin":
        modules = [module for module in modules if not module.startswith(macos_only())]
    if not modules:
        return 0
    allow = Path("scripts/stubs-allowed.txt")
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        "--concise",
        "--ignore-unused-allowlist",
        "--ignore-disjoint-bases",
    ]
    return subprocess.run([*command, "--allowlist", str(allow), *modules], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
