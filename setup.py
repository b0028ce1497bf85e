"""Build of the compiled modules. ARCBOX_BUILD=release|debug|asan|tsan|fuzz selects the flags; C goes to build/.

ARCBOX_MODULES="arcbox_net.memory arcbox_net.wire" builds only what is below those packages.
Which modules are built is a matter of the platform that they are for, and not of the one that builds them.
"""

import fcntl
import os
import sys
import sysconfig
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
    # What is built on macOS, on Linux and against tests/standin (CC=clang); `scripts/standin` builds and uses it.
    "standin": (
        [
            "-O0",
            "-g",
            "-fblocks",
            "-Itests/standin",
            "-include",
            "tests/standin/macos.h",
            "-DABX_VMNET_WAIT_S=1",
        ],
        ["-lBlocksRuntime"],
    ),
}
# What is below these names is for one platform alone; all else is for both.
MACOS_ONLY = ("arcbox_net.ports.vmnet.",)
LINUX_ONLY = (
    "arcbox_net.memory.guest_memory.",
    "arcbox_net.ports.packet.",
    "arcbox_net.ports.queues.",
    "arcbox_net.ports.tap.",
    "arcbox_net.ports.vhost_user.",
    "arcbox_net.relay.",
    "arcbox_net.services.dns.hotpath.",
)
C_FILES = Path("build/cython")
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


def modules(*, on_macos: bool) -> dict[str, str]:
    """The compiled modules of a platform, and where each one's source is."""
    others = LINUX_ONLY if on_macos else MACOS_ONLY
    found = {
        ".".join(path.relative_to("src").with_suffix("").parts): str(path)
        for path in Path("src").rglob("*.pyx")
    }
    return {name: found[name] for name in sorted(found) if not f"{name}.".startswith(others)}


def extensions() -> list[Extension]:
    """One extension for each module of this platform, or of macOS for the stand-in."""
    flavour = os.environ.get("ARCBOX_BUILD", "release")
    if flavour not in FLAVOURS:
        sys.exit(f"ARCBOX_BUILD={flavour!r}: expected one of {', '.join(FLAVOURS)}")
    compile_flags, link_flags = FLAVOURS[flavour]
    for_macos = sysconfig.get_platform().startswith("macosx")
    wanted = tuple(f"{package}." for package in os.environ.get("ARCBOX_MODULES", "arcbox_net").split())
    headers = [
        str(path) for folder in ("src/arcbox_net/abi", "tests/standin") for path in Path(folder).rglob("*.h")
    ]
    return [
        Extension(
            module,
            [path, *MORE_SOURCES.get(module, [])],
            include_dirs=["src/arcbox_net/abi"],
            depends=headers if flavour == "standin" else [],
            extra_compile_args=compile_flags + WARNINGS,
            extra_link_args=link_flags + (FRAMEWORKS if module in MORE_SOURCES and for_macos else []),
        )
        for module, path in modules(on_macos=for_macos or flavour == "standin").items()
        if f"{module}.".startswith(wanted)
    ]


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    C_FILES.mkdir(parents=True, exist_ok=True)
    with open(C_FILES / ".lock", "w") as lock:  # builds of several flavours at once share them
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = cythonize(
            extensions(),
            nthreads=cores,
            build_dir=str(C_FILES),
            include_path=["src"],
            compiler_directives=DIRECTIVES,
        )
    setup(ext_modules=found, options={"build_ext": {"parallel": cores}})


if __name__ == "__main__":  # for whoever builds; others ask for the modules
    main()
