"""What an ordinary user gets without any privilege: the same network, services and guests, and nothing on the host."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from ipaddress import IPv6Address

import pytest

from tests.support.dig import dig
from tests.support.echo import wait_for_echo
from tests.support.machine import is_running, kill9, udhcpc, wait_gone
from tests.support.netns import COMMAND_TIMEOUT_S, wait_until
from tests.support.peers import body_of, exchange_udp, udp_echo
from tests.support.rootless import WORLD6, Rootless
from tests.support.user import CLI

GATEWAY = "192.168.64.1"
# TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, as a VM monitor does it.
OPEN_BY_NAME = """
open(my $tun, "+<", "/dev/net/tun") or die $!;
my $request = pack("a16 S x22", "%s", 0x5002);
ioctl($tun, 0x400454CA, $request) or die $!;
print "opened";
"""


def digest(size: int) -> str:
    return hashlib.sha256(body_of(size)).hexdigest()


def test_a_network_comes_and_goes_without_a_trace_on_the_host(site: Rootless) -> None:
    before = site.machine.snapshot()
    site.up("-p", "8080:web:80", "--host-access", "5432")
    shown = site.user.cli_json("show dev")
    assert (shown["mode"], shown["egress"], shown["gateway"]) == ("nat", "relay", GATEWAY)
    assert shown["owner"] == "walter"
    assert site.machine.snapshot() == before  # no link, rule, address, route or sysctl
    site.guest("web")
    assert [port["name"] for port in site.user.cli_json("show dev")["ports"]] == ["web"]
    assert site.machine.snapshot() == before
    site.user.cli("down dev")
    assert site.user.cli_json("ls") == []
    assert site.machine.network_pids() == []
    assert site.machine.snapshot() == before


def test_a_command_is_a_guest_as_the_user_with_address_route_and_names(site: Rootless) -> None:
    site.up()
    script = "id -u; ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; ls /sys/class/net"
    text = site.user.cli("run", "dev", "--name", "web", "--", "sh", "-c", script).stdout
    assert text.startswith(f"{site.user.uid}\n")
    assert f"{GATEWAY.removesuffix('1')}2/24" in text
    assert f"default via {GATEWAY} dev eth0" in text
    assert f"nameserver {GATEWAY}\nsearch dev.internal\n" in text
    assert text.endswith("\neth0\nlo\n")
    assert site.user.guest("dev", "getent ahostsv4 host.internal").stdout.split()[0] == GATEWAY


@pytest.mark.parametrize("command", ["exit 42", "kill -TERM $$", "kill -KILL $$"])
def test_status_and_signals_of_the_command_are_those_of_run(site: Rootless, command: str) -> None:
    site.up()
    direct = subprocess.run(["sh", "-c", command]).returncode
    process = site.user.popen([str(CLI), "run", "dev", "--", "sh", "-c", command])
    assert process.wait(COMMAND_TIMEOUT_S) == direct


def test_a_private_network_ends_with_its_command(site: Rootless) -> None:
    done = site.user.cli("run", "--", "curl", "-sS", "--max-time", "30", f"http://{site.world_ip}/bytes/100")
    assert len(done.stdout) == 100
    assert site.user.cli_json("ls") == []
    assert site.machine.network_pids() == []


def test_a_private_network_ends_with_a_killed_run(site: Rootless) -> None:
    process = site.user.popen([str(CLI), "run", "--", "sleep", "1000"])
    wait_until(lambda: any(row["ports"] == 1 for row in site.user.cli_json("ls")))
    process.kill()
    process.wait()
    wait_until(lambda: site.machine.network_pids() == [])
    assert site.user.cli_json("ls") == []


def test_a_guest_gets_online_by_dhcp_dns_http_ping_and_udp(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    guest.run("ip addr flush dev eth0 scope global")
    lease = udhcpc(guest)
    assert (lease["ip"], lease["router"], lease["dns"]) == (guest.ip, GATEWAY, GATEWAY)
    assert dig(guest, GATEWAY, "any.test") == [site.world_ip]
    assert dig(guest, GATEWAY, "+tcp", "any.test") == [site.world_ip]
    body = guest.run(["sh", "-c", "curl -sS --max-time 30 http://web.test/bytes/4000000 | sha256sum"]).stdout
    assert body.split()[0] == digest(4_000_000)
    # The host's own socket made the connection: the world sees the host.
    assert guest.run(f"curl -sS --max-time 30 http://{site.world_ip}/").stdout.strip() == site.host_ip
    wait_for_echo(guest, site.world_ip)
    wait_for_echo(guest, GATEWAY)
    with udp_echo(site.world, 7000):
        assert exchange_udp(guest, site.world_ip, 7000, b"hello") == f"{site.host_ip} hello".encode()


def test_a_guest_gets_online_over_ipv6(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    assert IPv6Address(guest.ip6()).is_private  # a ULA
    wait_until(lambda: "default" in guest.run("ip -6 route").stdout)
    body = guest.run(["sh", "-c", f"curl -sS --max-time 30 'http://[{WORLD6}]/bytes/1000000' | sha256sum"])
    assert body.stdout.split()[0] == digest(1_000_000)
    wait_for_echo(guest, WORLD6)


def test_guests_reach_each_other_by_name(site: Rootless) -> None:
    site.up()
    web, other = site.guest("web"), site.guest("other")
    web.popen(["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"])
    wait_until(lambda: ":80" in web.run("ss -Hltn").stdout)
    assert "localhost" in other.run("curl -sS --max-time 30 http://web.dev.internal/hosts").stdout


def test_a_server_on_a_privileged_port_of_the_guest_is_forwarded(site: Rootless) -> None:
    site.up("-p", "8080:web:80")
    words = [*["run", "dev", "--name", "web", "--"], *["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]]
    site.user.popen([str(CLI), *words])
    url = "http://127.0.0.1:8080/hosts"
    wait_until(lambda: "localhost" in site.machine.run(["curl", "-sS", "-m", "5", url], check=False).stdout)


def test_the_guest_cannot_touch_the_networks_namespace(site: Rootless) -> None:
    site.up()
    pid = site.network_pid()
    rules = site.inside("nft list ruleset").stdout
    assert "abx" in rules
    script = f"""
        nsenter --target={pid} --user true && echo joined user
        nsenter --target={pid} --net true && echo joined net
        for thread in /proc/{pid}/task/*; do nsenter --net=$thread/ns/net true && echo joined $thread; done
        ip link set eth0 netns {pid} && echo moved
        /usr/sbin/nft list tables
        echo end
    """
    assert site.user.cli("run", "dev", "--", "sh", "-c", script).stdout == "end\n"
    assert re.sub(r"packets \d+ bytes \d+", "", site.inside("nft list ruleset").stdout).count("chain") == (
        rules.count("chain")
    )


def test_enter_shows_the_private_namespace_and_reaches_guests(site: Rootless) -> None:
    site.up()
    web = site.guest("web")
    links = site.inside("ip -br link").stdout
    assert "abx-dev" in links
    assert site.machine.uplink not in links
    assert site.inside("id -u").stdout == f"{site.user.uid}\n"
    assert site.inside("getent ahostsv4 web.dev.internal").stdout.split()[0] == web.ip
    site.inside(f"ping -c 1 -w 30 {web.ip}")
    site.inside("ls /sys/class/net/abx-dev")
    assert site.user.cli("enter", "dev", "--", "sh", "-c", "exit 7", check=False).returncode == 7


def test_a_tap_is_handed_over_and_opened_by_name(site: Rootless) -> None:
    site.up()
    words = ["exec-tap", "dev", "vm1", "--ip", "192.168.64.77", "--", "sh", "-c"]
    assert site.user.cli(*words, "readlink /proc/self/fd/{fd}").stdout == "/dev/net/tun\n"
    wait_until(lambda: site.user.cli_json("show dev")["ports"] == [])
    said = site.user.cli("attach dev vm2 --tap").stdout
    assert "arcbox-net enter dev -- firecracker" in said
    (port,) = site.user.cli_json("show dev")["ports"]
    assert site.inside(["perl", "-e", OPEN_BY_NAME % port["ifname"]]).stdout == "opened"


@pytest.mark.qemu
@pytest.mark.slow
def test_an_unprivileged_monitor_boots_a_vm_that_gets_online(site: Rootless) -> None:
    from tests.support.guest import Guest

    site.up("-p", "8080:vm1:80")
    prefix = site.user.argv([str(CLI), "run", "dev", "--name", "vm1", "--"])
    with Guest([], prefix=prefix) as guest:
        lease = guest.lease()
        assert lease["router"] == GATEWAY
        assert site.world_ip in guest.run("nslookup -type=a web.test")
        assert guest.run("wget -q -O - http://web.test/").strip() == site.host_ip
        fetched = guest.run("wget -q -O - http://web.test/bytes/4000000 | sha256sum")
        assert fetched.split()[0] == digest(4_000_000)
        guest.run("echo from the vm > /www/index.html; httpd -h /www")
        got = site.machine.run("curl -sS --max-time 30 http://127.0.0.1:8080/").stdout
        assert got == "from the vm\n"
    wait_until(lambda: site.user.cli_json("show dev")["ports"] == [])


def test_after_kill_9_the_next_up_has_names_and_leases_again(site: Rootless) -> None:
    site.up("-p", "8080:web:80")
    site.user.cli("forward add dev 8081:web:80")
    site.user.cli("dns add dev printer 192.168.64.99")
    site.user.cli("lease reserve dev 02:00:00:00:00:09 192.168.64.50")
    guest = site.guest("web")
    mac, ip = guest.mac, guest.ip
    kill9(site.network_pid())
    assert [row["state"] for row in site.user.cli_json("ls")] == ["dead"]
    guest.close()
    site.up()
    assert site.user.cli_json("show dev")["egress"] == "relay"
    assert [row["rule"] for row in site.user.cli_json("forward ls dev")] == [
        "127.0.0.1:8080:web:80/tcp",
        "127.0.0.1:8081:web:80/tcp",
    ]
    again = site.guest("web")
    assert (again.mac, again.ip) == (mac, ip)
    assert dig(again, GATEWAY, "printer.dev.internal") == ["192.168.64.99"]
    assert again.run(f"curl -sS --max-time 30 http://{site.world_ip}/").stdout.strip() == site.host_ip
    site.user.cli("down dev")
    assert site.machine.network_pids() == []


def test_down_after_kill_9_leaves_nothing(site: Rootless) -> None:
    before = site.machine.snapshot()
    site.up()
    kill9(site.network_pid())
    site.user.cli("down dev")
    assert site.user.cli_json("ls") == []
    assert site.machine.snapshot() == before
    assert os.listdir(site.user.runtime / "arcbox-net") == [".host"], "what networks that start wait for"


def test_flows_tells_what_a_guest_has_open(site: Rootless) -> None:
    site.up()
    guest = site.guest("web")
    held = guest.popen(f"socat - TCP:{site.world_ip}:80", stdin=subprocess.PIPE)
    try:

        def flow() -> dict[str, object] | None:
            listed = site.user.cli_json("flows dev")
            return next((item for item in listed if item["peer_port"] == 80 and not item["reason"]), None)

        shown = wait_until(flow)
        assert shown is not None
        assert (shown["protocol"], shown["guest"], shown["peer"]) == ("tcp", guest.ip, site.world_ip)
        assert f"{site.world_ip}:80" in site.user.cli("flows dev").stdout
    finally:
        held.kill()
        held.wait()
    wait_until(
        lambda: all(item["reason"] for item in site.user.cli_json("flows dev") if item["peer_port"] == 80)
    )


def test_root_may_ask_for_the_relay_and_gets_it_without_a_user_namespace(site: Rootless) -> None:
    before = site.machine.snapshot()
    site.machine.cli("up dev --egress relay")
    shown = site.machine.cli_json("show dev")
    assert shown["egress"] == "relay"
    user_namespaces = {os.stat(f"/proc/{pid}/ns/user").st_ino for pid in (os.getpid(), shown["pid"])}
    assert len(user_namespaces) == 1
    words = ["run", "dev", "--", "curl", "-sS", "--max-time", "30", f"http://{site.world_ip}/bytes/64"]
    assert len(site.machine.cli(*words).stdout) == 64
    assert "abx-dev" in site.machine.cli("enter", "dev", "--", "ip", "-br", "link").stdout
    site.machine.cli("down dev")
    assert site.machine.snapshot() == before


def test_bridge_mode_as_a_user_is_refused_with_the_reason(site: Rootless) -> None:
    done = site.user.cli("up", "lan", "--bridge", "br0", check=False)
    assert done.returncode == 1
    assert "root" in done.stderr or "CAP_NET_ADMIN" in done.stderr
    assert site.user.cli_json("ls") == []


def test_host_only_as_a_user_has_no_way_out(site: Rootless) -> None:
    site.user.cli("up lab --mode host-only")
    done = site.user.cli(
        "run", "lab", "--", "sh", "-c", "ip route; ip -6 route; getent ahostsv4 host.internal"
    )
    assert "default" not in done.stdout
    assert "10.0.0.1" in done.stdout
    words = ["run", "lab", "--", "curl", "-sS", "-m", "3", f"http://{site.world_ip}/"]
    assert site.user.cli(*words, check=False).returncode != 0


def test_the_demo_passes_without_privileges(site: Rootless) -> None:
    done = site.user.cli("demo", "--json", check=False)
    shown = json.loads(done.stdout)
    failed = [step for table in shown["networks"] for step in table["steps"] if not step["ok"]]
    assert failed == []
    assert [table["egress"] for table in shown["networks"]] == ["relay"]
    assert done.returncode == 0
    assert site.machine.network_pids() == []


def test_the_library_works_without_privileges(site: Rootless) -> None:
    program = """
import os
from arcbox_net import NetConfig, NetworkManager, NetworkMode
with NetworkManager(NetConfig(mode=NetworkMode.NAT)) as manager:
    print(manager.status().egress, manager.allocate_ip())
    tap = manager.attach_tap("vm1")
    print(os.readlink(f"/proc/self/fd/{tap.fd}"), len(manager.ports()))
    pid = manager.pid
print(manager.state)
print(pid)
"""
    lines = site.user.python(program).stdout.split()
    assert lines[:5] == ["relay", "192.168.64.2", "/dev/net/tun", "1", "stopped"]
    wait_gone(int(lines[5]))
    assert not is_running(int(lines[5]))
