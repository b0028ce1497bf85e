"""The words of nft's language that the rulesets are written with: tables, sets, chains, and what every drop is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from arcbox_net.host.plan import table_name


def table(family: str, network: str, parts: Iterable[str]) -> str:
    body = "\n\n".join(part for part in parts if part)
    return (
        f'table {family} {table_name(network)} {{\n\tcomment "arcbox-net network={network}"\n\n{body}\n}}\n'
    )


def elements_of(kind: str, name: str, columns: str, elements: Sequence[str], comment: str) -> str:
    """A set or map with the elements it has now."""
    lines = [f"\t# {comment}", f"\t{kind} {name} {{", f"\t\t{columns}"]
    if elements:
        lines.append("\t\telements = {\n\t\t\t" + ",\n\t\t\t".join(elements) + "\n\t\t}")
    return "\n".join([*lines, "\t}"])


def seen(name: str, key: str, timeout: str, comment: str) -> str:
    """A set that rules fill, and whose elements go when they were not seen for *timeout*."""
    return (
        f"\t# {comment}\n\tset {name} {{\n\t\t{key}\n\t\tsize {SEEN_MAX}\n"
        f"\t\tflags dynamic,timeout\n\t\ttimeout {timeout}\n\t}}"
    )


SEEN_MAX = 65535


def chain(name: str, *rules: str, comment: str | None = None, hook: str | None = None) -> str:
    """A chain of those *rules* that are not empty."""
    lines = [f"\t# {comment}"] if comment else []
    lines.append(f"\tchain {name} {{")
    if hook:
        lines.append(f"\t\ttype {hook}; policy accept;")
    lines.extend(f"\t\t{rule}" for rule in rules if rule)
    return "\n".join([*lines, "\t}"])


def drop(reason: str) -> str:
    return f'counter drop comment "{reason}"'


def any_of(*items: object) -> str:
    """What an address or port may equal: one value, or an anonymous set of several."""
    words = [str(item) for item in items if item is not None]
    return words[0] if len(words) == 1 else f"{{ {', '.join(words)} }}"
