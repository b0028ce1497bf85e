"""The right to be a network: one holder, visible to others, gone with its process."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from arcbox_net import paths
from arcbox_net.errors import AlreadyRunning, PermissionDenied
from arcbox_net.network.lock import NetworkLock, live_networks, make_records_dir
from arcbox_net.network.main import sweep_abandoned


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCBOX_NET_RUNTIME_DIR", str(tmp_path / "run"))


def held_by_another_process(name):
    code = (
        "import sys; from arcbox_net.network.lock import NetworkLock;"
        f"lock = NetworkLock({name!r}); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_k17_second_holder_is_refused_with_the_first_ones_pid():
    process = held_by_another_process("dev")
    try:
        with pytest.raises(AlreadyRunning) as caught:
            NetworkLock("dev")
        assert caught.value.pid == process.pid
        assert caught.value.network == "dev"
    finally:
        process.kill()
        process.communicate()


def test_k17_lock_of_a_killed_process_is_free():
    process = held_by_another_process("dev")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert live_networks() == []
    NetworkLock("dev").release()


def test_live_networks_names_holders_without_disturbing_them():
    lock = NetworkLock("one")
    process = held_by_another_process("two")
    try:
        assert live_networks() == ["one", "two"]
        assert live_networks() == ["one", "two"], "asking must not release our own lock"
    finally:
        process.kill()
        process.communicate()
    assert live_networks() == ["one"]
    lock.release()
    assert live_networks() == []


def test_release_removes_the_runtime_directory_and_a_new_holder_gets_a_new_one():
    lock = NetworkLock("dev")
    directory = paths.runtime_dir("dev")
    assert directory.stat().st_mode & 0o777 == 0o700
    lock.release()
    assert not directory.exists()
    NetworkLock("dev").release()


def test_directory_that_somebody_else_put_there_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dev").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied, match="somebody else"):
        NetworkLock("dev")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755
    assert not any((tmp_path / "elsewhere").iterdir())


def test_directory_that_others_may_change_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(PermissionDenied) as caught:
        NetworkLock("dev")
    assert "ARCBOX_NET_RUNTIME_DIR" in caught.value.fix


def test_shared_directory_stays_as_it_is_and_ours_in_it_is_private(tmp_path):
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o1777)
    lock = NetworkLock("dev")
    assert shared.stat().st_mode & 0o7777 == 0o1777
    assert (shared / "dev").stat().st_mode & 0o777 == 0o700
    assert (shared / "dev" / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()


def test_new_runtime_root_is_private(tmp_path):
    lock = NetworkLock("dev")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    lock.release(keep_directory=True)
    assert paths.lock_file("dev").exists()
    assert live_networks() == []


def test_a_holder_whose_directory_was_removed_leaves_the_next_ones_alone():
    first = NetworkLock("dev")
    shutil.rmtree(paths.runtime_dir("dev"))
    second = NetworkLock("dev")
    first.release()
    assert live_networks() == ["dev"]
    second.release()
    assert not paths.runtime_dir("dev").exists()


def test_a_holder_takes_its_name_again_where_its_directory_was_removed():
    lock = NetworkLock("dev")
    lock.retake()  # nothing to do
    shutil.rmtree(paths.runtime_root())
    assert live_networks() == []
    lock.retake()
    assert live_networks() == ["dev"]
    lock.release()
    assert not paths.runtime_dir("dev").exists()


def test_a_name_that_another_process_took_meanwhile_is_not_taken_again():
    lock = NetworkLock("dev")
    shutil.rmtree(paths.runtime_dir("dev"))
    process = held_by_another_process("dev")
    try:
        with pytest.raises(AlreadyRunning) as caught:
            lock.retake()
        assert caught.value.pid == process.pid
        lock.release()
        assert live_networks() == ["dev"]
    finally:
        process.kill()
        process.communicate()


def test_a_directory_that_was_somebodys_own_before_keeps_what_is_in_it():
    directory = paths.runtime_dir("documents")
    directory.mkdir(parents=True)
    (directory / "thesis.txt").write_text("three years")
    lock = NetworkLock("documents")
    paths.runtime_state_file("documents").touch()
    lock.release()
    assert [entry.name for entry in directory.iterdir()] == ["thesis.txt"]


def test_another_programs_database_beside_networks_is_not_swept():
    database = paths.runtime_state_file("editor")
    database.parent.mkdir(parents=True)
    database.write_bytes(b"nothing of SQLite's")
    sweep_abandoned()
    assert database.read_bytes() == b"nothing of SQLite's"


def test_records_that_somebody_else_put_into_a_shared_directory_are_not_believed(tmp_path):
    (tmp_path / "forged").mkdir()
    paths.runtime_root().mkdir()
    paths.records_dir().symlink_to(tmp_path / "forged")
    with pytest.raises(PermissionDenied, match="somebody else"):
        make_records_dir()


def test_records_are_private_and_no_networks():
    assert make_records_dir().stat().st_mode & 0o777 == 0o700
    assert make_records_dir() == paths.records_dir(), "again is fine"
    assert live_networks() == []
