"""The tables of bench/rootless: figures by contender, and each wanted ratio beside what was measured."""

from __future__ import annotations

from typing import Any

from bench.common import Round, median_cell, median_of, table

OURS = ("arcbox-net", "arcbox-net mtu 65520")
PASTAS = ("pasta", "pasta capped", "pasta packaged", "pasta mtu 1500")
# section, figure in the JSON, title, factor
COLUMNS: dict[str, list[tuple[str, str, float]]] = {
    "tcp": [
        *(
            (f"{test}.gbit_s", f"{test} Gbit/s", 1.0)
            for test in ("up_1", "down_1", "both_1", "up_4", "down_4")
        ),
    ],
    "cpu": [
        (f"{test}.{figure}", f"{test} {title}", 1.0)
        for test in ("up_1", "down_1")
        for figure, title in (("tool_s_per_gb", "tool s/GB"), ("machine_s_per_gb", "machine s/GB"))
    ],
    "loopback": [
        ("up_1.gbit_s", "up Gbit/s", 1.0),
        ("down_1.gbit_s", "down Gbit/s", 1.0),
        ("rr.p50_us", "RR p50 µs", 1.0),
        ("connections_1.per_s", "conn/s ×1", 1.0),
        ("connections_16.per_s", "conn/s ×16", 1.0),
    ],
    "latency": [("rr.p50_us", "RR p50 µs", 1.0), ("rr.p99_us", "RR p99 µs", 1.0)],
    "connections": [("1.per_s", "conn/s ×1", 1.0), ("16.per_s", "conn/s ×16", 1.0)],
    "udp": [
        (f"{way}_{test}.{figure}", f"{way} {test} {title}", factor)
        for way in ("up", "down")
        for test, figure, title, factor in (
            ("50k", "loss", "loss %", 100.0),
            ("100k", "loss", "loss %", 100.0),
            ("200k", "loss", "loss %", 100.0),
            ("blast", "delivered_pps", "kpps", 0.001),
        )
    ],
    "memory": [("memory.idle_mb", "idle MB", 1.0), ("memory.peak_mb", "peak MB", 1.0)],
}
TITLES = {
    "tcp": "TCP to a server in another namespace",
    "cpu": "Processor time of the tool and of the whole machine, in the same runs",
    "loopback": "Server on the host's loopback",
    "latency": "One byte and back, on one connection",
    "connections": "Connections a second: a byte each way, the server closes first",
    "udp": "UDP, 64 bytes: loss at fixed rates, and what arrives at full speed",
    "memory": "Memory of the tool",
}


def tables(payload: dict[str, Any]) -> str:
    """What docs/performance.md shows."""
    sections = payload["sections"]
    parts = []
    for name, columns in COLUMNS.items():
        section = sections.get("tcp" if name == "cpu" else name)
        if section is None:
            continue
        rows = section["rounds"]
        count = max(len(rounds) for rounds in rows.values())
        parts.append(f"**{TITLES[name]}** (medians of {count}, smallest–largest)")
        header = ["", *(title for _, title, _ in columns)]
        body = [
            [contender, *(cell(rounds, key, factor) for key, _, factor in columns)]
            for contender, rounds in rows.items()
        ]
        parts.append(table(header, body))
    parts.append("**Wanted**")
    parts.append(table(["", "wanted", "measured", ""], wanted(sections)))
    if payload["pasta_from_source"]:
        parts.append(f"pasta is {payload['pasta_from_source']}, built from source.")
    if payload["missing"]:
        parts.append("Not measured: " + "; ".join(payload["missing"]) + ".")
    return "\n\n".join(parts)


def cell(rounds: list[Round], key: str, factor: float) -> str:
    there = [{key: one[key] * factor} for one in rounds if key in one]
    failed = sum(f"{key.partition('.')[0]}.failure" in one for one in rounds)
    words = [median_cell(there, key)] if there else []
    words += [f"{failed} of {len(rounds)} failed"] if failed else []
    return ", ".join(words) or "—"


def wanted(sections: dict[str, Any]) -> list[list[object]]:
    """Each target as a ratio: ours to the best of those it is measured by."""

    def best(section: str, key: str, names: tuple[str, ...], low: bool = False) -> float | None:
        rows = sections.get(section, {}).get("rounds", {})
        medians = []
        for name in names:
            rounds = [one for one in rows.get(name, []) if key in one]
            if rounds:
                medians.append(median_of(rounds, key))
        return (min if low else max)(medians) if medians else None

    found: list[list[object]] = []

    def ratio(
        text: str, section: str, key: str, names: tuple[str, ...], limit: float, low: bool = False
    ) -> None:
        mine, theirs = best(section, key, OURS, low), best(section, key, names, low)
        if mine is None or theirs is None:
            return
        value = mine / theirs if theirs else (1.0 if mine == theirs else float("inf"))
        met = value <= limit if low else value >= limit
        found.append([text, f"{'≤' if low else '≥'} {limit:g}×", f"{value:.2f}×", "" if met else "missed"])

    ratio("up, to the best pasta", "tcp", "up_1.gbit_s", PASTAS, 1.2)
    ratio("up, to pasta as it is", "tcp", "up_1.gbit_s", ("pasta",), 10)
    ratio("down, to the best pasta", "tcp", "down_1.gbit_s", PASTAS, 1.2)
    ratio("both at once, to the best pasta", "tcp", "both_1.gbit_s", PASTAS, 2.0)
    ratio("up, to kernel NAT", "tcp", "up_1.gbit_s", ("kernel NAT",), 0.65)
    ratio("down, to kernel NAT", "tcp", "down_1.gbit_s", ("kernel NAT",), 0.65)
    for way in ("up", "down"):
        # One that moves next to nothing used less time than can be measured.
        fastest = max(PASTAS, key=lambda name: best("tcp", f"{way}_1.gbit_s", (name,)) or 0.0)
        ratio(
            f"tool's CPU per GB {way}, to the fastest pasta",
            "tcp",
            f"{way}_1.tool_s_per_gb",
            (fastest,),
            0.6,
            low=True,
        )
    ratio("RR p50, to pasta", "latency", "rr.p50_us", PASTAS, 1.0, low=True)
    for parallel in ("1", "16"):
        ratio(f"connections ×{parallel}, to pasta", "connections", f"{parallel}.per_s", PASTAS, 1.3)
    for way in ("up", "down"):
        ratio(f"UDP loss at 200k {way}, to pasta", "udp", f"{way}_200k.loss", PASTAS, 1.0, low=True)
        ratio(f"UDP blast {way}, to pasta", "udp", f"{way}_blast.delivered_pps", PASTAS, 1.3)
    peak = best("memory", "memory.peak_mb", OURS)
    if peak is not None:
        found.append(["memory at the peak", "≤ 60 MB", f"{peak:.0f} MB", "" if peak <= 60 else "missed"])
    return found
