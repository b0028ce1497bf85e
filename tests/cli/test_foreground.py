"""A command in the foreground: signals, stops and exit status are as if the shell had started it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from arcbox_net.cli.foreground import FORWARDED, end_like, signals_held, wait_for
with signals_held():
    pid = os.fork()
    if pid == 0:
        import signal
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for number in FORWARDED:  # whoever runs the tests may ignore some, which no shell can trap then
            signal.signal(number, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])
    status = wait_for(pid)
sys.exit(end_like(status))
"""
# Sends itself the signal that its last argument says, once the command has ended.
LATE = PROGRAM.replace(
    "    status = ",
    """    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.kill(os.getpid(), int(sys.argv.pop()))
    status = """,
)
COUNT_INTERRUPTS = """
trap 'n=$((n+1)); echo "interrupt $n"' INT
echo ready
i=0; while [ $i -lt 40 ]; do sleep 0.05; i=$((i+1)); [ "$n" ] && i=$((i+10)); done
echo "counted ${n:-0}"; exit 3
"""


def run(*command: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    """In a group of its own, in a session where there is another: it can be stopped."""
    words = [sys.executable, "-c", program, *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0)


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_passes_through(status: int) -> None:
    assert run("sh", "-c", f"exit {status}").wait() == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_killed_by_a_signal_makes_us_die_of_it(number: signal.Signals) -> None:
    assert run("sh", "-c", f"kill -{number.value} $$").wait() == -number


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ALRM"])
def test_a_signal_sent_to_us_reaches_the_command_once(name: str) -> None:
    command = f"trap 'echo got; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    process = run("sh", "-c", command)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.stdout.read() == "got\n"
    assert process.wait() == 7


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, shell: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "shell> "
            os.execvp(shell[0], shell)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture
def program(tmp_path: Path) -> str:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return f"{sys.executable} {file}"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal(["bash", "--norc", "--noprofile", "-i"])
    yield made
    made.close()


def test_ctrl_c_reaches_the_command_once_and_only_the_command(
    terminal: Terminal, program: str, tmp_path: Path
) -> None:
    script = tmp_path / "count.sh"
    script.write_text(COUNT_INTERRUPTS)
    terminal.expect("shell> ")
    terminal.type(f"{program} bash {script}; echo status $?\n")
    terminal.expect("[\r\n]ready")
    terminal.type("\x03")
    terminal.expect("interrupt 1")
    terminal.expect("counted 1")
    terminal.expect("status 3")


def test_ctrl_z_gives_the_prompt_back_and_fg_goes_on(terminal: Terminal, program: str) -> None:
    terminal.expect("shell> ")
    terminal.type(f"{program} sh -c 'echo ready; read line; echo got $line; exit 5'; echo status $?\n")
    terminal.expect("[\r\n]ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect("shell> ")
    terminal.type("fg\n")
    terminal.expect("sh -c")  # bash names what it continues
    terminal.type("words\n")
    terminal.expect("got words")
    terminal.expect("shell> ")


def test_a_command_that_ignores_ctrl_z_keeps_the_terminal(terminal: Terminal, program: str) -> None:
    terminal.expect("shell> ")
    terminal.type(
        f"{program} sh -c 'trap \"\" TSTP; echo ready; read line; echo got $line; exit 5'; echo status $?\n"
    )
    terminal.expect("[\r\n]ready")
    terminal.type("\x1a")
    terminal.type("words\n")
    terminal.expect("[\r\n]got words")
    terminal.expect("status 5")


def test_a_stop_sent_to_us_stops_the_command_first() -> None:
    process = run("sh", "-c", "echo ready; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTSTP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    (command,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert Path(f"/proc/{command}/stat").read_text().split()[2] == "T"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sent_before_the_command_ended_is_not_for_us(number: signal.Signals) -> None:
    process = run("sh", "-c", "exit 7", str(number.value), program=LATE)
    assert os.waitstatus_to_exitcode(os.waitpid(process.pid, os.WUNTRACED)[1]) == 7
    process.wait()


def test_a_command_that_stops_itself_stops_us_until_fg(terminal: Terminal, program: str) -> None:
    terminal.expect("shell> ")
    terminal.type(f"{program} sh -c 'kill -STOP $$; echo again'\n")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    terminal.expect("[\r\n]again")


def test_a_shell_as_the_command_has_job_control_and_gives_the_terminal_back(
    terminal: Terminal, program: str
) -> None:
    terminal.expect("shell> ")
    terminal.type(f"{program} bash --norc --noprofile -i\n")
    terminal.expect("shell> ")
    terminal.type("sh -c 'echo ready; read line'\n")
    terminal.expect("[\r\n]ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("kill -KILL %1; exit 9 || exit 9\n")
    terminal.expect("[\r\n]exit")
    terminal.expect("shell> ")
    terminal.type("echo outer $?\n")
    terminal.expect("outer 9")
