"""Guests of an ordinary user that want power over their network, and what the user's own folders may do to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.machine import kill9
from tests.support.netns import wait_until
from tests.support.rootless import Rootless
from tests.support.user import CLI

STRANGER = 65_533

# Leaves its namespaces for ones it made itself. A child stays where the guest was, with a guest's powers, and when
# it is told the id of a thread, it puts an interface where that is.
LEAVING_GUEST = """
import ctypes, os, pathlib, subprocess, sys, time
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
folder = pathlib.Path(sys.argv[1])
if os.fork() == 0:
    target = folder / "target"
    while not target.exists():
        time.sleep(0.05)
    words = ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "evil", "netns", target.read_text()]
    done = subprocess.run(words, capture_output=True, text=True)
    (folder / "done.new").write_text(f"{done.returncode} {done.stderr}")
    (folder / "done.new").rename(folder / "done")
    time.sleep(60)  # what it made goes with its namespace
if ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
    sys.exit("unshare failed")
print("left", flush=True)
time.sleep(1000)
"""


def test_a_guest_that_left_its_namespaces_has_no_power_over_the_next_run(site: Rootless) -> None:
    site.up()
    words = [str(CLI), "run", "dev", "--name", "web", "--", sys.executable, "-c", LEAVING_GUEST]
    guest = site.user.popen([*words, str(site.user.home)], stdout=subprocess.PIPE, text=True)
    assert guest.stdout is not None
    assert guest.stdout.readline() == "left\n"
    kill9(site.network_pid())
    site.up()
    target = site.user.home / "target"
    target.with_suffix(".new").write_text(str(inside_thread(site.network_pid())))
    target.with_suffix(".new").rename(target)
    done = site.user.home / "done"
    wait_until(done.exists)
    assert "evil" not in site.inside("ip -br link").stdout
    assert done.read_text().startswith("2 ")
    guest.kill()
    guest.wait()
    guest.stdout.close()


def inside_thread(pid: int) -> int:
    """The thread of the network process *pid* that is in the private namespace."""
    outside = os.stat(f"/proc/{pid}/ns/net").st_ino
    threads = os.listdir(f"/proc/{pid}/task")
    return next(int(tid) for tid in threads if os.stat(f"/proc/{pid}/task/{tid}/ns/net").st_ino != outside)


@pytest.mark.parametrize(
    "command", ["show dev", "ls", "run dev -- true", "exec-tap dev vm1 -- echo {fd}", "down dev"]
)
def test_a_network_that_somebody_else_pretends_to_run_is_told_nothing(site: Rootless, command: str) -> None:
    folder = site.directory / "stranger" / "arcbox-net" / "dev"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    heard = folder / "heard"
    sockets = [("api.sock", ""), ("fd.sock", ",type=5")]
    listening = [
        site.machine.popen(
            [
                *["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "socat", "-u"],
                *[f"UNIX-LISTEN:{folder / name},mode=0666,fork{kind}", f"OPEN:{heard},creat,append"],
            ]
        )
        for name, kind in sockets
    ]
    wait_until(lambda: all(str(folder / name) in site.machine.run("ss -Hlx").stdout for name, _ in sockets))
    env = {"XDG_RUNTIME_DIR": str(site.directory / "stranger")}
    done = site.user.run([str(CLI), *command.split()], check=False, env=env)
    if command != "ls":
        assert done.returncode == 1
        assert f"uid {STRANGER} listens there" in done.stderr
    for process in listening:
        process.kill()
        process.wait()
    assert not heard.exists() or heard.read_bytes() == b""


def test_a_network_whose_runtime_directory_was_removed_can_be_reached_again(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    pid = site.network_pid()
    gone = site.user.runtime.with_name("gone")
    site.user.runtime.rename(gone)  # as at the end of the session: it is empty, then it is not there at all
    shutil.rmtree(gone / "arcbox-net")
    assert site.user.cli_json("ls") == []
    site.user.runtime.mkdir(mode=0o700)
    os.chown(site.user.runtime, site.user.uid, site.user.gid)
    wait_until(lambda: site.user.cli("show", "dev", check=False).returncode == 0)
    assert site.network_pid() == pid
    assert [port["name"] for port in site.user.cli_json("show dev")["ports"]] == ["web"]
    assert guest.run(f"curl -sS --max-time 30 http://{site.world_ip}/").stdout.strip() == site.host_ip
    assert f"running already (pid {pid})" in site.user.cli("up", "dev", check=False).stderr
    moved = (site.user.runtime / "arcbox-net").rename(gone / "again")  # so that nobody remakes what goes
    shutil.rmtree(moved)
    wait_until(lambda: site.user.cli("show", "dev", check=False).returncode == 0)
    site.user.cli("down dev")
    assert site.machine.network_pids() == []
    assert not (site.user.runtime / "arcbox-net" / "dev").exists()
