"""What the whole suite shares: the header, and which tests this machine can run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import hypothesis
import pytest

SOURCE = Path(__file__).parent.parent / "src" / "arcbox_net"

# A slow machine is no failure: no test asserts on time. CI looks at fewer examples of the same properties.
SLOW = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("default", **SLOW)
hypothesis.settings.register_profile("ci", max_examples=50, **SLOW)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_report_header() -> str:
    who = "root" if os.geteuid() == 0 else "not root: e2e tests are skipped"
    cython = importlib.metadata.version("cython")
    return f"arcbox-net: Cython {cython}, {build_flavour()} build, kernel {platform.release()}, {who}"


def build_flavour() -> str:
    """How the compiled modules under test were built, read from one of them."""
    from importlib.util import find_spec

    spec = find_spec("arcbox_net")
    assert spec is not None and spec.origin is not None
    modules = sorted(Path(spec.origin).parent.rglob("*.so"))
    if not modules:
        return "pure Python"
    body = modules[0].read_bytes()
    for mark, flavour in ((b"__asan_init", "asan"), (b"__tsan_init", "tsan")):
        if mark in body:
            return flavour
    return os.environ.get("ARCBOX_BUILD", "release")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = {
        "e2e": _lacking_for_e2e(),
        "qemu": None if shutil.which("qemu-system-x86_64") else "qemu-system-x86_64 is not installed",
    }
    for item in items:
        for mark, reason in lacking.items():
            if reason is not None and item.get_closest_marker(mark) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _lacking_for_e2e() -> str | None:
    """Why tests that change the kernel cannot run here, None when they can."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing"
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (scripts/system-packages test)"
    return None
