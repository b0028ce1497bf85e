"""resolv.conf as people and tools write it, and all the ways in which it is replaced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arcbox_net.services.dns import resolvconf
from arcbox_net.services.dns.resolvconf import NAMESERVERS_MAX, ResolvConf, directories, parse, read

DEADLINE_S = 30.0


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("nameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver\t192.0.2.1 # why\nnameserver 2001:db8::1", ["192.0.2.1", "2001:db8::1"]),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.2\nsearch nameserver\n", []),
        ("nameserver fe80::1%eth0\n", ["fe80::1%eth0"]),
        (
            "nameserver\nnameserver ns.example.com\nnameserver 192.0.2.300\nnameserver 127.0.0.53",
            ["127.0.0.53"],
        ),
        ("nameserver 192.0.2.1\n" * 3, ["192.0.2.1"]),
        ("\0\xff nameserver 192.0.2.1\n", []),
        (
            "".join(f"nameserver 192.0.2.{i}\n" for i in range(99)),
            [f"192.0.2.{i}" for i in range(NAMESERVERS_MAX)],
        ),
    ],
)
def test_nameservers_are_read(text: str, hosts: list[str]) -> None:
    assert parse(text) == tuple((host, 53) for host in hosts)


def test_unreadable_file_names_nobody(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") == ()
    assert read(tmp_path) == ()
    os.mkfifo(tmp_path / "fifo")
    assert read(tmp_path / "fifo") == ()
    (tmp_path / "binary").write_bytes(os.urandom(1000))
    assert read(tmp_path / "binary") == ()


def test_directories_of_all_links_are_watched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "resolv.conf").symlink_to("../b/stub.conf")
    assert directories(tmp_path / "a" / "resolv.conf") == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "b" / "stub.conf").symlink_to("../a/resolv.conf")
    assert directories(tmp_path / "a" / "resolv.conf") == [tmp_path / "a", tmp_path / "b"]


def follow(path: Path, steps: list[tuple[Callable[[], object], str | None]]) -> list[str]:
    """Run each step and wait until its nameserver is reported (None: nothing to wait for)."""
    seen: list[str] = []

    async def body() -> None:
        conf = ResolvConf(path, lambda endpoints: seen.append(endpoints[0][0]))
        conf.start()
        loop = asyncio.get_running_loop()
        try:
            for act, expected in steps:
                act()
                deadline = loop.time() + DEADLINE_S
                while expected is not None and seen[-1:] != [expected]:
                    assert loop.time() < deadline, (seen, expected)
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.02)
        finally:
            conf.stop()

    asyncio.run(body())
    return seen


def steps_of_a_life(path: Path) -> list[tuple[Callable[[], object], str | None]]:
    base = path.parent
    other = base / "run"

    def replace(text: str) -> None:
        (base / "tmp").write_text(text)
        os.rename(base / "tmp", path)

    def link() -> None:
        other.mkdir()
        (other / "stub").write_text("nameserver 192.0.2.5\n")
        path.unlink(missing_ok=True)
        path.symlink_to(other / "stub")

    def relink() -> None:
        (other / "second").write_text("nameserver 192.0.2.7\n")
        (base / "link").symlink_to("run/second")
        os.rename(base / "link", path)

    return [
        (lambda: path.write_text("nameserver 192.0.2.1\n"), "192.0.2.1"),
        (lambda: path.write_text(""), None),
        (lambda: path.write_text("nameserver 192.0.2.2\n"), "192.0.2.2"),
        (path.unlink, None),
        (lambda: path.write_text("nameserver 192.0.2.3\n"), "192.0.2.3"),
        (lambda: replace("nameserver 192.0.2.4\n"), "192.0.2.4"),
        (link, "192.0.2.5"),
        (lambda: (other / "stub").write_text("nameserver 192.0.2.6\n"), "192.0.2.6"),
        (relink, "192.0.2.7"),
        (lambda: (other / "second").unlink(), None),
        (lambda: replace("garbage\n"), None),
        (lambda: replace("nameserver 192.0.2.8\n"), "192.0.2.8"),
    ]


def test_r17_file_is_followed_through_everything_that_happens_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvconf, "POLL_S", 3600.0)
    assert follow(tmp_path / "resolv.conf", steps_of_a_life(tmp_path / "resolv.conf")) == [
        f"192.0.2.{i}" for i in range(1, 9)
    ]


def test_r17_file_is_followed_without_inotify_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoInotify:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(resolvconf.ctypes, "CDLL", NoInotify)
    monkeypatch.setattr(resolvconf, "POLL_S", 0.01)
    seen = follow(tmp_path / "resolv.conf", steps_of_a_life(tmp_path / "resolv.conf"))
    assert seen[-1] == "192.0.2.8"
    assert sorted(set(seen)) == sorted(seen)
