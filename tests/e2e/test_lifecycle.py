"""How networks begin and end: nothing is left, nothing is changed twice, and they end with their owner."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager, NetworkMode
from arcbox_net.errors import ArcboxNetError, InterfaceNotFound, ServiceError, SubnetConflict
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, is_running, kill9, udhcpc, wait_gone
from tests.support.netns import COMMAND_TIMEOUT_S, PATIENCE_S, wait_until
from tests.support.peers import http_server, refused

OWNER = """
import signal, sys, time
from arcbox_net import NetworkManager, NetConfig
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts behind itself
manager = NetworkManager(NetConfig(), name="owned")
manager.start()
print(manager.pid, flush=True)
if sys.argv[1] == "exit":
    sys.exit(0)
if sys.argv[1] == "raise":
    raise RuntimeError("the program failed")
time.sleep(600)
"""


@pytest.mark.parametrize(
    "config",
    [
        NetConfig(),
        NetConfig(mode=NetworkMode.HOST_ONLY),
        NetConfig(mtu=9000, multiqueue=True, num_queues=2, isolated=True),
    ],
    ids=["nat", "host-only", "big"],
)
def test_stop_leaves_the_machine_exactly_as_it_was(machine: Machine, config: NetConfig) -> None:
    before = machine.snapshot()
    with machine.network(config) as network:
        machine.guest(network, "vm1")
        network.attach_tap("vm2")
        network.expose("8080:vm1:80")
        network.expose("0.0.0.0:8081:vm1:80")
        assert machine.snapshot() != before
    assert machine.snapshot() == before
    assert machine.network_pids() == []


def test_a_network_whose_starter_is_gone_when_it_is_ready_ends(machine: Machine) -> None:
    before = machine.snapshot()
    answered, answer = os.pipe()
    os.close(answered)
    words = [sys.executable, "-m", "arcbox_net.network.main", "dev", "--ready-fd", str(answer)]
    started = machine.popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[answer], text=True
    )
    os.close(answer)
    _, said = started.communicate("{}", timeout=COMMAND_TIMEOUT_S)
    assert "whoever started it is gone" in said
    assert machine.snapshot() == before
    assert machine.network_pids() == []


def test_up_and_down_leave_the_machine_exactly_as_it_was(machine: Machine) -> None:
    machine.run(
        ["nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }"]
    )
    before = machine.snapshot()
    machine.cli("up dev -p 8080:80 -p 0.0.0.0:8443:443")
    assert "table inet other" in machine.run("nft list ruleset").stdout
    machine.cli("down dev")
    assert machine.snapshot() == before
    assert not (machine.runtime / "dev").exists()


def test_up_outlives_its_command_and_says_so_when_asked_again(machine: Machine) -> None:
    machine.cli("up dev")
    pid = NetworkManager.connect("dev").pid
    again = machine.cli("up dev", check=False)
    assert again.returncode == 1
    assert "dev" in again.stderr and "running" in again.stderr
    assert is_running(pid)
    machine.cli("down dev")
    wait_gone(pid)
    assert machine.cli("down dev").stdout == "dev was not up\n"


def test_start_twice_is_a_no_op(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        pid, state = network.pid, machine.snapshot()
        machine.call(network.start)
        assert network.pid == pid
        assert network.state == "running"
        assert machine.snapshot() == state
    assert network.state == "stopped"
    network.stop()


def test_stopped_network_starts_again(machine: Machine) -> None:
    manager = NetworkManager(NetConfig())
    for _ in range(2):
        machine.call(manager.start)
        assert machine.links()
        manager.stop()
    assert machine.ours() == {"links": [], "tables": []}


@pytest.mark.parametrize("end", ["exit", "raise", "SIGTERM", "SIGKILL", "SIGINT"])
def test_library_owned_network_ends_with_its_parent(machine: Machine, end: str) -> None:
    before = machine.snapshot()
    owner = machine.popen(
        [sys.executable, "-c", OWNER, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
        if end.startswith("SIG"):
            assert is_running(pid)
            owner.send_signal(getattr(signal, end))
    owner.wait(PATIENCE_S)
    wait_gone(pid)
    wait_until(lambda: machine.ours() == {"links": [], "tables": []})
    wait_until(lambda: machine.snapshot() == before)


def test_network_started_in_a_thread_lives_on_when_the_thread_ends(machine: Machine) -> None:
    # Every start of this suite is made in a thread that ends; the parent is the process, not the thread.
    with machine.network(NetConfig()) as network:
        time.sleep(0.3)
        assert network.state == "running"
        assert network.status().pid == network.pid


def test_two_managers_do_not_interfere(machine: Machine) -> None:
    with machine.network(NetConfig()) as one:
        first = machine.guest(one)
        with machine.network(NetConfig()) as two:  # the same defaults: "auto" takes the next subnet
            assert one.status().subnet != two.status().subnet
            second = machine.guest(two)
            for guest in (first, second):
                wait_for_echo(guest, machine.world_ip)
        wait_for_echo(first, machine.world_ip)
        assert machine.sysctl("net.ipv4.ip_forward") == "1"
        assert len(machine.network_pids()) == 1


@pytest.mark.parametrize("found", ["0", "1"])
def test_forwarding_is_restored_by_the_last_network(machine: Machine, found: str) -> None:
    machine.sysctl("net.ipv4.ip_forward", found)
    machine.cli("up one")
    machine.cli("up two")
    assert machine.sysctl("net.ipv4.ip_forward") == "1"
    machine.cli("down one")
    assert machine.sysctl("net.ipv4.ip_forward") == "1"
    machine.cli("down two")
    assert machine.sysctl("net.ipv4.ip_forward") == found


def test_forwarding_is_restored_after_a_kill_and_down(machine: Machine) -> None:
    machine.sysctl("net.ipv4.ip_forward", 0)
    before = machine.snapshot()
    machine.cli("up dev")
    kill9(NetworkManager.connect("dev").pid)
    machine.cli("down dev")
    assert machine.snapshot() == before


def test_mode_none_starts_and_allocates_nothing(machine: Machine) -> None:
    before = machine.snapshot()
    manager = NetworkManager(NetConfig(mode=NetworkMode.NONE))
    machine.call(manager.start)
    assert machine.snapshot() == before
    assert machine.network_pids() == []
    with pytest.raises(ArcboxNetError):
        manager.allocate_ip()
    manager.stop()
    assert not machine.state.exists() or not list(machine.state.iterdir())


def test_failed_start_port_53_taken_leaves_nothing(machine: Machine) -> None:
    before = machine.snapshot()
    holder = machine.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with holder:
        holder.bind(("0.0.0.0", 53))
        before = machine.snapshot()
        manager = NetworkManager(NetConfig())
        with pytest.raises(ServiceError, match="53") as caught:
            machine.call(manager.start)
        assert caught.value.fix
        assert manager.state in ("stopped", "failed")
        assert machine.snapshot() == before
        assert machine.network_pids() == []
        done = machine.cli("up dev", check=False)
        assert done.returncode == 1 and "53" in done.stderr
        assert machine.snapshot() == before
        assert machine.cli_json("ls") == []
    machine.cli("up dev")
    machine.cli("down dev")


@pytest.mark.parametrize("taken", ["route", "address"])
def test_n7_subnet_in_use_is_refused_and_named(machine: Machine, taken: str) -> None:
    if taken == "route":
        machine.run(f"ip route add 192.168.64.0/20 via {machine.world_ip}")
    else:
        machine.run("ip addr add 192.168.64.9/24 dev up0")
    before = machine.snapshot()
    with pytest.raises(SubnetConflict, match=r"192\.168\.64\.0/2") as caught:
        machine.call(NetworkManager(NetConfig(subnet="192.168.64.0/24")).start)
    assert caught.value.interface == "up0"
    assert machine.snapshot() == before
    with machine.network(NetConfig(subnet="auto")) as network:
        assert network.status().subnet != "192.168.64.0/24"


def test_n7_subnet_that_the_host_joins_later_is_a_conflict_while_it_lasts(machine: Machine) -> None:
    machine.cli("up dev")
    machine.run("ip addr add 192.168.64.9/24 dev up0")
    wait_until(lambda: machine.cli_json("show dev")["state"] == "conflict")
    (warning,) = machine.cli_json("show dev")["warnings"]
    assert warning["code"] == "subnet-conflict" and "up0" in warning["message"]
    machine.run("ip addr del 192.168.64.9/24 dev up0")
    wait_until(lambda: machine.cli_json("show dev")["state"] == "running")
    machine.cli("down dev")


def test_failed_start_unknown_bridge_leaves_nothing(machine: Machine) -> None:
    machine.run("ip link add br7 type bridge")
    before = machine.snapshot()
    manager = NetworkManager(NetConfig(mode=NetworkMode.BRIDGE, bridge="br0"))
    with pytest.raises(InterfaceNotFound, match="br0") as caught:
        machine.call(manager.start)
    assert "br7" in (caught.value.fix or "")
    assert machine.snapshot() == before
    assert machine.network_pids() == []


def test_failed_start_forward_port_taken_leaves_nothing(machine: Machine) -> None:
    before = machine.snapshot()
    with machine.call(lambda: socket.create_server(("127.0.0.1", 8080))):
        done = machine.cli("up dev -p 8080:80", check=False)
        assert done.returncode == 1 and "8080" in done.stderr
        assert machine.snapshot() == before
        assert machine.cli_json("ls") == []


def test_foreign_link_of_our_name_is_left_alone(machine: Machine) -> None:
    machine.run("ip link add abx-dev type bridge")
    before = machine.snapshot()
    done = machine.cli("up dev", check=False)
    assert done.returncode == 1 and "abx-dev" in done.stderr
    assert machine.snapshot() == before


@pytest.mark.parametrize(
    "words",
    [
        "up Dev_1",
        "up dev --mode wrong",
        "up dev --subnet 8.8.8.0/24",
        "up dev --subnet 192.168.64.0",
        "up dev --subnet 192.168.64.0/31",
        "up dev --mtu 9",
        "up dev --mode bridge",
        "up dev --bridge br0 --nic up0",
        "up dev --bridge br0",
        "up dev -p 99999:1",
        "up dev -p 80-81:80-82",
        "up dev --queues 0",
        "up dev --host-access x",
        "up dev --dns nobody",
        "up dev --egress teleport",
        "up dev -f /nowhere.toml",
        "up",
        "attach dev vm1",
        "attach nowhere vm1 --netns /run/netns/x",
        "show nowhere",
        "frobnicate",
    ],
)
def test_bad_command_line_is_a_clear_error_and_changes_nothing(machine: Machine, words: str) -> None:
    before = machine.snapshot()
    done = machine.cli(words, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert machine.snapshot() == before
    assert machine.network_pids() == []


@pytest.mark.parametrize(
    "text",
    [
        "not toml at all [",
        "[networks.dev]\nmoed = 'nat'",
        "[networks.dev]\nmode = 'natt'",
        "[networks.dev]\nmtu = '1500'",
        "[networks.dev]\nsubnet = '1.2.3.0/24'",
        "[networks.dev]\nforwards = ['80']\nnic = 'up0'",
        "[networks.dev.dhcp]\nlease_s = 1",
        "[networks.dev.dhcp]\noptions = { 300 = 'x' }",
        "[networks.dev.dns]\nupstreams = ['example']",
        "[networks.Dev]\n",
        "[other]\n",
        "",
    ],
)
def test_bad_toml_is_a_clear_error_and_changes_nothing(machine: Machine, tmp_path: Path, text: str) -> None:
    file = tmp_path / "networks.toml"
    file.write_text(text)
    before = machine.snapshot()
    done = machine.cli("up", "dev", "-f", str(file), check=False)
    assert done.returncode in (1, 2)
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.snapshot() == before


@pytest.mark.parametrize(
    "words",
    [
        "--netns /nowhere",
        "--netns /etc/passwd",
        "--tap --mac 01:00:5e:00:00:01",
        "--tap --ip 9.9.9.9",
        "--tap --ip 192.168.64.1",
    ],
)
def test_bad_attach_is_a_clear_error_and_changes_nothing(machine: Machine, words: str) -> None:
    machine.cli("up dev")
    before = machine.snapshot()
    done = machine.cli(f"attach dev vm1 {words}", check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.strip() and "Traceback" not in done.stderr
    assert machine.cli_json("show dev")["ports"] == []
    assert machine.snapshot() == before
    machine.cli("down dev")


def test_killed_network_is_adopted_by_up_with_leases_and_guests(machine: Machine) -> None:
    machine.cli("up dev -p 0.0.0.0:8080:vm1:80")
    manager = NetworkManager.connect("dev")
    guest = machine.bare_guest(manager, "vm1")
    lease = udhcpc(guest)
    kill9(manager.pid)
    with http_server(guest):
        assert refused(machine.world, machine.host_ip, 8080) is None  # packets do not need the process
        wait_for_echo(guest, machine.world_ip)
        assert "dead" in machine.cli("ls").stdout
        machine.cli("up dev -p 0.0.0.0:8080:vm1:80")
        again = NetworkManager.connect("dev")
        assert [port.name for port in again.ports()] == ["vm1"]
        assert refused(machine.world, machine.host_ip, 8080) is None
        assert udhcpc(guest)["ip"] == lease["ip"]
        assert lease["ip"] in [item.ip for item in again.leases()]
    machine.cli("down dev")
    assert machine.ours() == {"links": [], "tables": []}


def test_killed_network_is_removed_by_down(machine: Machine) -> None:
    before = machine.snapshot()
    machine.cli("up dev -p 0.0.0.0:8080:80")
    machine.guest(NetworkManager.connect("dev"), "vm1")
    kill9(NetworkManager.connect("dev").pid)
    machine.cli("down dev")
    assert machine.snapshot() == before
    assert machine.cli_json("ls") == []


@pytest.mark.parametrize("failures", [1, 9], ids=["once", "always"])
def test_down_that_fails_is_finished_or_said(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    nft, left = tmp_path / "bin" / "nft", tmp_path / "failures"
    nft.parent.mkdir()
    left.write_text("0")
    nft.write_text(
        f"#!/bin/sh\nread left < {left}\n"
        f"[ $left -gt 0 ] && {{ echo $((left - 1)) > {left}; echo Error: out of memory >&2; exit 1; }}\n"
        'exec /usr/sbin/nft "$@"\n'
    )
    nft.chmod(0o755)
    before = machine.snapshot()
    monkeypatch.setenv("PATH", f"{nft.parent}:{os.environ['PATH']}")
    machine.cli("up dev")
    left.write_text(str(failures))
    down = machine.cli("down dev", check=False)
    if failures > 1:
        assert down.returncode == 1
        assert "out of memory" in down.stderr
        left.write_text("0")
        machine.cli("down dev")
    else:
        assert down.returncode == 0
    assert machine.snapshot() == before


def test_lease_survives_down_and_up(machine: Machine) -> None:
    machine.cli("up dev")
    guest = machine.bare_guest(NetworkManager.connect("dev"), "vm1", mac="02:00:00:00:00:11")
    first = udhcpc(guest)["ip"]
    machine.cli("down dev")
    machine.cli("up dev")
    other = machine.bare_guest(NetworkManager.connect("dev"), "vm0", mac="02:00:00:00:00:22")
    assert udhcpc(other)["ip"] != first
    again = machine.bare_guest(NetworkManager.connect("dev"), "vm2", mac="02:00:00:00:00:11")
    assert udhcpc(again)["ip"] == first
    machine.cli("down dev")


def test_sigterm_to_the_network_process_removes_everything(machine: Machine) -> None:
    before = machine.snapshot()
    machine.cli("up dev")
    pid = NetworkManager.connect("dev").pid
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert machine.snapshot() == before


def test_k17_second_start_at_the_same_time_has_one_winner(machine: Machine) -> None:
    from tests.support.machine import CLI

    both = [machine.popen([str(CLI), "up", "dev"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(one.communicate(timeout=COMMAND_TIMEOUT_S)[1], one.returncode) for one in both]
    assert sorted(status for _, status in ended) == [0, 1], ended
    loser = next(said for said, status in ended if status == 1)
    assert re.search(r"\bdev\b", loser) and "Traceback" not in loser
    assert len(machine.network_pids()) == 1
    machine.cli("down dev")
    assert machine.ours() == {"links": [], "tables": []}


def test_k17_stale_socket_and_lock_are_replaced(machine: Machine) -> None:
    machine.cli("up dev")
    kill9(NetworkManager.connect("dev").pid)
    left = {path.name for path in (machine.runtime / "dev").iterdir()}
    assert "api.sock" in left
    machine.cli("up dev")
    assert machine.cli_json("show dev")["state"] == "running"
    machine.cli("down dev")


def test_k17_reused_pid_is_not_taken_for_the_network(machine: Machine) -> None:
    machine.cli("up dev")
    kill9(NetworkManager.connect("dev").pid)
    for path in (machine.runtime / "dev").iterdir():
        if path.is_file() and path.suffix == ".json":
            path.write_text(re.sub(r'"pid":\s*\d+', f'"pid": {os.getpid()}', path.read_text()))
    assert "dead" in machine.cli("ls").stdout
    machine.cli("down dev")
    assert machine.cli_json("ls") == []
