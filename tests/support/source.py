"""The package's source as the architecture tests see it: files, modules, and who imports what.

Python files are parsed; Cython files are read line by line, which covers `import` and `cimport`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = "arcbox_net"

_CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|c?import[ \t]+(?P<modules>[\w., \t]+))",
    re.MULTILINE,
)


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Source files with one of *suffixes*, relative to src/."""
    found = (path.relative_to(SRC) for suffix in suffixes for path in (SRC / PACKAGE).rglob(f"*{suffix}"))
    return tuple(sorted(found))


def module_of(path: Path) -> str:
    """The dotted name of *path*; a package is named by its directory."""
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    """Every module and package of the project."""
    return frozenset(module_of(path) for path in files(".py", ".pyx", ".pxd"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that *path* imports anywhere in it, in functions and for type checkers too.

    `from a.b import c` counts as `a.b.c` when that is a module of ours, else as `a.b`.
    """
    text = (SRC / path).read_text()
    found = _python_imports(path, text) if path.suffix in (".py", ".pyi") else _cython_imports(path, text)
    return frozenset(found)


def _python_imports(path: Path, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, "." * node.level + (node.module or ""))
            yield from _members(base, [alias.name for alias in node.names])


def _cython_imports(path: Path, text: str) -> Iterator[str]:
    for match in _CYTHON_IMPORT.finditer(text):
        if match["modules"] is not None:
            yield from (name.split(" as ")[0].strip() for name in match["modules"].split(","))
        else:
            names = [name.split(" as ")[0].strip() for name in match["names"].strip("() \t").split(",")]
            yield from _members(_absolute(path, match["base"]), [name for name in names if name])


def _members(base: str, names: list[str]) -> Iterator[str]:
    for name in names:
        yield f"{base}.{name}" if f"{base}.{name}" in modules() or base == PACKAGE else base


def _absolute(path: Path, name: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    package = path.parent.parts[: len(path.parent.parts) - (level - 1)]
    return ".".join([*package, *filter(None, [name.lstrip(".")])])
