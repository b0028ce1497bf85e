"""What is compiled on macOS leads to nothing of Linux alone: followed through `cimport`, down to the headers."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import setup
from tests.support.source import PACKAGE, SRC, imports, modules

ABI = Path(PACKAGE, "abi")
# That Linux and macOS both have. Headers of our own choose inside.
SHARED_HEADERS = {
    "fcntl.h",
    "netinet/in.h",
    "netinet/tcp.h",
    "poll.h",
    "pthread.h",
    "sched.h",
    "sys/mman.h",
    "sys/socket.h",
    "sys/stat.h",
    "sys/uio.h",
    "time.h",
    "unistd.h",
}
ON_MACOS, ON_LINUX = set(setup.modules(on_macos=True)), set(setup.modules(on_macos=False))
_HEADER = re.compile(r'cdef extern from "([^"]+)"|^\s*#include\s*[<"]([^>"]+)', re.MULTILINE)


@cache
def reached(module: str) -> frozenset[str]:
    """*module*, and whatever of ours its source and declarations cimport, and so on."""
    found, left = {module}, [module]
    while left:
        base = SRC.joinpath(*left.pop().split("."))
        for suffix in (".pyx", ".pxd"):
            path = base.with_suffix(suffix)
            for name in imports(path.relative_to(SRC)) if path.exists() else ():
                if (
                    name in modules()
                    and name not in found
                    and SRC.joinpath(*name.split(".")).with_suffix(".pxd").exists()
                ):
                    found.add(name)
                    left.append(name)
    return frozenset(found)


def headers(module: str) -> set[str]:
    text = SRC.joinpath(*module.split(".")).with_suffix(".pxd").read_text()
    return {first or second for first, second in _HEADER.findall(text)}


def test_each_platform_has_modules_of_its_own() -> None:
    assert "arcbox_net.ports.vmnet.port" in ON_MACOS - ON_LINUX
    assert "arcbox_net.relay.tcp" in ON_LINUX - ON_MACOS
    assert {"arcbox_net.dataplane.worker", "arcbox_net.ports.dgram"} <= ON_MACOS & ON_LINUX


@pytest.mark.parametrize("module", sorted(ON_MACOS))
def test_module_for_macos_leads_to_nothing_of_linux_alone(module: str) -> None:
    assert not reached(module) & (ON_LINUX - ON_MACOS)
    for name in reached(module):
        if name.startswith(f"{PACKAGE}.abi."):
            strange = {
                header for header in headers(name) if not (SRC / ABI / header).exists()
            } - SHARED_HEADERS
            assert not strange, f"{name}, by {module}, needs {', '.join(sorted(strange))}"
