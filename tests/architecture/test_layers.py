"""Who may import whom, for `import` and `cimport`: a layer knows the ones below it and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.source import PACKAGE, files, imports

# Everything may use the base: plain values and errors without I/O.
BASE = {
    "__init__",
    "addresses",
    "config",
    "config_dhcp",
    "config_dns",
    "config_engine",
    "config_mapping",
    "config_ports",
    "config_types",
    "config_values",
    "credentials",
    "errors",
    "paths",
    "rules",
}
BELOW: dict[str, set[str]] = {
    "base": set(),
    "abi": set(),
    "wire": {"abi"},
    "memory": {"abi"},
    "dataplane": {"memory", "wire", "abi"},
    "ports": {"dataplane", "memory", "wire", "abi"},
    "relay": {"memory", "wire", "abi"},
    "host": {"abi"},
    "services": {"wire", "abi"},
    "recipes": {"services", "relay", "host", "ports", "dataplane"},
    "network": {"recipes", "services", "relay", "host", "ports", "dataplane"},
    "netspeed": {"relay"},
    "attachments": {"network"},
    "network_process": {"network"},
    "manager": {"attachments", "network_process", "network", "host"},
    "cli": {"manager", "network", "netspeed", "services", "host"},
}
# The package's front door names the manager's classes, and imports them when they are first used.
FRONT_DOOR = Path(PACKAGE, "__init__.py")


def layer_of(module: str) -> str:
    """The layer of a dotted name of ours."""
    parts = module.split(".")
    first = parts[1] if len(parts) > 1 else "__init__"
    if first in BASE:
        return "base"
    # `from arcbox_net import NetworkManager` is the front door's lazy name for the manager's.
    return (
        first if first in BELOW else ("manager" if first.startswith(("Network", "Tap", "Netns")) else "base")
    )


def layer_of_file(path: Path) -> str:
    return layer_of(".".join(path.with_suffix("").parts))


def test_every_folder_has_a_layer() -> None:
    known = BASE | set(BELOW)
    for path in files(".py", ".pyx", ".pxd"):
        assert Path(path.parts[1]).stem in known, f"{path}: no layer is named for it in {__file__}"


@pytest.mark.parametrize(
    "path", [p for p in files(".py", ".pyx", ".pxd", ".pyi") if p != FRONT_DOOR], ids=str
)
def test_file_imports_only_from_layers_below(path: Path) -> None:
    mine = layer_of_file(path)
    allowed = BELOW[mine] | {mine, "base"}
    for name in sorted(imports(path)):
        if name.split(".")[0] == PACKAGE:
            theirs = layer_of(name)
            assert theirs in allowed, f"{path} ({mine}) imports {name} ({theirs})"
