"""What macOS has, on Linux: built against tests/standin, which stands in for the framework, and driven by it."""

from __future__ import annotations

import ctypes
import functools
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import arcbox_net

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "standin"
TEXT_MAX = 4096


def missing() -> str:
    """Why the stand-in cannot be built here; nothing if it can."""
    if sys.platform != "linux":
        return "the stand-in is for Linux"
    if not shutil.which("clang"):
        return "no clang"
    if not Path("/usr/include/Block.h").exists():
        return "no blocks runtime (Debian: libblocksruntime-dev)"
    return ""


@functools.cache
def build() -> None:
    """Raises pytest's skip where that is impossible."""
    if arcbox_net.__file__.startswith(str(BUILT)):
        return
    if reason := missing():
        pytest.skip(reason)
    done = subprocess.run(
        ["scripts/standin", str(Path(sys.executable).parent)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Standin:
    """The library behind the framework's names, as one release of macOS has it; one for each process."""

    def __init__(self, release: int = 26, *, is_built: bool = False) -> None:
        if not is_built:
            build()
        self._library = ctypes.CDLL(str(BUILT / f"libvmnet-{release}.so"), mode=ctypes.RTLD_GLOBAL)
        self._library.standin_limits.argtypes = [ctypes.c_uint64] * 3
        import arcbox_net.ports.vmnet as package

        path = str(BUILT / "lib" / "arcbox_net" / "ports" / "vmnet")
        if path not in package.__path__:
            package.__path__.append(path)

    def fail(self, function: str, status: int, times: int = 1) -> None:
        self._library.standin_fail(function.encode(), status, times)

    def hold(self, function: str) -> None:
        self._library.standin_hold(function.encode())

    def limits(self, read_max: int = 0, write_max: int = 0, max_packet_bytes: int = 0) -> None:
        self._library.standin_limits(read_max, write_max, max_packet_bytes)

    def short(self, packets: int) -> None:
        self._library.standin_short(packets)

    def reset(self) -> None:
        self._library.standin_reset()

    @property
    def held(self) -> int:
        """Completion handlers that are not called until `reset`."""
        return int(self._library.standin_held())

    @property
    def running(self) -> int:
        return int(self._library.standin_running())

    def far_end(self) -> socket.socket:
        """The other end of the interface that was started last."""
        return socket.socket(fileno=self._library.standin_far_end())

    def asked(self, key: str) -> str:
        text = ctypes.create_string_buffer(TEXT_MAX)
        self._library.standin_asked(f"vmnet_{key}".encode(), text, TEXT_MAX)
        return text.value.decode()

    def network(self) -> list[str]:
        """What the last network was made with, a line for each call."""
        text = ctypes.create_string_buffer(TEXT_MAX)
        self._library.standin_network(text, TEXT_MAX)
        return text.value.decode().splitlines()
