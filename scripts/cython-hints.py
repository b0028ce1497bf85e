"""Fails when Cython hints at slow code in a compiled module: every hint is a Python call in a hot path."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from Cython.Build import cythonize

sys.argv = ["setup.py", "--version"]  # importing setup.py shall build nothing
sys.path.insert(0, ".")


def main() -> int:
    sources = [str(path) for path in sorted(Path("src").rglob("*.pyx"))]
    with contextlib.redirect_stdout(io.StringIO()):
        from setup import DIRECTIVES
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        cythonize(
            sources,
            force=True,
            build_dir=os.path.join("build", "hints"),
            include_path=["src"],
            compiler_directives=DIRECTIVES,
        )
    lines = said.getvalue().splitlines()
    hints = [line for line in lines if line.startswith(("performance hint", "warning"))]
    print("\n".join(hints) or f"{len(sources)} compiled modules, no hint")
    return bool(hints)


if __name__ == "__main__":
    sys.exit(main())
