"""Waiting for a command as a shell does: its signals, its stops, its exit status."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

FORWARDED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTSTP,
)
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP)
PENDING_POLL_S = 0.05
SI_KERNEL = 0x80  # sigaction(2): sent by the kernel; a terminal's go to its whole foreground group


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep the signals that are meant for the command, from before it is forked until it has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    try:
        yield
    finally:
        while one_of({*FROM_TERMINAL}, 0.0):
            pass  # the command had it too, and has ended: a Ctrl-Z that it ignored is not for us
        with contextlib.suppress(KeyboardInterrupt):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for(pid: int) -> int:
    """Wait for child *pid* inside `signals_held`, passing signals on. Returns its `waitpid` status.

    A Ctrl-C reaches a command in the terminal's foreground group by itself, and is not sent twice. A command
    that stops (Ctrl-Z) stops us too, so that the shell gets its prompt back; `fg` continues both. We stop after
    it: a command not yet stopped would read what is typed at that prompt.
    """
    while True:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if ended == 0:
                break
            if not os.WIFSTOPPED(status):
                return status
            os.kill(os.getpid(), signal.SIGSTOP)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        number, by_kernel = _next_signal()
        if number is signal.SIGCHLD:
            continue
        if number in FROM_TERMINAL and by_kernel and _shares_our_group(pid):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _next_signal() -> tuple[signal.Signals, bool]:
    """The next one, and whether the kernel sent it; macOS does not say, and is taken to have."""
    wanted = {*FORWARDED, signal.SIGCHLD}
    if not hasattr(signal, "sigwaitinfo"):
        return signal.Signals(signal.sigwait(wanted)), True
    arrived = signal.sigwaitinfo(wanted)
    return signal.Signals(arrived.si_signo), arrived.si_code == SI_KERNEL


def one_of(wanted: set[signal.Signals], timeout_s: float) -> bool:
    """Whether one of those signals, which are blocked, comes within that time."""
    if hasattr(signal, "sigtimedwait"):
        return signal.sigtimedwait(wanted, timeout_s) is not None
    deadline = time.monotonic() + timeout_s
    while not signal.sigpending() & wanted:
        if time.monotonic() >= deadline:
            return False
        time.sleep(PENDING_POLL_S)
    return bool(signal.sigwait(wanted))


def end_like(status: int) -> int:
    """The exit status to end with; a command killed by a signal makes us die of the same one."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number
    return os.WEXITSTATUS(status)


def _shares_our_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return True
