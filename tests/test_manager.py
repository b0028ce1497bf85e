"""How NetworkManager starts its process, in programs that are not as tidy as a shell."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from arcbox_net import NetConfig, NetworkManager, paths
from arcbox_net.config import Egress
from arcbox_net.errors import StartFailed, Unsupported

# The process refuses this before it looks at the kernel, so that it can be started without root.
REFUSED = NetConfig(egress=Egress.NONE)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCBOX_NET_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("ARCBOX_NET_STATE_DIR", str(tmp_path / "state"))


def stand_in(tmp_path, monkeypatch, script):
    """Let *script* (sh) be run in the place of Python, with the network process's arguments."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_program_without_standard_streams_can_start_a_network(tmp_path):
    program = f"""
import os
for fd in (0, 1, 2):
    os.close(fd)
from arcbox_net import NetConfig, NetworkManager
from arcbox_net.config import Egress
try:
    NetworkManager(NetConfig(egress=Egress.NONE), name="dev").start()
except BaseException as error:
    said = type(error).__name__
with open({str(tmp_path / "said")!r}, "w") as file:
    file.write(said)
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert (tmp_path / "said").read_text() == "Unsupported"


def test_refused_start_leaves_no_directory_and_a_private_log():
    with pytest.raises(Unsupported):
        NetworkManager(REFUSED, name="dev").start()
    assert not paths.runtime_dir("dev").exists()
    assert paths.log_file("dev").stat().st_mode & 0o777 == 0o600


def test_process_that_dies_before_it_answers_is_cleaned_up_after(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    stand_in(tmp_path, monkeypatch, f'echo "$@" >> {calls}\n')
    with pytest.raises(StartFailed) as caught:
        NetworkManager(NetConfig(), name="dev").start()
    assert str(paths.log_file("dev")) in caught.value.fix
    first, second = calls.read_text().splitlines()
    assert "--parent" in first
    assert "--remove" in second


def test_interrupted_start_does_not_go_on_by_itself(tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    stand_in(tmp_path, monkeypatch, f"echo $$ > {pid_file}\nexec sleep 600\n")
    pids = []

    def interrupt():
        pids.append(int(pid_file.read_text()))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            NetworkManager(NetConfig(), name="dev").start_detached()
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert not os.path.exists(f"/proc/{pids[0]}")


def test_start_from_two_threads_starts_one_process(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    stand_in(
        tmp_path,
        monkeypatch,
        f'echo start >> {calls}\nwhile [ "$1" != --ready-fd ]; do shift; done\n'
        'echo {} > "/dev/fd/$2"\nexec sleep 600\n',
    )
    manager = NetworkManager(NetConfig(), name="dev")
    threads = [threading.Thread(target=manager.start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager._process is not None
    manager._process.kill()
    manager._process.wait()
    assert calls.read_text() == "start\n"
