"""Who may touch the machine: links, rules, processes and C each have one place; exceptions are listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.source import PACKAGE, SRC, files, imports

HOST = Path(PACKAGE, "host")
ABI = Path(PACKAGE, "abi")

# Outside host/, a process is started here and nowhere else; each line says which.
STARTS_PROCESSES = {
    "network_process.py": "the network process",
    "cli/demo_speed.py": "iperf3",
    "cli/monitor_sockets.py": "QEMU, for its version",
}
PLATFORM_TESTS = {
    "host/platform.py": "chooses between host/linux and host/macos",
}
_SPAWN = re.compile(r"\bos\.(?:exec|spawn|posix_spawn|fork|popen|system|startfile)\w*\b")
_PLATFORM = re.compile(r"\bsys\.platform\b|\bplatform\.system\b|\bos\.uname\b|\bos\.name\b")


def _is(path: Path, listed: Collection[str]) -> bool:
    return str(path.relative_to(PACKAGE)) in listed


def _code(path: Path) -> str:
    """The text of *path* without its docstrings and comments."""
    text = (SRC / path).read_text()
    if path.suffix != ".py":
        return re.sub(r'"""(?:.|\n)*?"""|#[^\n]*', "", text)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.unparse(tree)


@pytest.mark.parametrize("path", files(".py", ".pyx"), ids=str)
def test_only_host_talks_netlink(path: Path) -> None:
    if not path.is_relative_to(HOST):
        assert not [name for name in imports(path) if name.split(".")[0] == "pyroute2"]
        assert "AF_NETLINK" not in _code(path)


@pytest.mark.parametrize("path", files(".py", ".pyx"), ids=str)
def test_only_host_uses_ioctls(path: Path) -> None:
    if not path.is_relative_to(HOST) and not path.is_relative_to(ABI):
        assert not re.search(r"\bioctl\(", _code(path)), f"{path}: ioctls on interfaces belong to host/"


@pytest.mark.parametrize("path", files(".py", ".pyx"), ids=str)
def test_only_host_and_the_listed_files_start_processes(path: Path) -> None:
    if path.is_relative_to(HOST) or _is(path, STARTS_PROCESSES):
        return
    assert not imports(path) & {"subprocess", "multiprocessing", "pty"}, f"{path} starts processes"
    assert not _SPAWN.search(_code(path)), f"{path} starts processes"


@pytest.mark.parametrize("path", files(".pyx", ".pxd"), ids=str)
def test_c_declarations_are_in_abi_only(path: Path) -> None:
    if not path.is_relative_to(ABI):
        assert not re.search(r"^\s*cdef extern\b", _code(path), re.MULTILINE), f"{path}: move it to abi/"


@pytest.mark.parametrize("path", files(".pyx"), ids=str)
def test_compiled_module_has_a_stub(path: Path) -> None:
    assert (SRC / path).with_suffix(".pyi").exists()


@pytest.mark.parametrize("path", files(".py", ".pyx"), ids=str)
def test_platform_is_asked_only_in_the_listed_files(path: Path) -> None:
    if not _is(path, PLATFORM_TESTS):
        assert not _PLATFORM.search(_code(path)), f"{path} asks for the platform"


@pytest.mark.parametrize("listed", [*STARTS_PROCESSES, *PLATFORM_TESTS])
def test_listed_exception_is_still_used(listed: str) -> None:
    path = Path(PACKAGE, listed)
    if not (SRC / path).exists():
        pytest.skip(f"{listed} does not exist")
    if listed in STARTS_PROCESSES:
        uses = bool(imports(path) & {"subprocess", "multiprocessing", "pty"}) or _SPAWN.search(_code(path))
    else:
        uses = _PLATFORM.search(_code(path))
    assert uses, f"{listed} no longer needs its exception"
