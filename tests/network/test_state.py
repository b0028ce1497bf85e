"""What the state file promises: durable, one owner, readable errors, no silent loss."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arcbox_net.errors import StateError
from arcbox_net.network import state as state_module
from arcbox_net.network.state import SCHEMA_VERSION, State, remove_state
from arcbox_net.services.dhcp.records import BOUND, RESERVED, Lease, LeaseChange

IP = IPv4Address("192.168.64.7")
LEASE = Lease(
    IP,
    identity=b"vm1\0\x01\x02\0\0\0\0\x07",
    mac=b"\x02\0\0\0\0\x07",
    client_id=b"\xff\0\x01",
    hostname="vm1",
    port="vm1",
    lease_s=3600,
    expires_wall=1_700_000_000.25,
    expires_mono=3661.5,
    boot="b1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state" / "net1.db"


def test_a_lease_comes_back_equal(path: Path) -> None:
    state = State.open(path)
    state.commit_leases([LeaseChange(IP, LEASE)])
    state.close()
    assert State.open(path).leases() == [LEASE]


def test_changes_apply_in_their_order(path: Path) -> None:
    state = State.open(path)
    other = IPv4Address("192.168.64.9")
    state.commit_leases(
        [LeaseChange(IP, LEASE), LeaseChange(other, Lease(other, kind=RESERVED), frees=(IP,))]
    )
    assert [lease.ip for lease in state.leases()] == [other]
    state.commit_leases([LeaseChange(other, None), LeaseChange(IP, None), LeaseChange(IP, LEASE)])
    assert state.leases() == [LEASE]


def test_leases_are_listed_by_address(path: Path) -> None:
    state = State.open(path)
    addresses = [IPv4Address(f"192.168.64.{n}") for n in (200, 3, 40)]
    state.commit_leases([LeaseChange(ip, Lease(ip)) for ip in addresses])
    assert [lease.ip for lease in state.leases()] == sorted(addresses)


def test_tables_keep_their_keys_apart(path: Path) -> None:
    state = State.open(path)
    state.put("ports", "vm1", {"mac": "02:00:00:00:00:01", "queues": [1, 2]})
    state.put("dns", "vm1", {"addresses": ["10.0.0.1"]})
    state.put("ports", "vm1", {"mac": "02:00:00:00:00:02"})
    state.delete("dns", "nothing-of-that-name")
    assert state.items("ports") == {"vm1": {"mac": "02:00:00:00:00:02"}}
    assert state.items("dns") == {"vm1": {"addresses": ["10.0.0.1"]}}
    state.delete("dns", "vm1")
    assert state.items("dns") == {}


def test_an_unknown_table_is_a_bug_of_the_caller(path: Path) -> None:
    with pytest.raises(ValueError, match="none of meta, ports"):
        State.open(path).put("leases; DROP", "k", {})


def test_files_and_new_directories_are_private(path: Path) -> None:
    old = os.umask(0)
    try:
        State.open(path).put("meta", "a", {})
    finally:
        os.umask(old)
    assert {oct(p.stat().st_mode & 0o777) for p in path.parent.iterdir()} == {"0o600"}
    assert [oct(p.stat().st_mode & 0o777) for p in (path.parent, path.parent.parent)] == ["0o700", "0o700"]


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    State.open(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="newer arcbox-net") as caught:
        State.open(path)
    assert caught.value.fix and caught.value.schema == SCHEMA_VERSION + 1
    assert path.read_bytes() == before


def test_an_older_schema_is_brought_forward_with_its_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State.open(path)
    state.commit_leases([LeaseChange(IP, LEASE)])
    state.close()
    longer = (*state_module.MIGRATIONS, ("CREATE TABLE later (key TEXT)", "INSERT INTO later VALUES ('x')"))
    monkeypatch.setattr(state_module, "MIGRATIONS", longer)
    monkeypatch.setattr(state_module, "SCHEMA_VERSION", len(longer))
    state = State.open(path)
    assert state.leases() == [LEASE]
    state.close()
    assert sqlite3.connect(path).execute("SELECT key FROM later").fetchall() == [("x",)]


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_corrupt_file_is_an_error_with_a_fix(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        State.open(path)
    assert str(path) in str(caught.value) and "move it away" in str(caught.value.fix)
    assert path.read_bytes() == content


def test_a_second_process_cannot_have_it_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT_S", 0.01)
    state = State.open(path)
    with pytest.raises(StateError, match="another process"):
        State.open(path)
    state.put("meta", "still", {"works": True})


def test_a_directory_in_the_way_is_an_error_with_its_path(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StateError, match="Is a directory") as caught:
        State.open(path)
    assert caught.value.facts["path"] == str(path)


def test_a_closed_state_says_so(path: Path) -> None:
    state = State.open(path)
    state.close()
    with pytest.raises(StateError, match="is closed"):
        state.leases()


def test_a_failed_write_is_undone_and_the_next_one_works(path: Path) -> None:
    state = State.open(path)
    broken = Lease(IP, state=BOUND, lease_s=None)  # type: ignore[arg-type]
    with pytest.raises(StateError):
        state.commit_leases(
            [LeaseChange(IPv4Address("10.0.0.1"), Lease(IPv4Address("10.0.0.1"))), LeaseChange(IP, broken)]
        )
    assert state.leases() == []
    state.commit_leases([LeaseChange(IP, LEASE)])
    assert state.leases() == [LEASE]


def test_remove_state_leaves_no_file(path: Path) -> None:
    state = State.open(path)
    state.put("meta", "a", {})
    state.close()
    remove_state(path)
    remove_state(path)
    assert list(path.parent.iterdir()) == []


WRITER = """
import sys
from ipaddress import IPv4Address
from pathlib import Path
from arcbox_net.network.state import State
from arcbox_net.services.dhcp.records import Lease, LeaseChange
state = State.open(Path(sys.argv[1]))
number = len(state.leases())
while True:
    ip = IPv4Address(0x0A000000 + number)
    state.commit_leases([LeaseChange(ip, Lease(ip))])
    number += 1
    print(number, flush=True)
"""


def test_kill_9_loses_no_row_that_was_acknowledged(path: Path) -> None:
    promised = 0
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(5 + 7 * round_):
                promised = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split("\n")
        promised = max([promised, *(int(line) for line in rest[:-1])])
        state = State.open(path)
        found = len(state.leases())
        state.close()
        assert promised <= found <= promised + 1
        promised = found


@pytest.mark.e2e
@pytest.mark.fault
def test_a_full_disk_is_an_error_and_space_brings_it_back(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], check=True)
    try:
        state = State.open(mount / "net.db")
        state.commit_leases([LeaseChange(IP, LEASE)])
        filler = mount / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(StateError, match="cannot be written") as caught:
            for number in range(200):
                state.put("meta", str(number), {"padding": "x" * 2000})
        assert caught.value.status == 507 and "space" in str(caught.value.fix)
        before = len(state.items("meta"))
        assert state.leases() == [LEASE]
        filler.unlink()
        state.put("meta", "after", {"padding": "x" * 2000})
        assert len(state.items("meta")) == before + 1
        state.close()
        reopened = State.open(mount / "net.db")
        assert reopened.leases() == [LEASE] and "after" in reopened.items("meta")
        reopened.close()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.e2e
@pytest.mark.fault
def test_a_disk_turned_read_only_is_an_error_and_writable_brings_it_back(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=True)
    try:
        state = State.open(mount / "net.db")
        state.put("meta", "a", {"n": 1})
        state.close()
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        with pytest.raises(StateError) as caught:
            State.open(mount / "net.db")
        assert caught.value.path == str(mount / "net.db")
        subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)
        assert State.open(mount / "net.db").items("meta") == {"a": {"n": 1}}
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
