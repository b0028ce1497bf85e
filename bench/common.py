"""What every benchmark shares: the machine, whether it was quiet, interleaved rounds, medians, result files.

A claim is a contender measured beside its reference in the same run: `interleave` runs round 1 of all, then
round 2 of all, so that a machine that drifts drifts for everyone. `write_result` stores the rounds and the
environment in bench/results/NAME.json; `table` is what docs/performance.md shows of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
QUIET_BUSY_MAX = 0.10  # share of all cores that others may use while we measure
QUIET_STEAL_MAX = 0.02
QUIET_SAMPLE_S = 1.0
Round = dict[str, Any]

_VERSION_ARGUMENTS = {
    "ip": ["-V"],
    "nft": ["-v"],
    "iperf3": ["-v"],
    "dnsmasq": ["-v"],
    "dnsperf": ["-h"],
    "perfdhcp": ["-v"],
    "socat": ["-V"],
    "qemu-system-x86_64": ["--version"],
}


def environment(*tools: str) -> dict[str, Any]:
    """The machine, kernel and versions a number depends on. `tools` are executables whose version counts."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cython": importlib.metadata.version("cython"),
        "tools": {tool: tool_version(tool) for tool in tools},
    }


def tool_version(tool: str) -> str | None:
    """The first version number that *tool* prints about itself, None when it is not installed."""
    if shutil.which(tool) is None:
        return None
    done = subprocess.run(
        [tool, *_VERSION_ARGUMENTS.get(tool, ["--version"])],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    found = re.search(r"\d+(?:\.\d+)+\w*|iproute2-\S+", done.stdout + done.stderr)
    return found.group(0).rstrip(",") if found else "unknown"


def busy(sample_s: float = QUIET_SAMPLE_S) -> tuple[float, float]:
    """The shares of all cores' time that were busy and that were stolen, over the next *sample_s*."""
    before = _cpu_ticks()
    time.sleep(sample_s)
    spent = [after - earlier for earlier, after in zip(before, _cpu_ticks(), strict=True)]
    total = sum(spent) or 1
    idle, steal = spent[3] + spent[4], spent[7]
    return (total - idle - steal) / total, steal / total


def machine_cpu_s() -> float:
    """Time that all cores were busy so far, for anybody."""
    ticks = _cpu_ticks()
    return (sum(ticks) - ticks[3] - ticks[4] - ticks[7]) / os.sysconf("SC_CLK_TCK")


def quiet_check(*, wait_s: float = 60.0) -> dict[str, Any]:
    """Wait until nobody else uses the machine. `quiet` False in the report: do not trust the numbers."""
    deadline = time.monotonic() + wait_s
    while True:
        used, stolen = busy()
        quiet = used <= QUIET_BUSY_MAX and stolen <= QUIET_STEAL_MAX
        if quiet or time.monotonic() >= deadline:
            break
    if not quiet:
        print(f"# not quiet: {used:.0%} busy, {stolen:.0%} stolen before the first round", file=sys.stderr)
    return {
        "quiet": quiet,
        "busy_share": round(used, 3),
        "steal_share": round(stolen, 3),
        "load_1min": os.getloadavg()[0],
    }


def interleave(contenders: Mapping[str, Callable[[], Round]], rounds: int = 5) -> dict[str, list[Round]]:
    """Run every contender once per round, in turn, and return each one's rounds."""
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, measure in contenders.items():
            print(f"# round {number}/{rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(measure())
    return found


def beginning_with(names: Sequence[str], number: int) -> list[str]:
    """*names* in turn, beginning with another one in each round."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


def merged(old: dict[str, list[Round]], new: dict[str, list[Round]]) -> dict[str, list[Round]]:
    """*new* rounds in the place of *old* ones, contender by contender and figure by figure."""
    found = {}
    for name in {**old, **new}:
        after = new.get(name, [])
        measured = {key for one in after for key in one}
        before = [{key: one[key] for key in one if key not in measured} for one in old.get(name, [])]
        count = max(len(before), len(after))
        padded = [[*rounds, *({} for _ in range(count - len(rounds)))] for rounds in (before, after)]
        found[name] = [{**one, **other} for one, other in zip(*padded, strict=True)]
    return found


def rounds_wanted(description: str, default: int) -> int:
    """`--rounds` of a benchmark's command line."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--rounds", type=int, default=default)
    rounds: int = options.parse_args().rounds
    return rounds


def median_of(rounds: Iterable[Round], key: str) -> float:
    """The median of *key* over *rounds*."""
    return statistics.median(float(one[key]) for one in rounds)


def spread_of(rounds: Iterable[Round], key: str) -> tuple[float, float]:
    """The smallest and largest *key* of *rounds*."""
    values = [float(one[key]) for one in rounds]
    return min(values), max(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which *share* (0 to 1) of *values* lie: nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def write_result(name: str, payload: Mapping[str, Any]) -> Path:
    """Store *payload* as bench/results/NAME.json. It holds `environment`, `quiet` and the raw rounds."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=2, sort_keys=False, default=str) + "\n")
    print(f"# wrote {path}", file=sys.stderr)
    return path


def read_result(name: str) -> dict[str, Any]:
    """What `write_result` stored under *name*."""
    body: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return body


def show(payload: dict[str, Any], text: str) -> None:
    """Print *text* (tables, and lines about targets) and keep it in *payload* for docs/performance.md."""
    print(text)
    payload["shown"] = text


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def median_cell(rounds: Sequence[Round], key: str) -> str:
    """`median (min–max)`, the cell of a performance table."""
    low, high = spread_of(rounds, key)
    return f"{_cell(median_of(rounds, key))} ({_cell(low)}–{_cell(high)})"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cpu_ticks() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
