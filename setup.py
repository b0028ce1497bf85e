"""Build of the compiled modules. ARCBOX_BUILD=release|debug|asan|tsan|fuzz selects the flags; C goes to build/.

ARCBOX_MODULES="arcbox_net.memory arcbox_net.wire" builds only what is below those packages.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAVOURS: dict[str, tuple[list[str], list[str]]] = {
    "release": (["-O2", "-fno-strict-aliasing"], []),
    "debug": (["-O1", "-g", "-DABX_DEBUG=1"], []),
    "asan": (
        ["-O1", "-g", "-DABX_DEBUG=1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
        ["-fsanitize=address,undefined"],
    ),
    "tsan": (["-O1", "-g", "-DABX_DEBUG=1", "-fsanitize=thread"], ["-fsanitize=thread"]),
    # For clang (CC=clang): counts what each input reaches, for the libFuzzer that tests/fuzz/run.py loads.
    "fuzz": (
        ["-O1", "-g", "-DABX_DEBUG=1", "-fsanitize=fuzzer-no-link,address,undefined", "-shared-libasan"],
        ["-fsanitize=address,undefined", "-shared-libasan"],
    ),
    # On Linux, against tests/standin in place of the frameworks (CC=clang); `scripts/standin` builds and uses it.
    "standin": (["-O1", "-g", "-fblocks", "-Itests/standin", "-DABX_VMNET_WAIT_S=1"], ["-lBlocksRuntime"]),
}
# Packages for one platform alone, and what their modules are linked with there.
MACOS_ONLY = "arcbox_net.ports.vmnet."
FRAMEWORKS = ["-framework", "vmnet", "-framework", "CoreFoundation"]
MORE_SOURCES = {"arcbox_net.ports.vmnet.interface": ["src/arcbox_net/abi/vmnet_shim.c"]}
WARNINGS = ["-Wall", "-Wextra", "-Wsign-compare", "-Wno-unused-parameter", "-Wno-unused-function"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "auto_pickle": False,
}


def extensions() -> list[Extension]:
    """One extension per .pyx under src/; a module for another platform is not built here."""
    flavour = os.environ.get("ARCBOX_BUILD", "release")
    if flavour not in FLAVOURS:
        sys.exit(f"ARCBOX_BUILD={flavour!r}: expected one of {', '.join(FLAVOURS)}")
    compile_flags, link_flags = FLAVOURS[flavour]
    wanted = tuple(f"{package}." for package in os.environ.get("ARCBOX_MODULES", "arcbox_net").split())
    with_vmnet = sys.platform == "darwin" or flavour == "standin"
    found = []
    for path in sorted(Path("src").rglob("*.pyx")):
        module = ".".join(path.relative_to("src").with_suffix("").parts)
        if not f"{module}.".startswith(wanted) or (module.startswith(MACOS_ONLY) and not with_vmnet):
            continue
        frameworks = FRAMEWORKS if module in MORE_SOURCES and sys.platform == "darwin" else []
        found.append(
            Extension(
                module,
                [str(path), *MORE_SOURCES.get(module, [])],
                include_dirs=["src/arcbox_net/abi"],
                extra_compile_args=compile_flags + WARNINGS,
                extra_link_args=link_flags + frameworks,
            )
        )
    return found


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

setup(
    ext_modules=cythonize(
        extensions(),
        nthreads=CORES,
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives=DIRECTIVES,
    ),
    options={"build_ext": {"parallel": CORES}},
)
