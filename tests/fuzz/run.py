"""Run a fuzz target under libFuzzer: `python -m tests.fuzz.run TARGET [libFuzzer's options and corpora]`.

`-runs=same` is as many as CI runs of the target.

`make fuzz` loads libFuzzer and the sanitizer's runtime ahead of Python, and puts modules on the path that clang built
to count what an input reaches. An exception of the target is a crash: libFuzzer saves the input and exits.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable

from tests.fuzz.lines import count_lines
from tests.fuzz.targets import IN_PYTHON, SAME_RUNS, TARGETS


def main() -> int:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    options = [f"-runs={SAME_RUNS[name]}" if word == "-runs=same" else word for word in options]
    # libFuzzer calls itself by these words, through a shell, to merge corpora.
    words = [f"{sys.executable} -m tests.fuzz.run {name}".encode(), *(word.encode() for word in options)]
    argc = ctypes.c_int(len(words))
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    if name in IN_PYTHON:
        count_lines(IN_PYTHON[name])
    driver = ctypes.PyDLL(None).LLVMFuzzerRunDriver
    driver.restype = ctypes.c_int
    entry = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)(one_input(target))
    return int(driver(ctypes.byref(argc), ctypes.byref(ctypes.cast(argv, ctypes.c_void_p)), entry))


def one_input(target: Callable[[bytes], None]) -> Callable[[object, int], int]:
    """*target* as libFuzzer calls it. It cannot return an exception: that ends the process, as a crash."""

    def entry(body: object, size: int) -> int:
        try:
            target(ctypes.string_at(body, size))  # type: ignore[arg-type]
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os.abort()
        return 0

    return entry


if __name__ == "__main__":
    sys.exit(main())
