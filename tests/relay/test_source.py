"""Whose address a guest sees, with the listener in one network namespace and the guests in another."""

import contextlib
import socket

import pytest

from arcbox_net.relay.splice import SpliceRelay
from tests.support.netns import Host, requires_root
from tests.support.relay import DEADLINE_S

GATEWAY, GUEST, SUBNET = "192.168.64.1", "192.168.64.2", "192.168.64.0/24"
GATEWAY6, GUEST6, SUBNET6 = "fd00:64::1", "fd00:64::2", "fd00:64::/64"
WORLD6, HOST6 = "2001:db8::1", "2001:db8::2"
TO_SOCKETS = """
table inet to_sockets {
    chain prerouting {
        type filter hook prerouting priority mangle
        iifname "br0" socket transparent 1 meta mark set 1
    }
}
"""


class Lab:
    """`host` listens, `world` is the client, `inside` is the private namespace with `guest` behind its gateway."""

    def __init__(self, host):
        self.host, self.world = host, host.world
        self.inside, self.guest = host.namespace("inside"), host.namespace("guest")
        host.run(f"ip addr add {HOST6}/64 dev {host.uplink} nodad")
        self.world.run(f"ip addr add {WORLD6}/64 dev {host.uplink_peer} nodad")
        self.inside.run("ip link add br0 type bridge")
        self.inside.run(f"ip addr add {GATEWAY}/24 dev br0")
        self.inside.run(f"ip addr add {GATEWAY6}/64 dev br0 nodad")
        self.inside.run(f"ip link add g0 type veth peer name eth0 netns {self.guest.name}")
        self.inside.run("ip link set g0 master br0 up")
        self.inside.run("ip link set br0 up")
        self.guest.run("ip link set eth0 up")
        self.guest.run(f"ip addr add {GUEST}/24 dev eth0")
        self.guest.run(f"ip addr add {GUEST6}/64 dev eth0 nodad")
        self.guest.run(f"ip route add default via {GATEWAY}")
        self.guest.run(f"ip -6 route add default via {GATEWAY6}")
        for family in ("-4", "-6"):
            self.inside.run(f"ip {family} rule add fwmark 1 lookup 100")
            self.inside.run(f"ip {family} route add local default dev lo table 100")
        self.inside.run("nft -f -", stdin=TO_SOCKETS)
        self._closing = contextlib.ExitStack()
        fd = self.inside.open()
        self.relay = SpliceRelay(threads=2, netns_fd=fd, guest_subnets=[SUBNET, SUBNET6])
        self.relay.start()
        self._closing.callback(self.relay.stop)

    def close(self):
        self._closing.close()

    def socket_in(self, namespace, kind, address, port=0):
        def make():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            made.settimeout(DEADLINE_S)
            return made

        return self._closing.enter_context(namespace.call(make))

    def server(self, address=GUEST, port=0):
        made = self.socket_in(self.guest, socket.SOCK_STREAM, address, port)
        made.listen()
        return made

    def forward(self, target, *, bind="0.0.0.0", transparent=True):
        """A listener on the host towards *target*; its rule and L4 port."""
        listener = self.socket_in(self.host, socket.SOCK_STREAM, bind)
        listener.listen()
        host_port = listener.getsockname()[1]
        rule = self.relay.add_tcp(listener.detach(), target.getsockname()[:2], transparent=transparent)
        return rule, host_port

    def seen(self, server, client):
        """The client as the guest sees it, and that bytes pass both ways."""
        served, name = server.accept()
        with served:
            served.settimeout(DEADLINE_S)
            client.sendall(b"ping")
            assert served.recv(16) == b"ping"
            served.sendall(b"pong")
            assert client.recv(16) == b"pong"
        return name[:2]

    def dials(self, rule):
        stats = self.relay.stats(rule)
        return stats["dials_as_client"], stats["dials_as_gateway"]


@pytest.fixture
def lab():
    with Host() as host:
        made = Lab(host)
        try:
            yield made
        finally:
            made.close()


pytestmark = [pytest.mark.e2e, requires_root]


@pytest.mark.parametrize(
    ("guest", "world", "at"),
    [(GUEST, Host.world_ip, Host.host_ip), (GUEST6, WORLD6, HOST6)],
    ids=["ipv4", "ipv6"],
)
def test_guest_sees_the_client_with_its_own_address_and_port(lab, guest, world, at):
    server = lab.server(guest)
    rule, host_port = lab.forward(server, bind="::" if ":" in at else "0.0.0.0")
    client = lab.socket_in(lab.world, socket.SOCK_STREAM, world)
    client.connect((at, host_port))
    assert lab.seen(server, client) == client.getsockname()[:2]
    assert lab.dials(rule) == (1, 0)


def test_rule_that_is_not_transparent_is_seen_as_the_gateway(lab):
    server = lab.server()
    rule, host_port = lab.forward(server, transparent=False)
    client = lab.socket_in(lab.world, socket.SOCK_STREAM, Host.world_ip)
    client.connect((Host.host_ip, host_port))
    assert lab.seen(server, client)[0] == GATEWAY
    assert lab.dials(rule) == (0, 0)


def test_client_port_that_two_forwards_take_is_kept_where_the_guest_port_differs(lab):
    servers = [lab.server(), lab.server()]
    ports = [lab.forward(server)[1] for server in servers]
    first = lab.socket_in(lab.world, socket.SOCK_STREAM, Host.world_ip)
    first.connect((Host.host_ip, ports[0]))
    second = lab.socket_in(lab.world, socket.SOCK_STREAM, Host.world_ip, first.getsockname()[1])
    second.connect((Host.host_ip, ports[1]))
    assert lab.seen(servers[0], first) == lab.seen(servers[1], second) == first.getsockname()


def test_client_port_that_is_taken_for_that_guest_port_becomes_another(lab):
    server = lab.server()
    ports = [lab.forward(server)[1] for _ in range(2)]
    first = lab.socket_in(lab.world, socket.SOCK_STREAM, Host.world_ip)
    first.connect((Host.host_ip, ports[0]))
    served, name = server.accept()
    with served:
        assert name == first.getsockname()
        second = lab.socket_in(lab.world, socket.SOCK_STREAM, Host.world_ip, first.getsockname()[1])
        second.connect((Host.host_ip, ports[1]))
        address, l4_port = lab.seen(server, second)
    assert address == Host.world_ip
    assert l4_port != first.getsockname()[1]


def test_client_on_the_hosts_loopback_is_seen_as_the_gateway(lab):
    server = lab.server()
    rule, host_port = lab.forward(server)
    client = lab.socket_in(lab.host, socket.SOCK_STREAM, "127.0.0.1")
    client.connect(("127.0.0.1", host_port))
    assert lab.seen(server, client)[0] == GATEWAY
    assert lab.dials(rule) == (0, 1)


def test_client_whose_address_lies_in_the_guests_subnet_is_seen_as_the_gateway(lab):
    server = lab.server()
    rule, host_port = lab.forward(server)
    lab.host.run("ip addr add 192.168.64.77/32 dev lo")
    client = lab.socket_in(lab.host, socket.SOCK_STREAM, "192.168.64.77")
    client.connect((Host.host_ip, host_port))
    assert lab.seen(server, client)[0] == GATEWAY
    assert lab.dials(rule) == (0, 1)


def test_ipv6_client_of_an_ipv4_guest_is_seen_as_the_gateway(lab):
    server = lab.server(GUEST)
    rule, host_port = lab.forward(server, bind="::")
    client = lab.socket_in(lab.world, socket.SOCK_STREAM, WORLD6)
    client.connect((HOST6, host_port))
    assert lab.seen(server, client)[0] == GATEWAY
    assert lab.dials(rule) == (0, 1)


@pytest.mark.parametrize(
    ("guest", "world", "at"),
    [(GUEST, Host.world_ip, Host.host_ip), (GUEST6, WORLD6, HOST6)],
    ids=["ipv4", "ipv6"],
)
def test_datagrams_come_from_the_client_and_answers_go_back_to_it(lab, guest, world, at):
    target = lab.socket_in(lab.guest, socket.SOCK_DGRAM, guest)
    bound = lab.socket_in(lab.host, socket.SOCK_DGRAM, "::" if ":" in at else "0.0.0.0")
    host_port = bound.getsockname()[1]
    rule = lab.relay.add_udp(bound.detach(), target.getsockname()[:2], transparent=True)
    client = lab.socket_in(lab.world, socket.SOCK_DGRAM, world)
    client.sendto(b"ping", (at, host_port))
    payload, name = target.recvfrom(64)
    assert payload == b"ping"
    assert name[:2] == client.getsockname()[:2]
    target.sendto(b"pong", name)
    payload, name = client.recvfrom(64)
    assert (payload, name[0], name[1]) == (b"pong", at, host_port)
    assert lab.dials(rule) == (1, 0)
