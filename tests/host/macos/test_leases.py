"""The lease file of macOS, whatever is in it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.host.macos import leases
from arcbox_net.host.macos.leases import FILE_BYTES_MAX, LEASES_MAX, LINE_BYTES_MAX, SystemLease, parse_leases

WHOLE = (
    b"{\n\tname=vm\n\tip_address=192.168.64.2\n\thw_address=1,2:0:0:a:b:ff\n"
    b"\tidentifier=1,2:0:0:a:b:ff\n\tlease=0x64f1a2b3\n}\n"
)


def entry(number: int) -> bytes:
    return f"{{\n\tip_address=10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}\n\tlease=0x1\n}}\n".encode()


def test_a_lease_is_read_whole() -> None:
    assert parse_leases(WHOLE) == [
        SystemLease(IPv4Address("192.168.64.2"), "02:00:00:0a:0b:ff", "vm", float(0x64F1A2B3))
    ]


@pytest.mark.parametrize(
    ("old", "new", "mac", "hostname"),
    [
        (b"1,2:0:0:a:b:ff\n\tid", b"ff,f1:f5:dd:7f:0:2\n\tid", None, "vm"),
        (b"hw_address=1,2:0:0:a:b:ff", b"hw_address=1,2:0:0:a:b", None, "vm"),
        (b"hw_address=1,2:0:0:a:b:ff", b"hw_address=1,2:0:0:a:b:fff", None, "vm"),
        (b"name=vm", b"name=../../etc", "02:00:00:0a:0b:ff", None),
        (b"name=vm", b"name=\xff\xfe\x00", "02:00:00:0a:0b:ff", None),
        (b"name=vm", b"name=" + b"a" * 64, "02:00:00:0a:0b:ff", None),
        (b"name=vm", b"name=" + b"a" * LINE_BYTES_MAX, "02:00:00:0a:0b:ff", None),
        (b"\tname=vm\n", b"", "02:00:00:0a:0b:ff", None),
    ],
    ids=["duid", "short-mac", "long-octet", "path", "no-ascii", "long-name", "long-line", "no-name"],
)
def test_what_a_guest_said_is_believed_only_if_it_is_of_the_kind(
    old: bytes, new: bytes, mac: str | None, hostname: str | None
) -> None:
    (found,) = parse_leases(WHOLE.replace(old, new))
    assert (found.mac, found.hostname) == (mac, hostname)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        WHOLE.replace(b"}", b""),
        WHOLE.replace(b"{", b""),
        WHOLE.replace(b"192.168.64.2", b"192.168.64.256"),
        WHOLE.replace(b"0x64f1a2b3", b"soon"),
        WHOLE.replace(b"0x64f1a2b3", b"0x" + b"f" * 17),
        WHOLE.replace(b"ip_address", b"address"),
    ],
    ids=["empty", "no-end", "no-begin", "address", "no-number", "large-number", "no-address"],
)
def test_what_is_no_lease_is_passed_over(text: bytes) -> None:
    assert parse_leases(text) == []
    assert len(parse_leases(text + WHOLE)) == 1


def test_of_one_address_the_lease_that_ends_last_counts() -> None:
    later = WHOLE.replace(b"name=vm", b"name=next").replace(b"a2b3", b"a2b4")
    for text in (WHOLE + later, later + WHOLE):
        assert [found.hostname for found in parse_leases(text)] == ["next"]


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file = leases.LeaseFile(tmp_path / "leases")
    assert file.read() == []
    (tmp_path / "leases").write_bytes(WHOLE)
    first = file.read()
    assert len(first) == 1 and file.read() is first
    (tmp_path / "new").write_bytes(WHOLE + WHOLE.replace(b"64.2", b"64.3"))
    (tmp_path / "new").rename(tmp_path / "leases")
    assert len(file.read()) == 2
    (tmp_path / "leases").unlink()
    assert file.read() == []


def test_no_more_than_the_limit_are_kept() -> None:
    text = b"".join(map(entry, range(LEASES_MAX + 1)))
    assert len(text) < FILE_BYTES_MAX and len(parse_leases(text)) == LEASES_MAX
    assert len(parse_leases(text + entry(0).replace(b"0x1", b"0x2"))) == LEASES_MAX
    assert len(parse_leases(b"".join(map(entry, range(LEASES_MAX))))) == LEASES_MAX


def test_no_more_bytes_than_the_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_bytes(b"#" * (FILE_BYTES_MAX - len(WHOLE) + 1) + b"\n" + WHOLE)
    assert leases.LeaseFile(path).read() == []
    path.write_bytes(b"#" * (FILE_BYTES_MAX - len(WHOLE) - 1) + b"\n" + WHOLE)
    assert len(leases.LeaseFile(path).read()) == 1


@given(st.binary(max_size=400))
def test_no_text_is_an_error(text: bytes) -> None:
    parse_leases(text)
    parse_leases(b"{\n" + text + b"\n}\n")
    parse_leases(WHOLE[:40] + text + WHOLE[40:])
