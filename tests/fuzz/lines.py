"""What an input reaches in Python, counted for libFuzzer as clang counts in compiled code: a counter for each line."""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

COUNTERS = 1 << 13  # two lines may share one

_counters = (ctypes.c_uint8 * COUNTERS)()
_places = (ctypes.c_size_t * (2 * COUNTERS))(
    *range(2 * COUNTERS)
)  # of each counter: an address and flags, to be shown


def count_lines(folder: str) -> None:
    """From now on, in this thread and for code of files below *folder*. libFuzzer must be loaded, but not run yet."""
    library = ctypes.PyDLL(None)
    for register, table in (
        (library.__sanitizer_cov_8bit_counters_init, _counters),
        (library.__sanitizer_cov_pcs_init, _places),
    ):
        begin = ctypes.addressof(table)
        register(ctypes.c_void_p(begin), ctypes.c_void_p(begin + ctypes.sizeof(table)))
    tracers: dict[CodeType, Callable[..., Any] | None] = {}

    def enter(frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in tracers:
            tracers[code] = _counter(code) if folder in code.co_filename else None
        return tracers[code]

    sys.settrace(enter)


def _counter(code: CodeType) -> Callable[..., Any]:
    first = zlib.crc32(code.co_filename.encode())

    def count(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "line":
            _counters[(first + frame.f_lineno) % COUNTERS] += 1
        return count

    return count
