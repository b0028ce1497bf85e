"""Units and tables as the terminal shows them."""

from __future__ import annotations

import io
import os
import pty
import re
import sys

import pytest

from arcbox_net.cli.output import bytes_text, coloured, count_text, duration_text, facts, progress, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (-1, "0 s"),
        (119.9, "119 s"),
        (120, "2 m"),
        (3599, "59 m"),
        (3600, "1 h"),
        (4800, "1 h 20 m"),
        (86400, "24 h"),
        (172800, "2 d"),
        (190800, "2 d 5 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (10**15, "1000.0 TB")],
)
def test_bytes_are_in_decimal_units(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_one_is_not_plural() -> None:
    assert [count_text(n, "lease") for n in (0, 1, 2)] == ["0 leases", "1 lease", "2 leases"]


def test_columns_line_up_and_nothing_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "size"), [("a", 1), ("longer", None), ("", 100)], right=(1,))
    assert capsys.readouterr().out == "NAME    SIZE\na          1\nlonger     -\n-        100\n"


def test_a_fact_that_is_not_there_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    facts([("mode", "nat"), ("bridge", None), ("gateway", "10.0.0.1")], indent=2)
    assert capsys.readouterr().out == "  mode     nat\n  gateway  10.0.0.1\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_take_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(os.dup(theirs), "w") as terminal:
            assert coloured(terminal) is expected
    finally:
        os.close(ours)
        os.close(theirs)
    assert coloured(io.StringIO()) is False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_said_of_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcbox_net.cli.output.PROGRESS_AFTER_S", 60.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("starting dev"):
        pass
    assert sys.stderr.getvalue() == ""


def test_what_takes_long_is_named_and_wiped_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("arcbox_net.cli.output.PROGRESS_AFTER_S", 0.0)
    said = threading.Event()

    class Watched(Terminal):
        def write(self, text: str) -> int:
            said.set()
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Watched())
    with progress("starting dev"):
        assert said.wait(60)
    assert re.match(r"\rstarting dev … \d+ s", sys.stderr.getvalue())
    assert sys.stderr.getvalue().endswith("\r\x1b[K")


def test_no_progress_is_shown_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcbox_net.cli.output.PROGRESS_AFTER_S", 0.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("starting dev"):
        pass
    assert sys.stderr.getvalue() == ""
