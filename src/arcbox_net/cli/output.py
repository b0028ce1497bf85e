"""What the terminal sees: tables, JSON, units, colours and the line that says what is taking so long."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

PROGRESS_AFTER_S = 2.0
NOTHING = "-"


def coloured(stream: TextIO) -> bool:
    """Whether *stream* takes colours: a terminal, and https://no-color.org is not asked for."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def style(text: str, *, stream: TextIO | None = None, **how: Any) -> str:
    """*text* in colours where they are wanted, plain elsewhere."""
    return click.style(text, **how) if coloured(stream or sys.stdout) else text


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Print *rows* in aligned columns; those numbered in *right* are right-aligned. None prints as `-`."""
    cells = [[NOTHING if cell in (None, "") else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(width) if i in right else value.ljust(width)
            for i, (value, width) in enumerate(zip(values, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    click.echo(style(line([header.upper() for header in headers]), bold=True))
    for row in cells:
        click.echo(line(row))


def facts(pairs: Sequence[tuple[str, object]], *, indent: int = 0) -> None:
    """Print `label  value` lines; pairs whose value is None or empty are left out."""
    shown = [(label, str(value)) for label, value in pairs if value not in (None, "")]
    width = max((len(label) for label, _ in shown), default=0)
    for label, value in shown:
        click.echo(" " * indent + style(label.ljust(width), dim=True) + "  " + value)


def print_json(value: Any) -> None:
    """Print *value* (structs of `network.messages`, or plain JSON types) as indented JSON."""
    import json

    click.echo(json.dumps(value, indent=2, default=_struct))


def _struct(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def note(text: str) -> None:
    """A remark on stderr, so that stdout stays what a script reads."""
    click.echo(style("note: ", stream=sys.stderr, fg="yellow") + text, err=True)


def warn(message: str, fix: str | None = None) -> None:
    click.echo(style("warning: ", stream=sys.stderr, fg="yellow", bold=True) + message, err=True)
    if fix:
        click.echo(f"  fix: {fix}", err=True)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say *what* is going on when the block takes longer than two seconds and stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    import threading
    import time

    started, done = time.monotonic(), threading.Event()

    def report() -> None:
        wait_s = PROGRESS_AFTER_S
        while not done.wait(wait_s):
            sys.stderr.write(f"\r{what} … {time.monotonic() - started:.0f} s")
            sys.stderr.flush()
            wait_s = 1.0

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
        if time.monotonic() - started > PROGRESS_AFTER_S:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def bytes_text(count: int) -> str:
    """`1.2 MB`: three digits at most, decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def count_text(count: int, noun: str) -> str:
    """`1 lease`, `2 leases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration_text(seconds: float | None) -> str:
    """`45 s`, `12 m`, `1 h 20 m`, `2 d 4 h`; `-` for what does not end."""
    if seconds is None:
        return NOTHING
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m"
    if whole < 2 * 86400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "m")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big} {big_unit} {small} {small_unit}" if small else f"{big} {big_unit}"
