"""docs/performance.md from bench/results: no figure in it is typed by hand.

python -m bench.report
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import RESULTS, read_result

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
NOTES = Path(__file__).parent / "notes"
HEAD = """# Performance

Made by `python -m bench.report` from `bench/results/`: medians (smallest–largest) of interleaved rounds, ours and the
reference in the same run on the same machine. Client, server and whatever is between them share its two cores, so a
proxy or a server also takes the time of those it serves. Absolute numbers hold for this machine, ratios for longer.
"""
BENCHMARKS = {
    "nat": "NAT through a network of ours, and through one built by hand",
    "forward": "Loopback port forwards: our splice relay, socat, and no proxy",
    "dhcp": "DHCP: durable exchanges, ours and dnsmasq's",
    "dns": "DNS: ours and dnsmasq",
    "rootless": "Without root: ours, pasta, slirp4netns and gvproxy",
    "dataplane.pool": "Packet pool, malloc and the bare memory",
    "dataplane.ring": "Ring between two cores",
    "dataplane.checksum": "Internet checksums, full and incremental",
    "dataplane.conntrack": "The table of flows",
    "dataplane.mapping": "External ports: mappings found, made and ended",
    "dataplane.nat": "The NAT engine on one core",
    "dataplane.offload": "Super-frames cut into segments, and segments joined",
    "ports.switch": "The switch between two TAPs, and the Linux bridge",
    "ports.egress": "The NAT engine as the way out, and nft masquerade",
    "ports.vhost": "Our vhost-user port, and DPDK's, under DPDK's driver",
    "ports.floor": "Frames a second that ports let out",
    "ports.worker": "A worker between its ports, and the link to another",
    "ports.qemu": "A QEMU guest at a socket, in shared memory, on a TAP, behind passt and QEMU's own network",
    "start": "Start, listing and memory",
}


def section(name: str, title: str) -> str:
    result = read_result(name)
    parts = [f"## {title}", f"`python -m bench.{name}`. {_machine(result['environment'])}", result["shown"]]
    if not result["quiet"]["quiet"]:
        parts.append(
            f"The machine was not quiet: {result['quiet']['busy_share']:.0%} busy before the first round."
        )
    note = NOTES / f"{name}.md"
    if note.exists():
        parts.append(note.read_text().strip())
    return "\n\n".join(parts)


def _machine(environment: dict[str, Any]) -> str:
    tools = ", ".join(f"{tool} {version}" for tool, version in environment["tools"].items() if version)
    return (
        f"{environment['cpu']}, {environment['cores']} cores, Linux {environment['kernel']}, "
        f"Python {environment['python']}, Cython {environment['cython']}, {tools}; {environment['date']}."
    )


def main() -> None:
    measured = {name: title for name, title in BENCHMARKS.items() if (RESULTS / f"{name}.json").exists()}
    sections = [section(name, title) for name, title in measured.items()]
    PAGE.write_text("\n\n".join([HEAD.strip(), *sections]) + "\n")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
