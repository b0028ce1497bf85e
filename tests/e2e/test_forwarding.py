"""Port forwarding with real clients by both paths (kernel map, relay): half-close both ways, UDP, hairpin."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.errors import ArcboxNetError, ForwardExists, HostPortInUse
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, each_bridge_nf, kill9
from tests.support.netns import PATIENCE_S, Namespace, wait_until
from tests.support.peers import (
    answer_to,
    body_of,
    connect,
    drain_server,
    exchange_udp,
    http_server,
    is_closed,
    refused,
    udp_echo,
)

NAT = NetConfig()


def via_relay(machine: Machine) -> tuple[Namespace, str, str]:
    """Where a client of a loopback forward is, the address it dials, the forward's host part."""
    return machine, "127.0.0.1", "127.0.0.1"


def via_kernel(machine: Machine) -> tuple[Namespace, str, str]:
    return machine.world, machine.host_ip, "0.0.0.0"


def via_kernel_locally(machine: Machine) -> tuple[Namespace, str, str]:
    return machine, machine.host_ip, "0.0.0.0"


Path_ = Callable[[Machine], tuple[Namespace, str, str]]
each_path = pytest.mark.parametrize("path", [via_relay, via_kernel, via_kernel_locally])


@each_path
def test_http_through_a_forward(machine: Machine, path: Path_) -> None:
    client, address, bound = path(machine)
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        network.expose(f"{bound}:8080:web:80")
        with http_server(guest):
            whole = client.run(
                ["sh", "-c", f"curl -sS --max-time 30 http://{address}:8080/bytes/8000000 | sha256sum"]
            )
            assert whole.stdout.split()[0] == hashlib.sha256(body_of(8_000_000)).hexdigest()


def test_kernel_forward_keeps_the_clients_address(machine: Machine) -> None:
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        info = network.expose("0.0.0.0:8080:web:80")
        assert (info.path, info.client_address_preserved) == ("nft", True)
        with http_server(guest):
            assert (
                machine.world.run(f"curl -sS http://{machine.host_ip}:8080/").stdout.strip()
                == machine.world_ip
            )


@each_path
def test_client_half_close_reaches_the_guest_and_the_answer_comes_back(
    machine: Machine, path: Path_, tmp_path: Path
) -> None:
    client, address, bound = path(machine)
    source = tmp_path / "source"
    source.write_bytes(body_of(3_000_000))
    with machine.network(NAT) as network:
        guest = machine.guest(network, "sink")
        network.expose(f"{bound}:9000:sink:9000")
        with drain_server(guest, 9000):
            answer = client.run(["sh", "-c", f"nc -N {address} 9000 <{source} | sha256sum"]).stdout
    wanted = hashlib.sha256(source.read_bytes()).hexdigest().encode() + b"\n" + body_of(1 << 20)
    assert answer.split()[0] == hashlib.sha256(wanted).hexdigest()


@each_path
def test_guest_half_close_reaches_the_client_and_more_arrives_after_it(
    machine: Machine, path: Path_, tmp_path: Path
) -> None:
    client, address, bound = path(machine)
    received = tmp_path / "received"
    with machine.network(NAT) as network:
        guest = machine.guest(network, "source")
        network.expose(f"{bound}:9000:source:9000")
        # nc -N shuts its side down after "greeting", and keeps reading into the file.
        server = guest.popen(["sh", "-c", f"echo greeting | nc -N -l 9000 >{received}"])
        wait_until(lambda: ":9000" in guest.run("ss -Hltn").stdout)
        with connect(client, address, 9000) as connection:
            assert connection.makefile("rb").read() == b"greeting\n"  # to the guest's end
            connection.sendall(body_of(3_000_000))
            connection.shutdown(socket.SHUT_WR)
            assert server.wait(PATIENCE_S) == 0
    assert received.read_bytes() == body_of(3_000_000)


def test_reset_by_the_guest_reaches_the_client_of_a_loopback_forward(machine: Machine) -> None:
    with machine.network(NAT) as network:
        guest = machine.guest(network, "g")
        network.expose("9000:g:9000")
        listener = guest.call(lambda: socket.create_server(("0.0.0.0", 9000)))
        with listener, connect(machine, "127.0.0.1", 9000) as client:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            accepted.close()
            client.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                client.recv(1)


@each_path
def test_udp_through_a_forward_answers_the_right_client(machine: Machine, path: Path_) -> None:
    client, address, bound = path(machine)
    with machine.network(NAT) as network:
        guest = machine.guest(network, "dns")
        network.expose(f"{bound}:5300:dns:53/udp")
        with udp_echo(guest, 53):
            for text in (b"one", b"two", b"three"):
                answer = exchange_udp(client, address, 5300, text)
                assert answer is not None and answer.split()[1] == text


@each_path
def test_range_is_forwarded_port_by_port(machine: Machine, path: Path_) -> None:
    client, address, bound = path(machine)
    with machine.network(NAT) as network:
        guest = machine.guest(network, "g")
        network.expose(f"{bound}:7000-7009:g:8000-8009")
        with http_server(guest, 8009):
            client.run(["curl", "-sS", "--max-time", "30", f"http://{address}:7009/"])
        assert refused(client, address, 7010) == "ECONNREFUSED"


@each_path
def test_removed_forward_is_closed_and_can_be_added_again(machine: Machine, path: Path_) -> None:
    client, address, bound = path(machine)
    rule = f"{bound}:8080:web:80"
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        with http_server(guest):
            for _ in range(3):
                network.expose(rule)
                assert refused(client, address, 8080) is None
                network.unexpose(rule)
                assert network.forwards() == []
                assert refused(client, address, 8080) == "ECONNREFUSED"


def test_h6_readded_udp_forward_reaches_the_new_guest_at_once(machine: Machine) -> None:
    with machine.network(NAT) as network:
        first, second = machine.guest(network, "first"), machine.guest(network, "second")
        made = machine.world.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with made as client:  # one socket: one source port, one conntrack entry
            client.connect((machine.host_ip, 5300))
            for name, guest in (("first", first), ("second", second)):
                network.expose(f"0.0.0.0:5300:{name}:53/udp")
                with udp_echo(guest, 53):  # the other one is silent
                    assert answer_to(client, name.encode()) == f"{machine.world_ip} {name}".encode()
                network.unexpose(f"0.0.0.0:5300:{name}:53/udp")


@each_bridge_nf
def test_hairpin_guest_reaches_a_forwarded_port_by_the_hosts_address(
    machine: Machine, bridge_nf: int
) -> None:
    machine.bridge_netfilter(bridge_nf)
    with machine.network(NAT) as network:
        asking, web = machine.guest(network, "asking"), machine.guest(network, "web")
        network.expose("0.0.0.0:8080:web:80")
        with http_server(web):
            # With br_netfilter the kernel bridges what it has translated, and never back out of the same port:
            # there a guest does not reach its own forwarded port.
            for guest in (asking,) if bridge_nf else (asking, web):
                assert guest.run(f"curl -sS --max-time 30 http://{machine.host_ip}:8080/").stdout.strip()


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_h7_taken_host_port_is_an_error_and_leaves_nothing(machine: Machine, bound: str) -> None:
    with machine.network(NAT) as network:
        machine.guest(network, "web")
        with machine.call(lambda: socket.create_server((bound, 8081))):
            with pytest.raises(HostPortInUse, match="8081"):
                network.expose(f"{bound}:8080-8083:web:80-83")
            assert network.forwards() == []
            assert refused(machine, "127.0.0.1", 8080) == "ECONNREFUSED"


def test_forwarded_host_port_is_held_against_others(machine: Machine) -> None:
    with machine.network(NAT) as network:
        machine.guest(network, "web")
        network.expose("0.0.0.0:8080:web:80")
        with pytest.raises(OSError, match="in use"):
            machine.call(lambda: socket.create_server(("0.0.0.0", 8080)))
        with pytest.raises(ForwardExists):
            network.expose("0.0.0.0:8080:web:81")


def test_forward_waits_for_its_guest(machine: Machine) -> None:
    with machine.network(NAT) as network:
        assert network.expose("8080:web:80").state == "pending"
        guest = machine.guest(network, "web")
        with http_server(guest):
            wait_until(lambda: network.forwards()[0].state == "active")
            machine.run("curl -sS --max-time 30 http://127.0.0.1:8080/")


def test_ipv6_loopback_listener_reaches_the_guest(machine: Machine) -> None:
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        network.expose("[::1]:8080:web:80")
        with http_server(guest):
            machine.run(["curl", "-sS", "--max-time", "30", "http://[::1]:8080/"])


def test_h4_forward_binds_loopback_unless_told_otherwise(machine: Machine) -> None:
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        network.expose("8080:web:80")
        with http_server(guest):
            assert refused(machine, "127.0.0.1", 8080) is None
            assert refused(machine.world, machine.host_ip, 8080) == "ECONNREFUSED"


def test_h5_outsider_that_routes_to_the_subnet_reaches_no_guest(machine: Machine) -> None:
    with machine.network(NAT) as network:
        guest = machine.guest(network, "web")
        network.expose("8080:web:80")
        machine.world.run(f"ip route add 192.168.64.0/24 via {machine.host_ip}")
        with http_server(guest):
            assert is_closed(machine.world, guest.ip, 80)
            assert is_closed(machine.world, "192.168.64.1", 8080)


@pytest.mark.parametrize(
    "words",
    [
        "forward add dev nonsense",
        "forward add dev 0:80",
        "forward add dev 70000:80",
        "forward add dev 80-70:80-70",
        "forward add dev 80-90:80",
        "forward add dev 300.0.0.1:80:80",
        "forward add dev 8080:80/sctp",
        "forward add dev ::1:80:80",
        "forward rm dev 4711:80",
        "forward add nowhere 8080:80",
    ],
)
def test_bad_forward_is_a_clear_error_and_changes_nothing(machine: Machine, words: str) -> None:
    machine.cli("up dev")
    before = machine.snapshot()
    done = machine.cli(words, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.strip() and "Traceback" not in done.stderr
    assert machine.cli_json("forward ls dev") == []
    assert machine.snapshot() == before
    machine.cli("down dev")


def test_unknown_guest_error_is_typed(machine: Machine) -> None:
    with machine.network(NAT) as network:
        with pytest.raises(ArcboxNetError):
            network.unexpose("8080:80")


def test_forwards_given_to_up_work(machine: Machine) -> None:
    machine.cli("up dev -p 8080:80")
    manager = NetworkManager.connect("dev")
    guest = machine.guest(manager, "first")
    with http_server(guest):
        wait_until(lambda: machine.run("curl -sS --max-time 5 http://127.0.0.1:8080/", check=False).stdout)
    machine.cli("down dev")


def test_forward_of_up_to_somebody_elses_address_is_refused(machine: Machine) -> None:
    failed = machine.cli("up", "dev", "-p", f"0.0.0.0:8080:{machine.world_ip}:80", check=False)
    assert failed.returncode == 2
    assert "not a guest's address" in failed.stderr
    assert machine.network_pids() == []
    assert "abx-dev" not in machine.links()


def test_forward_of_a_killed_run_does_not_follow_into_another_subnet(machine: Machine) -> None:
    machine.cli("up dev --subnet 10.1.0.0/24")
    machine.cli("forward add dev 8080:10.1.0.9:80")
    machine.cli("forward add dev 8081:80")
    kill9(NetworkManager.connect("dev").pid)
    machine.cli("up dev --subnet 10.2.0.0/24")
    assert [forward["rule"] for forward in machine.cli_json("forward ls dev")] == ["127.0.0.1:8081:80/tcp"]
    machine.cli("down dev")


def test_name_of_a_killed_runs_port_gives_way_to_the_configuration(machine: Machine, tmp_path: Path) -> None:
    machine.cli("up dev")
    guest = machine.guest(NetworkManager.connect("dev"), "vm1")
    machine.cli("dns add dev web 10.0.0.5")
    kill9(NetworkManager.connect("dev").pid)
    (tmp_path / "networks.toml").write_text(
        '[networks.dev]\n[networks.dev.dns.records]\nvm1 = ["10.0.0.8"]\nweb = ["10.0.0.9"]\n'
    )
    machine.cli(f"up dev -f {tmp_path}/networks.toml")
    names = {record["name"]: record["addresses"] for record in machine.cli_json("dns ls dev")}
    assert names["web.dev.internal"] == ["10.0.0.9"]
    assert names["vm1.dev.internal"] == ["10.0.0.8"]
    wait_for_echo(guest, "192.168.64.1")
