"""The source distribution has everything that a build needs, on platforms other than the one it was made on too."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILT_FROM = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".typed"}


def test_every_source_is_in_the_source_distribution(tmp_path: Path) -> None:
    words = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "ARCBOX_MODULES": "none",
        },  # which files there are does not depend on them
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*") if path.suffix in BUILT_FROM}
    assert "src/arcbox_net/abi/vmnet_shim.c" in sources
    assert sources <= names, sorted(sources - names)
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE-MIT", "tests/standin/vmnet.c"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
