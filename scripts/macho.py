"""What a Mach-O file of 64 bits takes from others: the undefined symbols and where the linker found each."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

MAGIC = 0xFEEDFACF
CPUS = {0x01000007: "x86_64", 0x0100000C: "arm64"}
LC_SYMTAB = 0x02
LC_BUILD_VERSION = 0x32
LC_LOAD_DYLIB = 0x0C
N_EXT = 0x01
N_TYPE = 0x0E


class MachO(NamedTuple):
    """*undefined*: the symbol without its underscore, and the library's path; "" if that is found out on loading."""

    cpu: str
    macos_min: tuple[int, int]
    undefined: dict[str, str]


def read(path: Path) -> MachO:
    """Raises ValueError if it is none."""
    body = path.read_bytes()
    magic, cpu, _, _, commands, _ = struct.unpack_from("<6I", body)
    if magic != MAGIC:
        raise ValueError(f"{path} is no Mach-O file of 64 bits")
    libraries: list[str] = []
    macos_min = (0, 0)
    table = (0, 0, 0)
    at = 32
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", body, at)
        if command == LC_LOAD_DYLIB:
            name = at + struct.unpack_from("<I", body, at + 8)[0]
            libraries.append(_text(body, name))
        elif command == LC_BUILD_VERSION:
            version = struct.unpack_from("<I", body, at + 12)[0]
            macos_min = version >> 16, version >> 8 & 0xFF
        elif command == LC_SYMTAB:
            table = struct.unpack_from("<3I", body, at + 8)
        at += size
    return MachO(CPUS.get(cpu, hex(cpu)), macos_min, _undefined(body, libraries, *table))


def _undefined(body: bytes, libraries: list[str], first: int, count: int, texts: int) -> dict[str, str]:
    found = {}
    for at in range(first, first + 16 * count, 16):
        name, kind, _, about, _ = struct.unpack_from("<IBBHQ", body, at)
        if kind & N_TYPE == 0 and kind & N_EXT:
            ordinal = about >> 8  # 0 and 254: of whoever has it when the file is loaded
            library = libraries[ordinal - 1] if 0 < ordinal <= len(libraries) else ""
            found[_text(body, texts + name).removeprefix("_")] = library
    return found


def _text(body: bytes, at: int) -> str:
    return body[at : body.index(b"\0", at)].decode()
