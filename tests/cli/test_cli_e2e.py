"""The command line against a real network, in a machine of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import CLI, Machine
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.peers import http_server

pytestmark = pytest.mark.e2e


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as made:
        made.sysctl("net.ipv6.conf.up0.disable_ipv6", 1)  # its addresses come and go on their own
        made.etc("resolv.conf", f"nameserver {made.world_ip}\n")
        yield made


@pytest.fixture
def dev(machine: Machine) -> Iterator[Machine]:
    """A machine with the network `dev` up."""
    machine.cli("up dev")
    yield machine
    machine.cli("down dev")


def rules_and_links(machine: Machine) -> dict[str, object]:
    """What guests add and take away; carrier, counters and rate limits that run out by themselves aside."""
    shown = machine.snapshot()
    ruleset = re.sub(
        r"packets \d+ bytes \d+|elements = \{[^}]* expires [^}]*\}", "", shown["ruleset"]
    ).split()
    return {"links": sorted(shown["links"]), "ruleset": ruleset, "addresses": shown["addresses"]}


def out(machine: Machine, *words: str) -> str:
    return machine.cli(*words).stdout


def test_a_command_is_a_guest_with_address_route_and_names(dev: Machine) -> None:
    text = out(
        dev, "run", "dev", "--name", "web", "--", "sh", "-c", "ip -4 -o addr; ip route; cat /etc/resolv.conf"
    )
    assert "eth0    inet 192.168.64.2/24" in text
    assert "default via 192.168.64.1 dev eth0" in text
    assert "nameserver 192.168.64.1\nsearch dev.internal\n" in text
    own = ["sh", "-c", "getent ahostsv4 web.dev.internal; ip -4 -o addr show eth0"]
    named, _, addressed = out(dev, "run", "dev", "--name", "web", "--", *own).partition("\n")
    assert f"{named.split()[0]}/24" in addressed
    assert out(dev, "run", "dev", "--", "getent", "ahostsv4", "host.internal").split()[0] == "192.168.64.1"


def test_a_command_reaches_the_world_through_the_network(dev: Machine) -> None:
    with http_server(dev.world):
        body = out(
            dev, "run", "dev", "--", "curl", "-sS", "--max-time", "30", f"http://{dev.world_ip}/bytes/100"
        )
    assert len(body) == 100


def test_nothing_of_a_command_stays_when_it_ends(dev: Machine) -> None:
    before = rules_and_links(dev)
    out(dev, "run", "dev", "-p", "8080:80", "--", "true")
    assert dev.cli_json("show dev")["ports"] == []
    assert dev.cli_json("forward ls dev") == []
    assert rules_and_links(dev) == before


@pytest.mark.parametrize(
    ("command", "status"), [("exit 42", 42), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_status_of_the_command_is_that_of_run(dev: Machine, command: str, status: int) -> None:
    # The shell in between turns "killed by signal n" into 128 + n, as an interactive one would show it.
    words = f'{CLI} run dev -- sh -c "{command.replace("$", chr(92) + "$")}"; exit $?'
    assert dev.run(["sh", "-c", words], check=False).returncode == status


@pytest.mark.parametrize(("command", "status"), [("/nonexistent", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_run_has_the_shells_status_and_leaves_nothing(
    dev: Machine, command: str, status: int
) -> None:
    before = rules_and_links(dev)
    done = dev.cli("run", "dev", "--", command, check=False)
    assert done.returncode == status
    assert command in done.stderr
    assert "Traceback" not in done.stderr
    assert rules_and_links(dev) == before


def test_a_published_port_leads_to_the_command(dev: Machine) -> None:
    serve = [
        "run",
        "dev",
        "-p",
        "8080:80",
        "--",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "80",
        "-h",
        str(dev.directory),
    ]
    (dev.directory / "hello").write_text("hello from the guest")
    process = dev.popen([str(CLI), *serve])
    try:
        wait_until(
            lambda: (
                dev.run("curl -sS --max-time 2 http://127.0.0.1:8080/hello", check=False).stdout
                == "hello from the guest"
            ),
        )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
    wait_until(lambda: dev.cli_json("show dev")["ports"] == [])


def test_a_private_network_ends_with_its_command(machine: Machine) -> None:
    before = machine.snapshot()
    text = out(machine, "run", "--subnet", "10.7.0.0/24", "--", "ip", "-4", "-o", "addr", "show", "eth0")
    assert "10.7.0.2/24" in text
    assert machine.snapshot() == before
    assert machine.network_pids() == []
    assert machine.cli_json("ls") == []


def test_a_private_network_ends_with_a_killed_run(machine: Machine) -> None:
    before = machine.snapshot()
    process = machine.popen([str(CLI), "run", "--", "sleep", "1000"])
    wait_until(lambda: machine.network_pids() and "abx" in str(machine.links()))
    wait_until(lambda: any(row["ports"] == 1 for row in machine.cli_json("ls")))
    process.kill()
    process.wait()
    wait_until(lambda: machine.network_pids() == [])
    assert machine.snapshot() == before


def test_a_command_can_configure_itself_by_dhcp(dev: Machine) -> None:
    text = out(dev, "run", "dev", "--dhcp", "--", "sh", "-c", "ip -4 -o addr show eth0; cat /etc/resolv.conf")
    assert "192.168.64.2/24" in text
    assert "nameserver 192.168.64.1" in text


def test_host_only_has_no_way_out(machine: Machine) -> None:
    text = out(machine, "run", "--mode", "host-only", "--", "ip", "route")
    assert "default" not in text
    assert "10.0.0.0/24" in text


def test_host_access_opens_one_port_of_the_hosts_loopback(machine: Machine) -> None:
    with http_server(machine, 8000, "127.0.0.1"):
        words = ["run", "--host-access", "8000", "--", "curl", "-sS", "--max-time"]
        assert len(out(machine, *words, "30", "http://host.internal:8000/bytes/64")) == 64
        refused = machine.cli(*words, "2", "http://host.internal:8001/bytes/64", check=False)
        assert refused.returncode in (7, 28)


def test_attach_makes_a_tap_that_a_monitor_opens_by_name(dev: Machine) -> None:
    info = dev.cli_json("attach", "dev", "vm1", "--tap", "--owner", "65534", "--ip", "192.168.64.77")
    assert info["ip"] == "192.168.64.77"
    link = dev.links()[info["ifname"]]
    assert (link["linkinfo"]["info_data"]["persist"], link["master"]) == (True, "abx-dev")
    assert [port["name"] for port in dev.cli_json("show dev")["ports"]] == ["vm1"]
    out(dev, "detach dev vm1")
    assert info["ifname"] not in dev.links()


def test_attach_puts_a_named_namespace_on_the_network(dev: Machine) -> None:
    guest = dev.namespace("web")
    info = dev.cli_json("attach", "dev", "web", "--netns", guest.path)
    assert info["ip"] in guest.run("ip -4 -o addr show eth0").stdout
    assert dev.cli("attach", "dev", "web", "--netns", guest.path, check=False).returncode == 1
    out(dev, "detach dev web")
    assert "eth0" not in guest.links()


@pytest.mark.parametrize(
    "words",
    [
        "attach dev vm1 --netns /nonexistent",
        "attach dev vm1 --netns /etc/passwd",
        "attach dev vm1 --netns 999999999",
        "attach dev vm1 --tap --ip 192.168.64.1",
        "attach dev vm1 --tap --ip 10.9.9.9",
        "forward add dev 192.0.2.1:8080:80",
        "forward rm dev 9:9",
        "detach dev vm9",
        "lease release dev 192.168.64.200",
        "lease reserve dev 02:00:00:00:00:01 10.0.0.9",
        "dns rm dev nobody",
        "dns add dev localhost 192.168.64.9",
        "up dev",
        "up other --subnet 192.168.64.0/24",
    ],
)
def test_what_cannot_be_is_refused_with_its_reason_and_changes_nothing(dev: Machine, words: str) -> None:
    before, shown = rules_and_links(dev), dev.cli_json("show dev")
    done = dev.cli(words, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("arcbox-net: ")
    assert "Traceback" not in done.stderr
    after = dev.cli_json("show dev")
    for field in ("ports", "forwards", "leases", "available_ips"):
        assert after[field] == shown[field]
    assert rules_and_links(dev) == before


def test_a_reserved_address_is_its_guests_and_its_name_resolves(dev: Machine) -> None:
    out(dev, "lease reserve dev 02:00:00:00:00:09 192.168.64.50 --hostname db")
    leases = dev.cli_json("lease ls dev")
    assert [(item["ip"], item["state"], item["mac"]) for item in leases] == [
        ("192.168.64.50", "reserved", "02:00:00:00:00:09")
    ]
    text = out(
        dev,
        "run",
        "dev",
        "--dhcp",
        "--mac",
        "02:00:00:00:00:09",
        "--",
        "ip",
        "-4",
        "-o",
        "addr",
        "show",
        "eth0",
    )
    assert "192.168.64.50/24" in text
    out(dev, "lease release dev 192.168.64.50")
    assert dev.cli_json("lease ls dev") == []


def test_a_name_of_ours_resolves_until_it_is_removed(dev: Machine) -> None:
    out(dev, "dns add dev printer 192.168.64.99")
    lookup = ["run", "dev", "--", "getent", "hosts", "printer.dev.internal"]
    assert out(dev, *lookup).split()[0] == "192.168.64.99"
    assert "printer" in out(dev, "dns ls dev")
    out(dev, "dns rm dev printer")
    assert dev.cli(*lookup, check=False).returncode == 2


def test_the_shell_completes_guest_ports(dev: Machine) -> None:
    out(dev, "attach dev vm1 --tap")
    variables = {
        "_ARCBOX_NET_COMPLETE": "bash_complete",
        "COMP_WORDS": "arcbox-net detach dev ",
        "COMP_CWORD": "3",
    }
    assert dev.run([str(CLI)], env=variables).stdout == "plain,vm1\n"


def test_ls_and_show_tell_a_dead_network_and_down_clears_it(machine: Machine) -> None:
    before = machine.snapshot()
    machine.cli("up dev")
    for pid in machine.network_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: [row["state"] for row in machine.cli_json("ls")] == ["dead"])
    assert machine.cli("show dev", check=False).returncode == 1
    assert "removed" in out(machine, "down dev")
    assert machine.snapshot() == before
    assert machine.cli_json("ls") == []
    assert machine.cli("down dev").stdout == "dev was not up\n"


def test_down_all_ends_every_network(machine: Machine) -> None:
    before = machine.snapshot()
    machine.cli("up one")
    machine.cli("up two")
    assert [row["name"] for row in machine.cli_json("ls")] == ["one", "two"]
    machine.cli("down --all")
    assert machine.snapshot() == before


def test_up_in_the_foreground_ends_with_ctrl_c(machine: Machine) -> None:
    before = machine.snapshot()
    process = machine.popen([str(CLI), "up", "dev", "--foreground"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "dev is up" in process.stdout.readline()
    assert [row["name"] for row in machine.cli_json("ls")] == ["dev"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert machine.snapshot() == before


def test_up_in_the_foreground_fails_when_its_network_dies(machine: Machine) -> None:
    process = machine.popen(
        [str(CLI), "up", "dev", "--foreground"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    for pid in machine.network_pids():
        os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "ended by itself" in said


def test_the_demo_shows_both_kinds_to_root_and_leaves_the_machine_as_it_was(machine: Machine) -> None:
    before = machine.snapshot()
    done = machine.cli("demo", "--json", check=False)
    shown = json.loads(done.stdout)
    assert [step for network in shown["networks"] for step in network["steps"] if not step["ok"]] == []
    assert (done.returncode, shown["ok"]) == (0, True)
    assert [network["egress"] for network in shown["networks"]] == ["masquerade", "relay"]
    for network in shown["networks"]:
        assert network["steps"][0]["facts"]["egress"] == network["egress"]
        assert [step["step"] for step in network["steps"]] == [
            *["network", "guest", "DHCP", "name", "name", "name"],
            *["outbound HTTP", "inbound HTTP", "speed", "speed", "clean-up"],
        ]
    assert machine.snapshot() == before
    assert machine.network_pids() == []
    assert "all 22 steps passed" in machine.cli("demo").stdout


def test_a_demo_that_is_interrupted_leaves_nothing(machine: Machine) -> None:
    before = machine.snapshot()
    # Whoever runs the tests may ignore Ctrl-C, and so would what they start.
    words = ["env", "--default-signal=INT", str(CLI), "demo"]
    process = machine.popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("guest"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_until(lambda: machine.network_pids() == [])
    assert machine.snapshot() == before
    with contextlib.suppress(ProcessLookupError):
        assert process.returncode != 0


def monitor(directory: Path, name: str, script: str) -> str:
    """A stand-in for a VM monitor: a script of that name."""
    file = directory / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_cloud_hypervisor_is_given_open_queues(dev: Machine, tmp_path: Path) -> None:
    fake = monitor(tmp_path, "cloud-hypervisor", 'echo "$@"; ls -l /proc/self/fd | grep -c /dev/net/tun')
    words, count = out(dev, "run", "dev", "--queues", "2", "--", fake, "--kernel", "k").splitlines()
    assert re.fullmatch(
        r"--kernel k --net fd=\[\d+,\d+\],mac=02(:[0-9a-f]{2}){5},mtu=1500,num_queues=4", words
    )
    assert count == "2"
    assert dev.cli_json("show dev")["ports"] == []


def test_firecracker_is_given_a_configuration_with_the_tap(dev: Machine, tmp_path: Path) -> None:
    (tmp_path / "vm.json").write_text('{"boot-source": {"kernel_image_path": "k"}}')
    fake = monitor(tmp_path, "firecracker", 'cat "$2"; ip -o link show type tun 1>&2')
    done = dev.cli("run", "dev", "--", fake, "--config-file", str(tmp_path / "vm.json"))
    document = json.loads(done.stdout)
    (card,) = document["network-interfaces"]
    assert card["iface_id"] == "abx0"
    assert card["host_dev_name"] in done.stderr
    assert document["boot-source"] == {"kernel_image_path": "k"}
    assert card["host_dev_name"] not in dev.links()


def test_firecracker_without_a_file_is_told_the_taps_name(dev: Machine, tmp_path: Path) -> None:
    fake = monitor(tmp_path, "firecracker", "ip -o link show type tun")
    done = dev.cli("run", "dev", "--", fake)
    assert "abx-" in done.stdout
    assert '"host_dev_name": "abx-' in done.stderr


@pytest.mark.qemu
@pytest.mark.parametrize("options", [[], ["--queues", "2"]], ids=["one queue", "two queues"])
def test_run_boots_a_vm_that_gets_online(dev: Machine, options: list[str]) -> None:
    from tests.support.guest import Guest

    prefix = [*dev.argv([str(CLI), "run", "dev", "--name", "vm1", "-p", "8080:80", *options, "--"])]
    with Guest([], prefix=prefix) as guest:
        lease = guest.lease()
        assert lease["router"] == "192.168.64.1"
        assert "192.168.64.1" in guest.run("nslookup host.internal")
        (port,) = dev.cli_json("show dev")["ports"]
        assert (port["name"], port["kind"], port["ip"]) == ("vm1", "tap", lease["ip"])
        guest.run("mkdir -p /www; echo from the vm > /www/x; httpd -p 80 -h /www")
        body = dev.run("curl -sS --max-time 30 http://127.0.0.1:8080/x").stdout
        assert body == "from the vm\n"
    wait_until(lambda: dev.cli_json("show dev")["ports"] == [])


def test_exec_tap_hands_over_the_descriptor_and_takes_its_port_back(dev: Machine) -> None:
    look = 'readlink /proc/self/fd/{fd}; echo {mac}; ip -br link show master abx-dev | cut -d" " -f1'
    path, mac, ifname = out(dev, "exec-tap", "dev", "vm1", "--", "sh", "-c", look).splitlines()
    assert path == "/dev/net/tun"
    assert re.fullmatch("02(:[0-9a-f]{2}){5}", mac)
    wait_until(lambda: dev.cli_json("show dev")["ports"] == [])
    assert ifname not in dev.links()
    assert dev.cli("exec-tap", "dev", "vm1", "--", "/nonexistent", "{fd}", check=False).returncode == 127


def test_exec_tap_opens_an_attached_port_that_then_stays(dev: Machine) -> None:
    out(dev, "attach dev vm1 --tap")
    assert out(dev, "exec-tap", "dev", "vm1", "--", "readlink", "/proc/self/fd/{fd}") == "/dev/net/tun\n"
    assert [port["name"] for port in dev.cli_json("show dev")["ports"]] == ["vm1"]


def test_entering_a_masqueraded_network_is_staying_on_the_host(dev: Machine) -> None:
    done = dev.cli("enter", "dev", "--", "sh", "-c", "ip -br link show abx-dev; exit 3", check=False)
    assert done.stdout.startswith("abx-dev")
    assert done.returncode == 3
    assert "dev is in the host's own network namespace" in done.stderr


def test_flows_of_a_masqueraded_network_are_the_kernels(dev: Machine) -> None:
    guest = dev.namespace("web")
    out(dev, "attach", "dev", "web", "--netns", guest.path)
    with http_server(dev.world):
        guest.run(f"curl -sS --max-time 30 http://{dev.world_ip}/bytes/100")
        flows = [flow for flow in dev.cli_json("flows dev") if flow["peer"] == dev.world_ip]
        shown = out(dev, "flows dev")
    assert [(flow["protocol"], flow["peer_port"]) for flow in flows] == [("tcp", 80)]
    assert f"{dev.world_ip}:80" in shown
