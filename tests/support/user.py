"""An ordinary user in tests that run as root: commands without any privilege, on a machine of `netns.Host`.

    user = User(host, tmp_path)
    user.run([sys.executable, "-c", "…"])   # in the host's namespace, with a home and folders of its own

The interpreter of the tests may lie in a folder that only root can enter, such as root's home. Commands of the user
then run in a mount namespace in which it can be reached at its own path, and nothing else of that folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.netns import COMMAND_TIMEOUT_S, Command, Namespace

UID = 61_234  # of nobody: no account is needed to be an ordinary user
TUN = Path("/dev/net/tun")


class User:
    """Runs commands as an ordinary user inside *host*. `env` is its whole environment."""

    def __init__(self, host: Namespace, directory: Path, uid: int = UID) -> None:
        self.host = host
        self.uid = uid
        self.home = directory / "home"
        self.runtime = directory / "runtime"
        for folder in (self.home, self.runtime):
            folder.mkdir(mode=0o700)
            os.chown(folder, uid, uid)
        for folder in directory.parents:  # pytest's folders are root's alone
            if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        directory.chmod(0o755)
        self.env = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
        }

    def argv(self, command: Command, env: Mapping[str, str] | None = None) -> list[str]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        variables = [f"{name}={value}" for name, value in {**self.env, **(env or {})}.items()]
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "env", "-i"]
        return self.host.argv(
            ["unshare", "--mount", "sh", "-c", _reachable(), "sh", *become, *variables, *words]
        )

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        timeout: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command*; with `check`, a failure shows the command and all it printed."""
        done = subprocess.run(
            self.argv(command, env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command!r} as uid {self.uid}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(self, command: Command, **options: Any) -> subprocess.Popen[Any]:
        """Start *command*. It is killed with the namespace if it still runs then."""
        return subprocess.Popen(self.argv(command), **options)

    def python(self, text: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the Python program *text* with the tests' own interpreter and packages."""
        return self.run([sys.executable, "-c", text, *arguments], **options)


@contextlib.contextmanager
def open_tun() -> Iterator[None]:
    """Let everybody open /dev/net/tun, as on an ordinary host, and put its mode back."""
    mode = TUN.stat().st_mode & 0o7777
    TUN.chmod(0o666)
    try:
        yield
    finally:
        TUN.chmod(mode)


def _reachable() -> str:
    """Shell that makes the interpreter reachable for everybody in this mount namespace, then runs its arguments."""
    prefix = Path(sys.base_prefix).resolve()
    closed = next(
        (folder for folder in [*reversed(prefix.parents), prefix] if not folder.stat().st_mode & 1), None
    )
    if closed is None:
        return 'exec "$@"'
    return f"""set -e
        hold=$(mktemp -d /tmp/abxt-hold.XXXXXX)
        mount --bind {shlex.quote(str(prefix))} "$hold"
        mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}
        mkdir -p {shlex.quote(str(prefix))}
        mount --bind "$hold" {shlex.quote(str(prefix))}
        umount "$hold"; rmdir "$hold"
        exec "$@"
    """
