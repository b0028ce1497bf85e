"""Network processes from outside: start one, find those that run, clear up after one that died."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from arcbox_net import paths
from arcbox_net.config_values import check_network_name
from arcbox_net.errors import ArcboxNetError, NotRunning, PermissionDenied, StartFailed, from_json
from arcbox_net.network.client import Client
from arcbox_net.network.messages import NetworkStatus
from arcbox_net.network.peer import networks_to_ask

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
LOG_BYTES_MAX = 1 << 20
PROCESS = "arcbox_net.network.main"

Process = subprocess.Popen[bytes]


def is_running(name: str) -> bool:
    """Whether the network process of *name* answers."""
    try:
        Client(name).call("GET", "/network")
    except NotRunning:
        return False
    return True


def running_networks() -> list[str]:
    """Names of the networks that run, sorted."""
    return [status.name for status in running_statuses()]


def running_statuses() -> Iterator[NetworkStatus]:
    """The status of every network that runs and that the caller may ask, by name."""
    for name in networks_to_ask():
        try:
            yield msgspec.convert(Client(name).call("GET", "/network"), NetworkStatus)
        except (NotRunning, PermissionDenied):
            continue


def remove_leftovers(name: str) -> bool:
    """Remove what a network whose process died left in the kernel. True when there was something.

    Raises AlreadyRunning.
    """
    process, answer = run_network(check_network_name(name), ["--remove"], {})
    process.wait()
    if "error" in answer:
        raise from_json(answer["error"])
    return bool(answer.get("removed"))


def end_network(name: str, process: Process) -> None:
    """End the *process* of network *name*, and what it left behind if it did not end well."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode != 0:
        remove_leftovers(name)


def run_network(name: str, arguments: list[str], config: dict[str, Any]) -> tuple[Process, dict[str, Any]]:
    """Start the network process of *name* and wait for the one line that it says. Raises StartFailed."""
    log_path = paths.log_file(name)
    log = _open_log(name, log_path)
    ready, answer_end = _pipe()
    interrupts = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until there is a process to end
    try:
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", PROCESS, name, "--ready-fd", str(answer_end), *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(answer_end,),
                start_new_session=True,
                cwd="/",
            )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, interrupts)
        os.close(ready)
        os.close(answer_end)
        raise
    os.close(answer_end)
    assert process.stdin is not None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, interrupts)
        with contextlib.suppress(BrokenPipeError), process.stdin as request:
            request.write(json.dumps(config).encode())
        line = _read_line(ready, START_TIMEOUT_S)
    except BaseException:  # such as Ctrl-C: it must not go on by itself
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(ready)
    if not line:
        process.kill()
        process.wait()
        if "--remove" not in arguments:
            with contextlib.suppress(ArcboxNetError):
                remove_leftovers(name)
        raise StartFailed(
            f"the network process of {name} ended or was silent for {START_TIMEOUT_S:.0f} s",
            fix=f"look at {log_path}",
            network=name,
            log=str(log_path),
        )
    return process, json.loads(line)


def _open_log(name: str, path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(path, "wb" if _size(path) > LOG_BYTES_MAX else "ab", opener=_private)
    except OSError as error:
        raise StartFailed(
            f"{path}: {error.strerror}",
            fix="make it writable, or set ARCBOX_NET_STATE_DIR",
            network=name,
            log=str(path),
        ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are no standard streams, not even in a program that has closed its own."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_line(fd: int, timeout_s: float) -> bytes:
    line = b""
    deadline = time.monotonic() + timeout_s
    while not line.endswith(b"\n"):
        if not _readable(fd, deadline - time.monotonic()):
            return b""
        chunk = os.read(fd, 65536)
        if not chunk:
            return b""
        line += chunk
    return line


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()  # not select(): an embedding program may hold more than 1024 fds
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, int(timeout_s * 1000))))
