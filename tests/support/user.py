"""An ordinary user in tests that run as root: no privilege, and a home of its own, on a machine of `netns.Host`.

    user = User(machine, directory)
    user.run([sys.executable, "-c", "…"])       # in the machine's namespace
    user.cli("up dev")                          # arcbox-net as that user
    user.guest("dev", "curl -sS http://…")      # a command as a guest of the user's network

The user exists on that machine only: its line in /etc/passwd is mounted there, like a /dev/net/tun that everybody
may open (`tun_mode`). What the tests need of folders that are root's alone is made reachable. See `as_user.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.netns import COMMAND_TIMEOUT_S, Command, Namespace, run_checked

ROOT = Path(__file__).parents[2]
CLI = Path(sys.executable).with_name("arcbox-net")
LAUNCHER = Path(__file__).with_name("as_user.py")
NAME = "walter"
FIRST_UID, UIDS = 61_000, 4_000  # distributions give them to nobody; another one for each test run at a time
PATH = "/usr/local/bin:/usr/bin:/bin"  # a login shell's has no sbin
TUN_MODE = 0o666  # as distributions have it


class User:
    """Runs commands as an ordinary user inside *host*. `env` is its whole environment."""

    def __init__(
        self, host: Namespace, directory: Path, uid: int | None = None, *, tun_mode: int = TUN_MODE
    ) -> None:
        self.host = host
        self.uid = self.gid = uid if uid is not None else FIRST_UID + os.getpid() % UIDS
        directory.chmod(0o755)
        self.home, self.runtime, scratch = (directory / name for name in ("home", "runtime", "dev"))
        scratch.mkdir()
        for folder in (self.home, self.runtime):
            folder.mkdir(mode=0o700)
            os.chown(folder, self.uid, self.gid)
        needed = {os.path.realpath(sys.base_prefix), sys.prefix, str(ROOT), str(directory)}
        self._launch = [
            *[os.path.realpath(sys.executable), "-I", "-S", str(LAUNCHER)],
            *[str(self.uid), str(self.gid), f"{tun_mode:o}", str(scratch), *sorted(needed), "--"],
        ]
        accounts = Path("/etc/passwd").read_text()
        host.etc("passwd", f"{accounts}{NAME}:x:{self.uid}:{self.gid}::{self.home}:/bin/sh\n")
        self.env = {
            "HOME": str(self.home),
            "USER": NAME,
            "LOGNAME": NAME,
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    def argv(self, command: Command, env: Mapping[str, str] | None = None) -> list[str]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        variables = [f"{name}={value}" for name, value in {**self.env, **(env or {})}.items()]
        return self.host.argv([*self._launch, "env", "-i", *variables, *words])

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
        what = f"{command!r} as uid {self.uid}"
        return run_checked(self.argv(command, env), what, check=check, timeout=timeout, stdin=stdin)

    def popen(self, command: Command, **options: Any) -> subprocess.Popen[Any]:
        """Start *command*. It is killed with the namespace if it still runs then."""
        return subprocess.Popen(self.argv(command), **options)

    def python(self, text: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the Python program *text* with the tests' own interpreter and packages."""
        return self.run([sys.executable, "-c", text, *arguments], **options)

    def cli(
        self, *words: str, check: bool = True, timeout: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `arcbox-net WORDS`; one string is split at spaces."""
        arguments = words[0].split() if len(words) == 1 else list(words)
        return self.run([str(CLI), *arguments], check=check, timeout=timeout)

    def cli_json(self, *words: str) -> Any:
        arguments = words[0].split() if len(words) == 1 else list(words)
        return json.loads(self.cli(*arguments, "--json").stdout)

    def guest(
        self, network: str, command: Command, *, check: bool = True, timeout: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* as a guest of *network*."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        return self.cli("run", network, "--", *words, check=check, timeout=timeout)
