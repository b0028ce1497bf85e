"""Every module is used, compiled modules are described, and what the command line imports is cheap."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import PACKAGE, SRC, files, imports, module_of

# Started by name, with -m or as the console script.
ENTRY_POINTS = {
    f"{PACKAGE}.cli.main",
    f"{PACKAGE}.network.main",
    f"{PACKAGE}.netspeed.__main__",
}
# Each costs a noticeable part of the 100 ms that `arcbox-net ls` may take.
HEAVY = ("pyroute2", "starlette", "uvicorn", "asyncio", "sqlite3", "dns", "scapy", "ctypes.util")
CHEAP = ("", ".config", ".errors", ".rules", ".paths", ".addresses", ".manager", ".cli.main")


def test_every_module_is_imported_somewhere() -> None:
    imported = {
        name for path in files(".py", ".pyx", ".pxd") for name in imports(path) if module_of(path) != name
    }
    texts = {path: (SRC / path).read_text() for path in files(".py")}
    dead = []
    for path in files(".py", ".pyx"):
        module = module_of(path)
        if path.name == "__init__.py" or module in ENTRY_POINTS or module in imported:
            continue
        # A verb of the command line is imported by the name it has in a table.
        by_name = any(f'"{module}"' in text for other, text in texts.items() if other != path)
        if not by_name and not path.name.startswith("_testing"):
            dead.append(str(path))
    assert not dead, f"nothing imports {', '.join(dead)}"


@pytest.mark.parametrize("module", [PACKAGE + name for name in CHEAP])
def test_import_is_cheap(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist")
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"import {module} pulls in {done.stdout.strip()}"


def test_package_is_typed() -> None:
    assert (SRC / PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("path", [p for p in files(".py", ".pyx") if (SRC / p).stat().st_size > 0], ids=str)
def test_module_says_what_it_owns(path: Path) -> None:
    text = (SRC / path).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#")).lstrip()
    assert body.startswith(('"""', "'''", 'r"""')), f"{path} has no docstring"
