"""Builds what is for macOS on Linux: with zig's clang, Darwin's headers that come with it, and its list of libSystem.

usage: macos_build.py quick | wheels

quick: all modules for arm64 without optimisation, from this tree.
wheels: both processors with a Mac's own flags, from the source distribution; the wheels stay in build/macos.

With zig comes nothing of vmnet and CoreFoundation: their headers are those of tests/standin, their symbols what these
declare. A module that takes a symbol of anybody but libSystem, these two and Python fails, and so does one that uses
what came after the oldest macOS that we support.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import macho

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "macos"
PROCESSORS = {"arm64": "aarch64", "x86_64": "x86_64"}  # in zig's words
OLDEST = (11, 0)
SYSTEM = "/usr/lib/libSystem.B.dylib"
FRAMEWORKS = ("vmnet", "CoreFoundation")
FRAMEWORK = "/System/Library/Frameworks/{0}.framework/Versions/A/{0}"
ERRORS = (
    "implicit-function-declaration",
    "incompatible-pointer-types",
    "int-conversion",
    "unguarded-availability",
)
# Of pyconfig.h: what configure defines on Linux, and what would hide Darwin's own there.
LINUX_ALONE = ("_POSIX_C_SOURCE", "_XOPEN_SOURCE", "_XOPEN_SOURCE_EXTENDED")
# The linker of zig makes no bundles. A library differs from one by a word in its first line.
COMPILER = """#!/bin/sh
for word; do
    shift
    [ "$word" != -bundle ] || word=-dynamiclib
    set -- "$@" "$word"
done
exec {zig} cc -target {target} -F{frameworks} -fno-sanitize=all "$@" {last}
"""


def main() -> int:
    if sys.argv[1:] not in (["quick"], ["wheels"]):
        print(__doc__, file=sys.stderr)
        return 2
    found = find_spec("ziglang")
    if found is None or found.origin is None:
        print(
            "macos-build: skipped, ziglang could not be installed: no wheel for this machine, or no network"
        )
        return 0
    zig = Path(found.origin).with_name("zig")
    quick = sys.argv[1] == "quick"
    shutil.rmtree(OUT, ignore_errors=True)
    write_frameworks()
    source = ROOT if quick else unpacked_sdist()
    for processor in ["arm64"] if quick else PROCESSORS:
        folder = OUT / processor
        compiler = write_compiler(zig, processor, last="-O0" if quick else "")
        known = environment(processor, write_python(folder, processor, compiler))
        (build if quick else build_wheel)(source, folder, known)
        if not is_sound(folder, processor) or not bites(folder, compiler):
            return 1
    return 0


def write_frameworks() -> None:
    """Headers and lists of symbols, laid out as a compiler looks for them."""
    targets = ", ".join(f"{processor}-macos" for processor in PROCESSORS)
    for name in FRAMEWORKS:
        folder = OUT / "frameworks" / f"{name}.framework"
        shutil.copytree(ROOT / "tests" / "standin" / name, folder / "Headers")
        header = (folder / "Headers" / f"{name}.h").read_text()
        symbols = ", ".join(f"_{symbol}" for symbol in sorted(declared(header)))
        (folder / f"{name}.tbd").write_text(
            f"--- !tapi-tbd\ntbd-version: 4\ntargets: [ {targets} ]\ninstall-name: '{FRAMEWORK.format(name)}'\n"
            f"exports:\n  - targets: [ {targets} ]\n    symbols: [ {symbols} ]\n...\n"
        )


def declared(header: str) -> set[str]:
    """The functions, and the keys, which are texts."""
    return set(re.findall(r"\b(?:vmnet_\w+_key\b|(?:vmnet_|CF)\w+(?=\())", header))


def unpacked_sdist() -> Path:
    run(ROOT, {}, "sdist", "--dist-dir", str(OUT))
    (archive,) = OUT.glob("*.tar.gz")
    shutil.unpack_archive(archive, OUT)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def write_compiler(zig: Path, processor: str, *, last: str) -> Path:
    compiler = OUT / processor / "cc"
    compiler.parent.mkdir(parents=True)
    target = f"{PROCESSORS[processor]}-macos.{OLDEST[0]}.{OLDEST[1]}"
    errors = " ".join(f"-Werror={name}" for name in ERRORS)
    compiler.write_text(
        COMPILER.format(zig=zig, target=target, frameworks=OUT / "frameworks", last=f"{errors} {last}")
    )
    compiler.chmod(0o755)
    return compiler


def write_python(folder: Path, processor: str, compiler: Path) -> Path:
    """What a build asks of Python: this one's headers, with a pyconfig.h and variables as macOS has them."""
    python = folder / "python"
    shutil.copytree(sysconfig.get_path("include"), python / "include")
    with open(sysconfig.get_config_h_filename()) as config:
        known = sysconfig.parse_config_h(config)
    lines = [f"#define {name} {value}" for name, value in known.items() if value and name not in LINUX_ALONE]
    (python / "include" / "pyconfig.h").write_text(
        "\n".join(["#pragma once", *lines, "#define _DARWIN_C_SOURCE 1", ""])
    )
    variables = {
        "AR": "ar",
        "ARFLAGS": "rcs",
        "CC": str(compiler),
        "CCSHARED": "",
        "CFLAGS": "-fno-strict-overflow -Wsign-compare -fno-common -dynamic -DNDEBUG -g -O3 -Wall",
        "CXX": str(compiler),
        "EXT_SUFFIX": f".cpython-{sys.version_info[0]}{sys.version_info[1]}-darwin.so",
        "CONFINCLUDEPY": str(python / "include"),
        "INCLUDEPY": str(python / "include"),
        "LDCXXSHARED": "",
        "LDSHARED": f"{compiler} -bundle -undefined dynamic_lookup",
        "SHLIB_SUFFIX": ".so",
        "SOABI": f"cpython-{sys.version_info[0]}{sys.version_info[1]}-darwin",
    }
    (python / "macos_variables.py").write_text(f"build_time_vars = {variables!r}\n")
    return python


def environment(processor: str, python: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(python),
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build" / "zig"),
        "_PYTHON_HOST_PLATFORM": f"macosx-{OLDEST[0]}.{OLDEST[1]}-{processor}",
        "_PYTHON_SYSCONFIGDATA_NAME": "macos_variables",
    }


def build(source: Path, folder: Path, known: dict[str, str]) -> None:
    run(source, known, "build", "--build-base", str(folder), "--build-lib", str(folder / "lib"))


def build_wheel(source: Path, folder: Path, known: dict[str, str]) -> None:
    run(source, known, "bdist_wheel", "--dist-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "lib")
    print(f"macos-build: {wheel.rename(OUT / wheel.name)}")


def run(source: Path, known: dict[str, str], *command: str) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "-q", *command], cwd=source, env={**os.environ, **known}, check=True
    )


def is_sound(folder: Path, processor: str) -> bool:
    """Whether every module is there, is for that processor and macOS, and takes nothing of strangers."""
    sys.path.insert(0, str(ROOT))
    from setup import modules

    lib = folder / "lib"
    built = {".".join(path.relative_to(lib).parts).split(".cpython")[0]: path for path in lib.rglob("*.so")}
    wrong = [f"{name} is missing" for name in sorted(set(modules(on_macos=True)) - set(built))]
    for name, path in sorted(built.items()):
        found = macho.read(path)
        if (found.cpu, found.macos_min) != (processor, OLDEST):
            wrong.append(f"{name} is for {found.cpu} and macOS {found.macos_min}")
        wrong += [f"{name} takes {symbol} from {library or 'nobody'}" for symbol, library in strangers(found)]
    print("\n".join(wrong) or f"macos-build: {len(built)} modules for {processor}, nothing undefined")
    return not wrong


def strangers(found: macho.MachO) -> list[tuple[str, str]]:
    ours = {SYSTEM, *map(FRAMEWORK.format, FRAMEWORKS)}
    return [
        (symbol, library)
        for symbol, library in found.undefined.items()
        if library not in ours and not (library == "" and is_pythons(symbol))
    ]


def is_pythons(symbol: str) -> bool:
    return symbol.startswith(("Py", "_Py")) and hasattr(ctypes.pythonapi, symbol)


def bites(folder: Path, compiler: Path) -> bool:
    """Whether it would have been noticed what Darwin lacks, and what came after the oldest macOS."""
    program, library = folder / "probe.c", folder / "probe.so"
    link = [compiler, "-bundle", "-undefined", "dynamic_lookup", "-o", library, program]
    program.write_text("int epoll_create1(int);\nint probe(void) { return epoll_create1(0); }\n")
    subprocess.run(link, env={**os.environ, **environment("", folder)}, check=True)
    lacking = strangers(macho.read(library)) == [("epoll_create1", "")]
    program.write_text("#include <unistd.h>\nint probe(int *ends) { return pipe2(ends, 0); }\n")
    later = subprocess.run(
        link, env={**os.environ, **environment("", folder)}, capture_output=True, text=True
    )
    if lacking and "error: " in later.stderr and "pipe2" in later.stderr:
        return True
    print("macos-build: epoll_create1 or pipe2 was not noticed, so this says nothing")
    return False


if __name__ == "__main__":
    sys.exit(main())
