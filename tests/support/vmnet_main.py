"""The network process as on macOS: its modules for vmnet, over the stand-in, whose far side tests reach by a socket.

ARCBOX_STANDIN: a directory: `control` is made there, the lease file is `leases`. ARCBOX_STANDIN_RELEASE: 14 or 26.
ARCBOX_STANDIN_PRIVILEGED: 0 for a user who may not have an interface without a network of macOS 26.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from arcbox_net.host import platform as chosen
from arcbox_net.host.linux import platform as linux
from arcbox_net.host.macos import leases
from tests.support.vmnet import Standin

opened: list[Any] = []  # interfaces of this process
PLACE = Path(os.environ["ARCBOX_STANDIN"])


def serve(standin: Standin, listener: socket.socket) -> None:
    """One request a connection: the name of a method of the stand-in, and its arguments."""
    while True:
        connection, _ = listener.accept()
        with connection:
            name, *arguments = json.loads(connection.recv(4096))
            if name == "far_end":
                end = standin.far_end()
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))]
                connection.sendmsg([b"null"], rights)
                end.close()
                continue
            answer: Any = rules if name == "rules" else getattr(standin, name)
            connection.sendall(json.dumps(answer(*arguments) if callable(answer) else answer).encode())


def rules() -> list[str]:
    """What the system has for the interface that was opened last."""
    found = opened[-1].forwards()
    return [f"{one.protocol} {one.external_port} {one.internal_address} {one.internal_port}" for one in found]


def as_macos() -> None:
    """Have this process take Linux for macOS: Linux's ways to lock and to watch, macOS's networks."""
    calls = {
        name: getattr(linux, name) for name in ("watch_process", "take_lock", "is_locked", "watch_folder")
    }
    platform = SimpleNamespace(NETWORK="vmnet", **calls)
    chosen.platform = lambda: platform  # type: ignore[assignment]
    import arcbox_net.network.home as home

    home.platform = chosen.platform  # type: ignore[assignment]


def main() -> int:
    standin = Standin(int(os.environ.get("ARCBOX_STANDIN_RELEASE", "14")), is_built=True)
    for function, status in json.loads(os.environ.get("ARCBOX_STANDIN_FAILS", "{}")).items():
        standin.fail(function, *status)
    as_macos()
    from arcbox_net.network import main as process
    from arcbox_net.network import system_leases
    from arcbox_net.recipes import vmnet

    system_leases.LeaseFile = lambda: leases.LeaseFile(PLACE / "leases")  # type: ignore[assignment,misc]
    system_leases.LOOK_EVERY_S = 0.05
    privileged = os.environ.get("ARCBOX_STANDIN_PRIVILEGED", "1") == "1"
    vmnet.VmnetRecipe.__init__.__defaults__ = (lambda: privileged,)
    start = vmnet.VmnetRecipe._start

    def remembered(recipe: vmnet.VmnetRecipe, *arguments: Any) -> Any:
        opened.append(start(recipe, *arguments))
        return opened[-1]

    vmnet.VmnetRecipe._start = remembered  # type: ignore[method-assign]
    (PLACE / "control").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(PLACE / "control"))
    listener.listen()
    threading.Thread(target=serve, args=(standin, listener), daemon=True).start()
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
