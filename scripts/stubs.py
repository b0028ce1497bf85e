"""Compares every compiled module with the .pyi beside it, both ways (mypy.stubtest). Not those of another platform."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, ".")
from setup import modules


def main() -> int:
    here = list(modules(on_macos=sys.platform == "darwin"))
    if not here:
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
    return subprocess.run([*command, "--allowlist", str(allow), *here], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
