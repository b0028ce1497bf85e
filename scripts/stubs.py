"""Compares every compiled module with the .pyi beside it, both ways (mypy.stubtest)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    modules = [
        ".".join(path.relative_to("src").with_suffix("").parts) for path in sorted(Path("src").rglob("*.pyx"))
    ]
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
