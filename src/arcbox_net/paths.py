"""Where a network's sockets and state live. No I/O: callers create the directories."""

from __future__ import annotations

import os
from pathlib import Path

# Root's: a system without /run (macOS) has other places.
_RUN, _LIB = ("/run", "/var/lib") if os.path.isdir("/run") else ("/var/run", "/var/db")


def runtime_root() -> Path:
    """Directory of all running networks: ARCBOX_NET_RUNTIME_DIR, /run/arcbox-net for root, else XDG_RUNTIME_DIR."""
    if override := os.environ.get("ARCBOX_NET_RUNTIME_DIR"):
        return Path(override)
    if os.geteuid() == 0:
        return Path(_RUN, "arcbox-net")
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/arcbox-net-{os.getuid()}"
    return Path(base) / "arcbox-net"


def is_fallback() -> bool:
    """Whether the runtime root is in /tmp, where anybody may have made it first."""
    names = ("ARCBOX_NET_RUNTIME_DIR", "XDG_RUNTIME_DIR")
    return os.geteuid() != 0 and not any(os.environ.get(name) for name in names)


def state_root() -> Path:
    """Directory of durable state: ARCBOX_NET_STATE_DIR, /var/lib/arcbox-net for root, else XDG_STATE_HOME."""
    if override := os.environ.get("ARCBOX_NET_STATE_DIR"):
        return Path(override)
    if os.geteuid() == 0:
        return Path(_LIB, "arcbox-net")
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "arcbox-net"


def runtime_dir(network: str) -> Path:
    """Holds lock, api.sock and fd.sock of one running network, and nothing when it stopped; mode 0700."""
    return runtime_root() / network


def records_dir() -> Path:
    """What all networks of a host write down together; mode 0700. No network can be called like it."""
    return runtime_root() / ".host"


def api_socket(network: str) -> Path:
    return runtime_dir(network) / "api.sock"


def fd_socket(network: str) -> Path:
    return runtime_dir(network) / "fd.sock"


def lock_file(network: str) -> Path:
    return runtime_dir(network) / "lock"


def runtime_state_file(network: str) -> Path:
    """The state of a network that ends with the program that started it."""
    return runtime_dir(network) / "state.db"


def log_file(network: str) -> Path:
    """Kept beside the state, so that it can be read after the network ended."""
    return state_root() / f"{network}.log"


def state_file(network: str) -> Path:
    return state_root() / f"{network}.db"
