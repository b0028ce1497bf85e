"""Private networks of an ordinary user: what stops one, what survives a crash, and what is put right."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine, kill9
from tests.support.netns import COMMAND_TIMEOUT_S, wait_until
from tests.support.peers import http_server
from tests.support.user import CLI, User

LIBRARY = """
import os, signal, sys
from arcbox_net import NetConfig, NetworkManager
manager = NetworkManager(NetConfig())
manager.start()
manager.attach_tap("vm1")
print(manager.name, flush=True)
os.kill(manager.pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def user(machine: Machine, short_path: Path) -> User:
    return User(machine, short_path)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short name, because unix sockets have 108 bytes for theirs."""
    path = Path(tempfile.mkdtemp(prefix="abxt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def network_pid(user: User, name: str = "dev") -> int:
    return int(user.cli_json(f"show {name}")["pid"])


def inside(user: User, command: str) -> subprocess.CompletedProcess[str]:
    """Run *command* (sh) in the private namespace of `dev`, as its owner."""
    return user.cli("enter", "dev", "--", "sh", "-c", f"PATH=$PATH:/usr/sbin:/sbin; {command}")


class Guest:
    """A process that is a guest of `dev` until it is ended."""

    def __init__(self, user: User, name: str) -> None:
        words = [str(CLI), "run", "dev", "--name", name, "--", "sh", "-c", "echo $$; exec sleep infinity"]
        self.process = user.popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def run(self, command: str) -> str:
        words = ["nsenter", f"--target={self.pid}", "--net", "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S).stdout

    def end(self) -> None:
        for pid in (self.process.pid, self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def guest(machine: Machine, user: User) -> Iterator[Guest]:
    user.cli("up dev")
    made = Guest(user, "web")
    yield made
    made.end()


def test_after_kill_9_a_guest_that_is_still_there_is_attached_again(
    machine: Machine, user: User, guest: Guest
) -> None:
    before = guest.run("ip -br -4 addr show eth0").split()
    kill9(network_pid(user))
    wait_until(lambda: "eth0" not in guest.run("ip -br link"), message="the old device is gone")
    user.cli("up dev")
    assert guest.run("ip -br -4 addr show eth0").split() == before
    (port,) = user.cli_json("show dev")["ports"]
    assert (port["name"], port["state"]) == ("web", "up")
    with http_server(machine.world):
        assert guest.run(f"curl -sS -m 30 http://{machine.world_ip}/").strip() == machine.host_ip


def test_up_right_after_kill_9_waits_for_the_kernel_to_remove_the_guests_old_device(
    user: User, guest: Guest
) -> None:
    kill9(network_pid(user))
    user.cli("up dev")
    assert [port["name"] for port in user.cli_json("show dev")["ports"]] == ["web"]
    assert "192.168.64.2/24" in guest.run("ip -br -4 addr show eth0")


def test_after_kill_9_a_guest_that_is_gone_is_forgotten(user: User, guest: Guest) -> None:
    kill9(network_pid(user))
    guest.end()
    user.cli("up dev")
    shown = user.cli_json("show dev")
    assert (shown["ports"], shown["leases"]) == ([], 0)


def test_network_of_a_killed_library_program_is_swept_by_the_next(machine: Machine, user: User) -> None:
    done = user.python(LIBRARY, check=False)
    name = done.stdout.strip()
    left = user.runtime / "arcbox-net" / name
    assert (left / "state.db").exists()
    user.cli("up dev")
    wait_until(lambda: not left.exists(), message=f"{left} is swept")
    assert [row["name"] for row in user.cli_json("ls")] == ["dev"]


def test_namespace_of_another_user_namespace_is_refused_with_what_to_do(user: User) -> None:
    user.cli("up dev")
    words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo $$; exec sleep infinity"]
    other = user.popen(words, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        pid = other.stdout.readline().strip()
        done = user.cli(f"attach dev web --netns {pid}", check=False)
        assert done.returncode == 1
        assert "arcbox-net run dev" in done.stderr
        assert user.cli_json("show dev")["ports"] == []
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_flushed_rules_and_a_deleted_bridge_are_put_right(user: User, guest: Guest) -> None:
    inside(user, "nft flush ruleset; ip link delete abx-dev")
    wait_until(lambda: "abx_dev" in inside(user, "nft list tables").stdout)
    wait_until(lambda: "192.168.64.1" in inside(user, "ip -br addr show abx-dev").stdout)
    wait_until(lambda: "1 received" in guest.run("ping -c 1 -W 1 192.168.64.1"))


def test_deleted_door_is_made_anew(machine: Machine, user: User, guest: Guest) -> None:
    inside(user, "ip link delete abx-out_0")
    wait_until(lambda: "abx-out_0" in inside(user, "ip -br link").stdout)
    wait_until(lambda: "lookup 200" in inside(user, "ip rule").stdout)
    with http_server(machine.world):
        for _ in range(8):  # by every door
            wait_until(
                lambda: guest.run(f"curl -sS -m 5 http://{machine.world_ip}/").strip() == machine.host_ip
            )


@pytest.mark.parametrize("switched_off", ["by-option", "by-host"])
def test_network_without_ipv6_gets_out(machine: Machine, user: User, switched_off: str) -> None:
    options = ["--subnet6", "none"]
    if switched_off == "by-host":
        options = []
        for scope in ("all", "default"):
            machine.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
    user.cli("up", "dev", *options)
    assert "ip6 to" not in inside(user, "nft list ruleset").stdout
    with http_server(machine.world):
        done = user.guest("dev", f"curl -sS -m 30 http://{machine.world_ip}/")
    assert done.stdout.strip() == machine.host_ip


def test_subnet_of_the_hosts_routes_is_not_taken(machine: Machine, user: User) -> None:
    machine.run("ip route add 192.168.64.0/24 via 203.0.113.1")
    user.cli("up dev")
    assert user.cli_json("show dev")["subnet"] == "192.168.65.0/24"
    done = user.cli("up other --subnet 192.168.64.0/24", check=False)
    assert done.returncode == 1
    assert "via 203.0.113.1" in done.stderr


def test_n7_route_that_comes_later_is_a_warning(machine: Machine, user: User) -> None:
    user.cli("up dev")
    machine.run("ip route add 192.168.64.0/25 via 203.0.113.1")
    wait_until(lambda: user.cli_json("show dev")["state"] == "conflict")
    machine.run("ip route del 192.168.64.0/25")
    wait_until(lambda: user.cli_json("show dev")["state"] == "running")


def test_without_a_runtime_directory_a_private_one_is_made(user: User) -> None:
    del user.env["XDG_RUNTIME_DIR"]
    user.cli("up dev")
    fallback = Path(f"/tmp/arcbox-net-{user.uid}")
    try:
        for folder in (fallback, fallback / "arcbox-net"):
            found = folder.stat()
            assert found.st_uid == user.uid
            assert not stat.S_IMODE(found.st_mode) & 0o022
        assert stat.S_IMODE((fallback / "arcbox-net" / "dev").stat().st_mode) == 0o700
        user.cli("down dev")
    finally:
        subprocess.run(["rm", "-rf", str(fallback)], check=True)


def test_runtime_directory_that_somebody_else_made_is_refused(user: User) -> None:
    del user.env["XDG_RUNTIME_DIR"]
    fallback = Path(f"/tmp/arcbox-net-{user.uid}")
    fallback.mkdir(mode=0o777)
    try:
        os.chown(fallback, user.uid + 1, user.uid + 1)
        fallback.chmod(0o777)
        done = user.cli("up dev", check=False)
        assert done.returncode == 1
        assert "ARCBOX_NET_RUNTIME_DIR" in done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(fallback)], check=True)


def test_networks_of_others_in_a_shared_runtime_directory_are_passed_over(
    user: User, short_path: Path
) -> None:
    shared = short_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o1777)
    user.env["ARCBOX_NET_RUNTIME_DIR"] = str(shared)
    (shared / "closed").mkdir(mode=0o700)
    (shared / "open").mkdir()
    stranger = socket.socket(socket.AF_UNIX)
    stranger.bind(str(shared / "open" / "api.sock"))
    (shared / "open" / "api.sock").chmod(0o777)
    os.chown(shared / "open" / "api.sock", user.uid + 1, -1)
    os.seteuid(user.uid + 1)  # a peer's credentials are those of the time of listen()
    try:
        stranger.listen()
    finally:
        os.seteuid(0)
    with stranger:
        user.cli("up dev")
        assert [network["name"] for network in user.cli_json("ls")] == ["dev"]
        user.cli("down dev")


def test_closed_tun_device_is_named_with_its_fix_and_nothing_is_left(
    machine: Machine, short_path: Path
) -> None:
    user = User(machine, short_path, tun_mode=0o600)
    done = user.cli("up dev", check=False)
    assert done.returncode == 1
    assert "/dev/net/tun" in done.stderr
    assert "chmod 666 /dev/net/tun" in done.stderr
    assert user.cli_json("ls") == []
    assert not machine.network_pids()


def test_host_only_network_and_its_guests_in_namespaces_need_no_tun_device(
    machine: Machine, short_path: Path
) -> None:
    user = User(machine, short_path, tun_mode=0o600)
    user.cli("up lab --mode host-only")
    assert user.guest("lab", "ping -c 1 -w 30 10.0.0.1").returncode == 0


def test_read_only_sysctls_of_a_container_are_named_with_the_fix(machine: Machine, user: User) -> None:
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    words = user.argv([str(CLI), "up", "dev"])
    at = words.index("exec") + 2  # `ip netns exec NAME`, and then what becomes the user
    sealed = [*words[:at], "sh", "-c", script, "sh", *words[at:]]
    done = subprocess.run(sealed, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    assert done.returncode == 1
    assert "write sysctl net." in done.stderr
    assert "systempaths=unconfined" in done.stderr
    assert not machine.network_pids()


def test_limit_of_user_namespaces_is_named_with_its_fix(user: User) -> None:
    limited = "echo 0 > /proc/sys/user/max_user_namespaces && exec " + f"{CLI} up dev"
    folders = {name: str(user.home) for name in ("ARCBOX_NET_STATE_DIR", "ARCBOX_NET_RUNTIME_DIR")}
    done = user.run(["unshare", "--user", "--map-root-user", "sh", "-c", limited], check=False, env=folders)
    assert done.returncode == 1
    assert "user.max_user_namespaces" in done.stderr
    assert "sysctl -w user.max_user_namespaces=" in done.stderr


def test_masquerade_is_refused_to_a_user_with_what_to_do(user: User) -> None:
    done = user.cli("up dev --egress masquerade", check=False)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert "auto" in done.stderr
    assert user.cli_json("ls") == []


def test_roots_killed_network_changes_its_way_out(machine: Machine) -> None:
    before = machine.snapshot()
    for egress in ("masquerade", "relay", "masquerade"):
        machine.cli(f"up dev --egress {egress}")
        shown = machine.cli_json("show dev")
        assert shown["egress"] == egress
        assert bool(machine.ours()["links"]) is (egress == "masquerade")
        kill9(shown["pid"])
    machine.cli("down dev")
    assert machine.snapshot() == before


def test_two_networks_of_two_users_do_not_meet(machine: Machine, user: User) -> None:
    user.cli("up dev")
    machine.cli("up dev")
    assert machine.cli_json("show dev")["owner"] == "root"
    assert network_pid(user) != machine.cli_json("show dev")["pid"]
    machine.cli("down dev")
    assert user.guest("dev", "ping -c 1 -w 30 192.168.64.1").returncode == 0
