"""What tests make once under build/, whichever process of a parallel run needs it first."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path


def make_once(folder: Path, make: Callable[[], None]) -> None:
    """Call *make* unless it has completed for *folder* before; the others that ask wait for it.

    What *make* raises goes to its caller, and the next one tries again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        if not (folder / "complete").exists():
            make()
            (folder / "complete").touch()
