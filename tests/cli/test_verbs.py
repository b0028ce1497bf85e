"""Each verb asks the manager for what its words say, and shows what it got."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from arcbox_net.config import Egress, HostAccess, NetConfig, NetworkMode
from arcbox_net.network.messages import EngineInfo, FlowInfo, Warning_

Run = Callable[..., Result]


def started(manager) -> NetConfig:
    assert [call[0] for call in manager.asked] == ["start_detached"]
    return manager.asked[0][2]


def test_up_without_options_is_nat_on_a_free_subnet(arcbox_net: Run, manager) -> None:
    result = arcbox_net("up", "lab")
    assert result.exit_code == 0
    assert started(manager) == NetConfig(name="lab")
    assert "lab is up: nat 192.168.64.0/24, gateway 192.168.64.1" in result.output


def test_up_passes_every_option_on(arcbox_net: Run, manager) -> None:
    words = "up lab --subnet 10.7.0.0/24 --egress masquerade -p 8080:80 -p 0.0.0.0:53:vm1:53/udp --mtu 9000"
    words += " --isolated --host-access 5432 --host-access 53/udp --dns 1.1.1.1 --dns [::1]:5353 --queues 4"
    assert arcbox_net(*words.split()).exit_code == 0
    config = started(manager)
    assert (config.subnet, config.egress, config.mtu) == ("10.7.0.0/24", Egress.MASQUERADE, 9000)
    assert [str(rule) for rule in config.forwards] == ["127.0.0.1:8080:80/tcp", "0.0.0.0:53:vm1:53/udp"]
    assert config.isolated
    assert config.host_access == (HostAccess("tcp", 5432), HostAccess("udp", 53))
    assert config.dns.upstreams == ("1.1.1.1", "[::1]:5353")
    assert (config.multiqueue, config.num_queues) == (True, 4)


def test_naming_a_bridge_is_enough_for_bridge_mode(arcbox_net: Run, manager) -> None:
    arcbox_net("up", "lan", "--bridge", "br0")
    assert started(manager).mode is NetworkMode.BRIDGE


def test_options_win_over_the_file_and_forwards_add_up(arcbox_net: Run, manager, tmp_path: Path) -> None:
    file = tmp_path / "networks.toml"
    file.write_text("[networks.lab]\nmtu = 1400\nsubnet = '10.7.0.0/24'\nforwards = ['8080:80']\n")
    assert arcbox_net("up", "lab", "-f", str(file), "--mtu", "1300", "-p", "9090:90").exit_code == 0
    config = started(manager)
    assert (config.mtu, config.subnet) == (1300, "10.7.0.0/24")
    assert [rule.host_port for rule in config.forwards] == [8080, 9090]


def test_up_says_what_stands_in_the_way_of_the_network(arcbox_net: Run, manager) -> None:
    manager.warnings = [Warning_(code="x", message="docker drops forwarded packets", fix="iptables -I …")]
    result = arcbox_net("up", "lab")
    assert result.exit_code == 0
    assert "warning: docker drops forwarded packets\n  fix: iptables -I …" in result.stderr


def test_down_ends_a_running_network(arcbox_net: Run, manager) -> None:
    assert arcbox_net("down", "dev").output == "dev is down\n"
    assert manager.asked == [("stop", "dev")]


def test_down_removes_what_a_dead_network_left(arcbox_net: Run, manager) -> None:
    manager.leftovers = {"lab"}
    assert arcbox_net("down", "lab").output == "lab was dead; what it left behind is removed\n"


def test_down_of_what_is_not_up_is_fine(arcbox_net: Run, manager) -> None:
    result = arcbox_net("down", "lab")
    assert (result.exit_code, result.output) == (0, "lab was not up\n")


def test_down_all_takes_every_network_down(arcbox_net: Run, manager, tmp_path: Path) -> None:
    for name in ("dev", "lab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "api.sock").touch()
    (tmp_path / "stopped").mkdir()
    assert arcbox_net("down", "--all").exit_code == 0
    assert manager.asked == [("stop", "dev"), ("remove_leftovers", "lab")]


def serve_once(path: Path, body: bytes) -> None:
    """Answer one request on the socket *path*, as the network process would."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    threading.Thread(target=answer, daemon=True).start()


def test_ls_shows_running_and_dead_networks(arcbox_net: Run, manager, tmp_path: Path) -> None:
    import msgspec

    for name in ("dev", "gone"):
        (tmp_path / name).mkdir()
    serve_once(tmp_path / "dev" / "api.sock", msgspec.json.encode(manager.connect("dev").status()))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "gone" / "api.sock"))
    dead.close()
    lines = arcbox_net("ls").output.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "MODE", "SUBNET", "GATEWAY", "PORTS", "UP"]
    assert lines[1].split() == ["dev", "running", "nat", "192.168.64.0/24", "192.168.64.1", "1", "61", "s"]
    assert lines[2].split() == ["gone", "dead", "-", "-", "-", "-", "-"]
    rows = json.loads(arcbox_net("ls", "--json").stdout)
    assert [(row["name"], row["state"]) for row in rows] == [("dev", "dead"), ("gone", "dead")]
    assert arcbox_net("ls", "-q").output == "dev\ngone\n"


def test_ls_of_nothing_says_how_to_start(arcbox_net: Run) -> None:
    assert "arcbox-net up" in arcbox_net("ls").output
    assert json.loads(arcbox_net("ls", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (("show", "dev"), "domain", "dev.internal"),
        (("forward", "ls", "dev"), "rule", "127.0.0.1:8080:vm1:80/tcp"),
        (("lease", "ls", "dev"), "ip", "192.168.64.2"),
        (("dns", "ls", "dev"), "name", "host.internal"),
        (("attach", "dev", "vm1", "--tap"), "ifname", "abx-0_1"),
        (("attach", "dev", "vm1", "--netns", "/run/netns/x"), "mac", "02:00:00:00:00:01"),
        (("forward", "add", "dev", "8080:vm1:80"), "guest_ip", "192.168.64.2"),
        (("up", "lab"), "gateway", "192.168.64.1"),
    ],
)
def test_what_a_verb_shows_it_also_prints_as_json(arcbox_net: Run, words, key: str, value: str) -> None:
    if words[0] != "up":
        assert value in arcbox_net(*words).output
    shown = json.loads(arcbox_net(*words, "--json").stdout)
    assert (shown[0] if isinstance(shown, list) else shown)[key] == value


def test_attach_tap_asks_for_a_tap_that_stays_and_shows_how_to_open_it(arcbox_net: Run, manager) -> None:
    result = arcbox_net(
        "attach", "dev", "vm1", "--tap", "--owner", "1000", "--queues", "2", "--ip", "192.168.64.9"
    )
    name, options = manager.asked[0][1:]
    assert name == "vm1"
    assert (options["persist"], options["owner_uid"], options["queues"]) == (True, 1000, 2)
    assert options["ip"] == "192.168.64.9"
    assert "-netdev tap,id=n0,ifname=abx-0_1,script=no,downscript=no" in result.output
    assert '"host_dev_name": "abx-0_1"' in result.output


@pytest.mark.parametrize(
    ("words", "asked", "shown"),
    [
        (
            "--stream /s --owner 1000",
            ("attach_stream", "/s", {"connect": False, "owner_uid": 1000}),
            "-netdev stream,id=abx0,server=off,addr.type=unix,addr.path=/s \\",
        ),
        (
            "--stream /s --connect",
            ("attach_stream", "/s", {"connect": True, "owner_uid": None}),
            "-netdev stream,id=abx0,server=on,addr.type=unix,addr.path=/s \\",
        ),
        (
            "--dgram /s",
            ("attach_dgram", "/s", {"remote": None, "owner_uid": None}),
            "vfkit … --device virtio-net,unixSocketPath=/s,mac=02:00:00:00:00:01",
        ),
        (
            "--vhost-user /s --queues 2",
            ("attach_vhost_user", "/s", {"connect": False, "queues": 2, "owner_uid": None}),
            "-object memory-backend-memfd,id=abx0mem,size=1G,share=on \\",
        ),
        (
            "--vhost-user /s",
            ("attach_vhost_user", "/s", {"connect": False, "queues": None, "owner_uid": None}),
            "host_mtu=1500,vectors=0\n",
        ),
    ],
)
def test_attach_with_a_socket_shows_how_to_start_a_guest_there(
    arcbox_net: Run, manager, words: str, asked: tuple[Any, ...], shown: str
) -> None:
    text = arcbox_net("attach", "dev", "vm1", *words.split()).output
    guest = {"name": "vm1", "mac": None, "ip": None, "hostname": None}
    assert manager.asked == [(*asked[:2], {**guest, **asked[2]})]
    assert shown in text


@pytest.mark.parametrize(
    ("target", "expected"), [("/run/netns/x", "/run/netns/x"), ("x", "x"), ("4711", 4711)]
)
def test_attach_netns_takes_a_path_a_name_or_a_pid(arcbox_net: Run, manager, target: str, expected) -> None:
    assert arcbox_net("attach", "dev", "vm1", "--netns", target, "--no-configure").exit_code == 0
    assert manager.asked[0][1] == expected
    assert manager.asked[0][2]["configure"] is False


def test_when_one_forward_fails_none_of_the_command_stays(arcbox_net: Run, manager) -> None:
    manager.taken_host_port = 8081
    result = arcbox_net("forward", "add", "dev", "8080:80", "8081:81")
    assert result.exit_code == 1
    assert manager.asked == [("expose", "127.0.0.1:8080:80/tcp"), ("unexpose", "127.0.0.1:8080:80/tcp")]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("detach dev vm1", ("detach", "vm1")),
        ("forward rm dev 8080:80", ("unexpose", "127.0.0.1:8080:80/tcp")),
        (
            "lease reserve dev 02:00:00:00:00:01 192.168.64.9 --hostname db",
            ("reserve", "02:00:00:00:00:01", "192.168.64.9", "db"),
        ),
        ("lease release dev 192.168.64.9", ("release_lease", "192.168.64.9")),
        ("dns add dev printer 10.0.0.9 fd00::9", ("register_dns", "printer", ("10.0.0.9", "fd00::9"))),
        ("dns rm dev printer", ("deregister_dns", "printer")),
    ],
)
def test_a_verb_asks_for_exactly_one_change(arcbox_net: Run, manager, words: str, call: tuple) -> None:
    assert arcbox_net(*words.split()).exit_code == 0
    assert manager.asked == [call]


def test_show_names_guests_forwards_and_warnings(arcbox_net: Run, manager) -> None:
    manager.warnings = [Warning_(code="x", message="ufw drops forwarded packets")]
    result = arcbox_net("show", "dev")
    for word in ("vm1", "abx-dev", "192.168.64.0/24", "127.0.0.1:8080:vm1:80/tcp", "ufw drops"):
        assert word in result.output


@pytest.mark.parametrize(
    ("state", "next_hops", "said"),
    [
        ("up", ["203.0.113.1"], "203.0.113.9 and 2001:db8::9 on eth0, by 203.0.113.1; 3 flows, 1 mapping"),
        ("down", [], "on eth0 (down), by nowhere;"),
    ],
)
def test_show_says_what_the_engine_did(
    arcbox_net: Run, manager, state: str, next_hops: list[str], said: str
) -> None:
    manager.engine = EngineInfo(
        uplink="eth0",
        uplink_state=state,
        mtu=1500,
        external=["203.0.113.9", "2001:db8::9"],
        next_hops=next_hops,
        flows=3,
        mappings=1,
        guests=2,
        translated=40,
        drops={"no mapping": 5, "unresolved": 1},
    )
    shown = arcbox_net("show", "dev").output
    assert said in shown and "engine: packets dropped: 5 no mapping, 1 unresolved" in shown


def test_tables_have_no_colour_when_piped(arcbox_net: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in arcbox_net("show", "dev").output


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a verb has turned into."""
    found: list[list[str]] = []
    monkeypatch.setattr("arcbox_net.host.linux.guest_process.become", lambda words: found.append(list(words)))
    return found


def test_exec_tap_puts_descriptor_mac_and_mtu_into_the_command(
    arcbox_net: Run, manager, became: list[list[str]]
) -> None:
    words = ["qemu", "{untouched}", "tap,fd={fd},fds={fds}", "mac={mac}", "{mtu}"]
    assert arcbox_net("exec-tap", "dev", "vm1", "--", *words).exit_code == 0
    assert manager.asked == [("open_tap", "vm1")]
    (command,) = became
    first, second = re.fullmatch(r"tap,fd=(\d+),fds=\1:(\d+)", command[2]).groups()
    assert command == ["qemu", "{untouched}", command[2], "mac=02:00:00:00:00:01", "1500"]
    for fd in (int(first), int(second)):
        assert os.get_inheritable(fd)
        os.close(fd)


def test_exec_tap_makes_a_port_that_is_missing_as_it_is_asked_for(
    arcbox_net: Run, manager, became: list[list[str]]
) -> None:
    assert arcbox_net("exec-tap", "dev", "vm2", "--", "qemu", "{fd}").exit_code == 0
    options = ["--mac", "02-AA-00-00-00-09", "--ip", "192.168.64.9", "--queues", "2"]
    assert arcbox_net("exec-tap", "dev", "vm3", *options, "--", "qemu", "{fds}").exit_code == 0
    assert manager.asked == [
        ("attach_tap", "vm2", {}),
        ("attach_tap", "vm3", {"mac": "02:aa:00:00:00:09", "ip": "192.168.64.9", "queues": 2}),
    ]
    assert [command[0] for command in became] == ["qemu", "qemu"]


def test_exec_tap_takes_an_attached_port_whose_options_are_as_asked(
    arcbox_net: Run, manager, became: list[list[str]]
) -> None:
    words = ["exec-tap", "dev", "vm1", "--mac", "02:00:00:00:00:01", "--", "qemu", "{fd}"]
    assert arcbox_net(*words).exit_code == 0
    assert manager.asked == [("open_tap", "vm1")]


def test_enter_says_when_there_is_nothing_to_enter(
    arcbox_net: Run, manager, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbox_net.host.linux.guest_process.enter", lambda pid: False)
    result = arcbox_net("enter", "dev", "--", "ip", "link")
    assert "dev is in the host's own network namespace (egress masquerade)" in result.output
    assert became == [["ip", "link"]]


def test_enter_without_a_command_is_the_users_shell(
    arcbox_net: Run, manager, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, resolvers = [], []
    monkeypatch.setenv("SHELL", "/bin/zsh")
    monkeypatch.setattr("arcbox_net.host.linux.guest_process.enter", lambda pid: entered.append(pid) or True)
    monkeypatch.setattr(
        "arcbox_net.host.linux.guest_mounts.dress", lambda text: resolvers.append(text) or ["/sys is odd"]
    )
    result = arcbox_net("enter", "dev")
    assert (entered, became) == ([7], [["/bin/zsh"]])
    assert "nameserver 192.168.64.1\nsearch dev.internal\n" in resolvers[0]
    assert "note: /sys is odd" in result.output


def test_flows_shows_what_is_known_of_each_flow(arcbox_net: Run, manager) -> None:
    manager.found_flows = [
        FlowInfo(
            protocol="tcp",
            guest="192.168.64.2",
            guest_port=40000,
            peer="2001:db8::1",
            peer_port=443,
            state="established",
            age_s=61.2,
            idle_s=0.5,
            bytes_out=1500,
            bytes_in=2_000_000,
        ),
        FlowInfo(protocol="icmp", guest="192.168.64.2", peer="192.0.2.1", state="closed", reason="idle"),
    ]
    lines = arcbox_net("flows", "dev").output.splitlines()
    assert lines[0].split() == [
        "PROTOCOL",
        "GUEST",
        "PEER",
        "STATE",
        "AGE",
        "IDLE",
        "SENT",
        "RECEIVED",
        "CLOSED",
    ]
    assert "192.168.64.2:40000  [2001:db8::1]:443  established  61 s  0 s" in lines[1]
    assert lines[1].endswith("1.5 kB    2.0 MB  -")
    assert re.split("  +", lines[2]) == ["icmp", "192.168.64.2", "192.0.2.1", "closed", *"----", "idle"]
    shown = json.loads(arcbox_net("flows", "dev", "--json").output)
    assert (shown[0]["bytes_in"], shown[1]["age_s"], shown[1]["reason"]) == (2_000_000, None, "idle")


def test_flows_of_a_silent_network_are_none(arcbox_net: Run, manager) -> None:
    assert arcbox_net("flows", "dev").output == "dev has no flows\n"
    assert json.loads(arcbox_net("flows", "dev", "--json").output) == []


def test_a_tap_elsewhere_is_opened_where_it_is(
    arcbox_net: Run, manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbox_net.host.linux.user_namespace.is_elsewhere", lambda pid: True)
    text = arcbox_net("attach", "dev", "vm1", "--tap").output
    assert "arcbox-net enter dev -- firecracker" in text
    assert "arcbox-net exec-tap dev vm1 -- qemu-system-x86_64" in text
    assert '{"op": "open-tap", "name": "vm1"}' in text
