"""Forwards when a step of them fails: all of one is there, or nothing."""

import contextlib
import os
import random
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from arcbox_net.errors import (
    ConfigError,
    ForwardExists,
    ForwardNotFound,
    HostPortInUse,
    KernelError,
    PermissionDenied,
)
from arcbox_net.recipes import host_ports, port_forward
from arcbox_net.recipes.port_forward import CLIENTS_OWN, GATEWAYS, Forward, PortForwards
from arcbox_net.relay.splice import SpliceRelay
from arcbox_net.rules import parse_forward
from tests.support.netns import PATIENCE_S

GUEST = IPv4Address("192.168.64.2")


class Firewall:
    """Elements of the kernel's map, in a set. `refuses`: the kernel takes no change."""

    network = "dev"

    def __init__(self):
        self.elements = set()
        self.refuses = False

    def add_dnats(self, dnats):
        self._check()
        self.elements |= set(dnats)

    def remove_dnats(self, dnats):
        self._check()
        self.elements -= set(dnats)

    def _check(self):
        if self.refuses:
            raise KernelError("nftables: refused", operation="nft -f -", object="dev", errno=12)


@pytest.fixture
def firewall():
    return Firewall()


@pytest.fixture
def relay():
    made = SpliceRelay()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def forwards(firewall, relay):
    made = PortForwards(firewall, relay)
    yield made
    made.close()


def free_ports(count=1, kind=socket.SOCK_STREAM):
    """The first of *count* ports in a row that nobody has, nor is given for any: kernels give those from 32768 on."""
    for first in random.sample(range(30_100, 32_700), 500):  # below them are those of test_splice.py
        held = []
        try:
            for number in range(first, first + count):
                held.append(socket.socket(socket.AF_INET, kind))
                held[-1].bind(("0.0.0.0", number))
            return first
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise AssertionError("no free ports")


def is_free(port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def test_forward_of_a_port_that_is_forwarded_names_the_command_that_frees_it(forwards):
    port = free_ports()
    forwards.add(parse_forward(f"{port}:80"), GUEST)
    with pytest.raises(ForwardExists) as refused:
        forwards.add(parse_forward(f"{port}:81"), GUEST)
    assert refused.value.fix == f"remove it first: arcbox-net forward rm dev 127.0.0.1:{port}:80/tcp"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_h7_forward_that_the_kernel_refuses_holds_nothing(forwards, firewall, relay, protocol):
    port, kind = free_ports(), {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    rule = parse_forward(f"0.0.0.0:{port}:80/{protocol}")
    firewall.refuses = True
    with pytest.raises(KernelError):
        forwards.add(rule, GUEST)
    assert forwards.forwards() == []
    assert relay.stats()["rules"] == 0
    assert is_free(port, kind)
    firewall.refuses = False
    assert forwards.add(rule, GUEST).guest_ip == GUEST


def test_h7_range_with_one_taken_port_holds_nothing(forwards, relay):
    first = free_ports(3)
    with socket.create_server(("0.0.0.0", first + 2)):
        with pytest.raises(HostPortInUse):
            forwards.add(parse_forward(f"0.0.0.0:{first}-{first + 2}:80-82"), GUEST)
    assert relay.stats()["rules"] == 0
    assert all(is_free(first + i) for i in range(3))


def test_address_of_another_host_is_named(forwards):
    with pytest.raises(ConfigError, match=r"198\.51\.100\.1 is not an address of this host"):
        forwards.add(parse_forward("198.51.100.1:8080:80"), GUEST)
    assert forwards.forwards() == []


def test_removal_that_the_kernel_refuses_can_be_repeated(forwards, firewall):
    rule = parse_forward(f"0.0.0.0:{free_ports()}:80")
    forwards.add(rule, GUEST)
    firewall.refuses = True
    with pytest.raises(KernelError):
        forwards.remove(rule)
    assert [forward.guest_ip for forward in forwards.forwards()] == [GUEST]
    firewall.refuses = False
    forwards.remove(rule)
    assert not firewall.elements
    with pytest.raises(ForwardNotFound):
        forwards.remove(rule)


def test_forward_whose_port_was_taken_meanwhile_is_pending_and_in_no_map(forwards, firewall, relay):
    port = free_ports()
    rule = parse_forward(f"0.0.0.0:{port}:80")
    forwards.add(rule, None)
    held = forwards.get(rule).sockets[0]
    held.close()
    with socket.create_server(("0.0.0.0", port)):
        forwards.guests_changed({rule: GUEST})
        assert forwards.get(rule).guest_ip is None
        assert forwards.dnats() == ()
        assert relay.stats()["rules"] == 0
    forwards.guests_changed({rule: GUEST})
    assert forwards.get(rule).guest_ip == GUEST
    assert firewall.elements == set(forwards.dnats())


def test_forward_that_the_kernel_refuses_does_not_keep_others_from_their_guest(forwards, firewall, relay):
    public, local = (
        parse_forward(f"0.0.0.0:{free_ports()}:80"),
        parse_forward(f"127.0.0.1:{free_ports(2) + 1}:80"),
    )
    forwards.add(public, None)
    forwards.add(local, None)
    firewall.refuses = True
    forwards.guests_changed({public: GUEST, local: GUEST})
    assert forwards.get(public).guest_ip is None
    assert forwards.get(local).guest_ip == GUEST
    firewall.refuses = False
    forwards.guests_changed({public: GUEST, local: GUEST})
    assert forwards.get(public).guest_ip == GUEST
    assert len(firewall.elements) == 1


HERE, THERE = IPv4Address("127.0.0.2"), IPv4Address("127.0.0.3")


@pytest.fixture
def guests():
    """A server for each protocol at HERE and THERE, all at one port: `[protocol, address]`, and the port."""
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    guest_port = free_ports()
    with contextlib.ExitStack() as open_ones:
        servers = {}
        for protocol, kind in kinds.items():
            for address in (HERE, THERE):
                server = open_ones.enter_context(socket.socket(socket.AF_INET, kind))
                server.settimeout(PATIENCE_S)
                server.bind((str(address), guest_port))
                if protocol == "tcp":
                    server.listen()
                servers[protocol, address] = server
        yield servers, guest_port


def reach(server, protocol, host_port):
    """Return once what a client says to the forwarded port has come to *server*."""
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", host_port))
        client.sendall(b"?")
        taker = server.accept()[0] if protocol == "tcp" else server
        assert taker.recv(1) == b"?"
        if taker is not server:
            taker.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_forward_keeps_its_host_port_while_its_guest_moves_and_is_away(
    forwards, relay, guests, protocol, monkeypatch
):
    servers, guest_port = guests
    port = free_ports(5) + 4
    rule = parse_forward(f"{port}:{guest_port}/{protocol}")
    forwards.add(rule, HERE)

    def refuse(_rule):
        raise AssertionError("the port is held already")

    monkeypatch.setattr(port_forward, "hold", refuse)
    reach(servers[protocol, HERE], protocol, port)
    forwards.guests_changed({rule: THERE})
    reach(servers[protocol, THERE], protocol, port)
    forwards.guests_changed({rule: None})
    assert relay.stats()["rules"] == 0
    assert not is_free(port, servers[protocol, HERE].type)
    forwards.guests_changed({rule: HERE})
    reach(servers[protocol, HERE], protocol, port)


def test_nobody_is_let_wait_at_a_tcp_forward_whose_guest_is_away(forwards, guests):
    _, guest_port = guests
    port = free_ports(6) + 5
    rule = parse_forward(f"{port}:{guest_port}")
    forwards.add(rule, HERE)
    forwards.guests_changed({rule: None})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)


@pytest.fixture
def outside():
    """Stands for the host's namespace; `asked` is how often something was made there."""

    class Outside:
        asked = 0

        def __call__(self, make):
            self.asked += 1
            return make()

    return Outside()


@pytest.fixture
def private(firewall, relay, outside):
    made = PortForwards(firewall, relay, outside=outside)
    yield made
    made.close()


def test_forward_of_a_private_network_is_in_no_map_and_asks_for_the_clients_address(
    private, firewall, relay, outside
):
    forward = private.add(parse_forward(f"0.0.0.0:{free_ports()}:80"), GUEST)
    assert (forward.in_kernel, forward.transparent) == (False, True)
    assert firewall.elements == set()
    assert private.dnats() == ()
    assert relay.stats()["rules"] == 1
    assert outside.asked == 1


def test_hairpins_are_the_active_forwards_that_are_not_on_loopback(private):
    first, local, pending = free_ports(2), free_ports(3) + 2, free_ports(4) + 3
    private.add(parse_forward(f"0.0.0.0:{first}-{first + 1}:80-81/udp"), GUEST)
    private.add(parse_forward(f"127.0.0.1:{local}:80"), GUEST)
    waiting = private.add(parse_forward(f"0.0.0.0:{pending}:80"), None)
    assert private.hairpins("udp") == [("0.0.0.0", first), ("0.0.0.0", first + 1)]
    assert private.hairpins("tcp") == []
    private.guests_changed({forward.rule: GUEST for forward in private.forwards()})
    assert private.hairpins("tcp") == [("0.0.0.0", pending)]
    private.remove(waiting.rule)
    assert private.hairpins("tcp") == []


GUEST6 = IPv6Address("fd00:64::2")
ACROSS = {"is_private": True}


@pytest.mark.parametrize(
    ("spec", "guest", "how", "address", "transparent", "in_kernel"),
    [
        pytest.param("0.0.0.0:80:80", GUEST, {}, CLIENTS_OWN, False, True, id="map"),
        pytest.param("[::]:80:80", GUEST6, {}, CLIENTS_OWN, False, True, id="map-ipv6"),
        pytest.param("[::]:80:80", GUEST, {}, GATEWAYS, False, False, id="ipv6-to-ipv4"),
        pytest.param("127.0.0.1:80:80", GUEST, {}, GATEWAYS, False, False, id="loopback"),
        pytest.param("[::1]:80:80", GUEST6, {}, GATEWAYS, False, False, id="loopback-ipv6"),
        pytest.param("0.0.0.0:80:80", GUEST, ACROSS, CLIENTS_OWN, True, False, id="across"),
        pytest.param("[::]:80:80", GUEST6, ACROSS, CLIENTS_OWN, True, False, id="across-ipv6"),
        pytest.param("0.0.0.0:80:80", GUEST6, ACROSS, GATEWAYS, False, False, id="across-ipv4-to-ipv6"),
        pytest.param("127.0.0.1:80:80", GUEST, ACROSS, GATEWAYS, False, False, id="across-loopback"),
        pytest.param(
            "0.0.0.0:80:80", GUEST, {**ACROSS, "routed": False}, GATEWAYS, False, False, id="across-host-only"
        ),
    ],
)
def test_whose_address_the_guest_sees(spec, guest, how, address, transparent, in_kernel):
    forward = Forward(parse_forward(spec), [], guest_ip=guest, **how)
    assert (forward.client_address[0], forward.transparent, forward.in_kernel) == (
        address,
        transparent,
        in_kernel,
    )
    assert (forward.client_address[1] is None) == (address == CLIENTS_OWN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_privileged_port_of_an_ordinary_user_names_the_setting(forwards):
    with pytest.raises(PermissionDenied) as raised:
        forwards.add(parse_forward("127.0.0.1:1:80"), GUEST)
    assert (
        raised.value.fix == "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=1, or use a port from 1024 on"
    )
    assert forwards.forwards() == []


def test_ipv6_listener_leaves_the_port_of_ipv4_alone(forwards):
    port = free_ports()
    forwards.add(parse_forward(f"[::]:{port}:80"), GUEST)
    assert is_free(port)


def test_a_port_that_only_root_may_have_is_named_where_the_system_has_no_word_for_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_ports, "_PRIVILEGED_BELOW", Path("/none"))

    def refuse(_socket: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PermissionDenied, match="below 1024") as caught:
        host_ports.bind("tcp", "127.0.0.1", 80)
    assert "sysctl" not in str(caught.value.fix)
