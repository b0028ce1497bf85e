"""What guests of an ordinary user cannot reach: the host's services, metadata, the API. And who reaches a forward."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import answering
from tests.support import segments
from tests.support.netns import wait_until
from tests.support.peers import connect, exchange_udp, http_server, is_closed, refused, udp_echo
from tests.support.rootless import HOST6, METADATA, METADATA6, WORLD6, Rootless, RunningGuest
from tests.support.segments import SYN, Segment

GATEWAY = "192.168.64.1"
ALLOWED, LOOPBACK_ONLY, EVERYWHERE, EVERYWHERE6 = 8000, 8001, 8002, 8003
SECOND_ADDRESS, LATER_ADDRESS = "198.51.100.9", "198.51.100.10"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootless]:
    """A host with servers on its loopback and on all its addresses, of which guests may have one port."""
    with Rootless() as made, answering(made, tmp_path_factory.mktemp("world")):
        host = made.machine
        host.run(f"ip addr add {SECOND_ADDRESS}/32 dev lo")
        made.metadata()
        with (
            http_server(host, ALLOWED, "127.0.0.1"),
            http_server(host, LOOPBACK_ONLY, "127.0.0.1"),
            http_server(host, EVERYWHERE, "0.0.0.0"),
            http_server(host, EVERYWHERE6, "::"),
            udp_echo(host, LOOPBACK_ONLY, "127.0.0.1"),
            udp_echo(host, EVERYWHERE, "0.0.0.0"),
        ):
            made.up("--host-access", str(ALLOWED))
            yield made


@pytest.fixture(scope="module")
def guest(site: Rootless) -> RunningGuest:
    made = site.guest("web")
    made.ip6()
    wait_until(lambda: "default" in made.run("ip -6 route").stdout)
    return made


def fetched(guest: RunningGuest, address: str, l4_port: int) -> str:
    """What comes from where nothing should."""
    host = f"[{address}]" if ":" in address else address
    words = ["curl", "-gsS", "--max-time", "3", f"http://{host}:{l4_port}/bytes/8"]
    return guest.run(words, check=False).stdout


def test_h1_the_listed_port_of_the_hosts_loopback_is_reached_at_the_gateway(guest: RunningGuest) -> None:
    for host in (GATEWAY, "host.internal"):
        assert len(guest.run(f"curl -sS -m 30 http://{host}:{ALLOWED}/bytes/8").stdout) == 8


@pytest.mark.parametrize("l4_port", [LOOPBACK_ONLY, EVERYWHERE, EVERYWHERE6])
@pytest.mark.parametrize(
    "address",
    [
        *[GATEWAY, "192.168.64.255", "255.255.255.255", "127.0.0.1", "127.0.0.2", "0.0.0.0", "::1"],
        *["::ffff:127.0.0.1", "203.0.113.2", SECOND_ADDRESS, HOST6],
    ],
)
def test_h1_no_other_service_of_the_host_is_reached(guest: RunningGuest, address: str, l4_port: int) -> None:
    assert fetched(guest, address, l4_port) == ""


@pytest.mark.parametrize("address", [GATEWAY, "203.0.113.2", SECOND_ADDRESS, "192.168.64.255"])
@pytest.mark.parametrize("l4_port", [LOOPBACK_ONLY, EVERYWHERE])
def test_h1_no_datagram_reaches_the_host(
    site: Rootless, guest: RunningGuest, address: str, l4_port: int
) -> None:
    assert exchange_udp(guest, address, l4_port, b"hello", timeout=0.7) is None
    with udp_echo(site.world, l4_port):
        assert exchange_udp(guest, site.world_ip, l4_port, b"hello") is not None


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        pytest.param(None, "127.0.0.1", id="loopback"),
        pytest.param(None, "127.1.2.3", id="alias"),
        pytest.param(None, "0.0.0.0", id="any"),
        pytest.param(None, "203.0.113.2", id="host"),
        pytest.param("127.0.0.1", GATEWAY, id="from-loopback"),
        pytest.param("203.0.113.2", GATEWAY, id="from-host"),
        pytest.param("6", "::1", id="loopback6"),
        pytest.param("6", "::ffff:127.0.0.1", id="mapped"),
        pytest.param("6", "::127.0.0.1", id="compatible"),
        pytest.param("6", "::", id="any6"),
        pytest.param("6", HOST6, id="host6"),
    ],
)
def test_h1_nor_with_segments_that_a_guests_kernel_would_not_send(
    site: Rootless, guest: RunningGuest, src: str | None, dst: str
) -> None:
    mac = segments.gateway_mac(guest, GATEWAY)
    source = guest.ip if src is None else guest.ip6() if src == "6" else src
    with socket_in(site, LOOPBACK_ONLY + 100) as listener:
        syn = Segment(source, 42000, dst, LOOPBACK_ONLY + 100, SYN)
        answer = segments.exchange(
            guest, mac, syn, lambda got: got.dst_port == 42000 and got.flags & SYN != 0, timeout=0.7
        )
        assert answer is None
        with pytest.raises(BlockingIOError):
            listener.accept()


def socket_in(site: Rootless, l4_port: int) -> socket.socket:
    """A listener on every address of the host, of both families."""

    def made() -> socket.socket:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", l4_port))
        listener.listen(16)
        listener.setblocking(False)
        return listener

    return site.machine.call(made)


def test_h1_an_address_that_the_host_gets_later_is_its_own_too(site: Rootless, guest: RunningGuest) -> None:
    site.machine.run(f"ip addr add {LATER_ADDRESS}/32 dev lo")
    wait_until(lambda: is_closed(guest, LATER_ADDRESS, EVERYWHERE))
    assert exchange_udp(guest, LATER_ADDRESS, EVERYWHERE, b"hello", timeout=0.7) is None


@pytest.mark.parametrize("address", [*METADATA, *METADATA6])
def test_h2_metadata_addresses_are_not_reached(site: Rootless, guest: RunningGuest, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    asking = ["curl", "-gsS", "--max-time", "30", f"http://{host}/bytes/8"]
    assert len(site.machine.run(asking).stdout) == 8  # the host itself does
    assert fetched(guest, address, 80) == ""


def test_h3_the_api_has_no_address(site: Rootless, guest: RunningGuest) -> None:
    folder = site.user.runtime / "arcbox-net" / "dev"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("api.sock", "fd.sock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert (folder / name).stat().st_uid == site.user.uid
    pid = f"pid={site.network_pid()},"
    outside = site.machine.run("ss -Hltnp").stdout.splitlines()
    assert [line for line in outside if pid in line] == []
    assert [
        line for line in site.machine.run("ss -Hlxp").stdout.splitlines() if pid in line and " @" in line
    ] == []
    inside = site.inside("ss -Hltn").stdout.splitlines()
    l4_ports = {int(line.split()[3].rpartition(":")[2]) for line in inside}
    assert 53 in l4_ports
    connect(guest, GATEWAY, 53).close()
    assert all(is_closed(guest, GATEWAY, number) for number in l4_ports - {53})


def test_h4_a_forward_listens_on_loopback_unless_told_otherwise(site: Rootless, guest: RunningGuest) -> None:
    with http_server(guest, 80):
        for spec in ("8180:web:80", "0.0.0.0:8181:web:80", "[::]:8182:web:80"):
            site.user.cli("forward", "add", "dev", spec)
        listeners = site.machine.run("ss -Hltn").stdout
        for wanted in ("127.0.0.1:8180 ", "0.0.0.0:8181 ", "[::]:8182 "):
            assert wanted in listeners
        assert refused(site.world, site.host_ip, 8180) == "ECONNREFUSED"
        assert refused(site.world, site.host_ip, 8182) == "ECONNREFUSED"  # IPv6 only
        local = site.machine.run("curl -sS -m 30 http://127.0.0.1:8180/").stdout.strip()
        assert local == GATEWAY  # who called has no address that means it to the guest
        remote = site.world.run(f"curl -sS -m 30 http://{site.host_ip}:8181/").stdout.strip()
        assert remote == site.world_ip
        shown = {row["rule"]: row["client_address_preserved"] for row in site.user.cli_json("forward ls dev")}
        assert shown["0.0.0.0:8181:web:80/tcp"] is True
        for spec in list(shown):
            site.user.cli("forward", "rm", "dev", spec)


def test_h4_an_ipv6_client_is_seen_by_an_ipv6_guest(site: Rootless, guest: RunningGuest) -> None:
    spec = f"[::]:8183:[{guest.ip6()}]:80"
    with http_server(guest, 80, "::"):
        site.user.cli("forward", "add", "dev", spec)
        try:
            remote = site.world.run(f"curl -gsS -m 30 http://[{HOST6}]:8183/").stdout.strip()
        finally:
            site.user.cli("forward", "rm", "dev", spec)
        assert remote == WORLD6


def test_h5_a_neighbour_that_routes_to_the_subnet_reaches_nothing(
    site: Rootless, guest: RunningGuest
) -> None:
    site.machine.sysctl("net.ipv4.ip_forward", 1)
    site.machine.sysctl("net.ipv4.conf.all.route_localnet", 1)
    site.world.run(f"ip route add 192.168.64.0/24 via {site.host_ip}")
    try:
        with http_server(guest, 80):
            site.user.cli("forward", "add", "dev", "8184:web:80")
            assert len(site.machine.run("curl -sS -m 30 http://127.0.0.1:8184/bytes/8").stdout) == 8
            assert is_closed(site.world, guest.ip, 80)
            assert is_closed(site.world, GATEWAY, ALLOWED)
            assert is_closed(site.world, site.host_ip, 8184)
            site.user.cli("forward", "rm", "dev", "8184:web:80")
    finally:
        site.world.run("ip route del 192.168.64.0/24")
        site.machine.sysctl("net.ipv4.conf.all.route_localnet", 0)
        site.machine.sysctl("net.ipv4.ip_forward", 0)


def test_h6_a_udp_forward_that_moves_takes_its_clients_along(site: Rootless, guest: RunningGuest) -> None:
    other = site.guest("other")
    spec = "0.0.0.0:8185:{}:7000/udp"
    with udp_echo(guest, 7000), udp_echo(other, 7000), udp_client(site) as client:

        def asked(text: bytes) -> bytes | None:
            client.send(text)
            try:
                return client.recv(100)
            except OSError:
                return None

        site.user.cli("forward", "add", "dev", spec.format("web"))
        assert wait_until(lambda: asked(b"one")) is not None
        site.user.cli("forward", "rm", "dev", spec.format("web"))
        wait_until(lambda: asked(b"two") is None)
        site.user.cli("forward", "add", "dev", spec.format("other"))
        wait_until(lambda: asked(b"three"))
        flows = site.user.cli_json("show dev")["forwards"]
        assert [row["guest"] for row in flows] == ["other"]
        site.user.cli("forward", "rm", "dev", spec.format("other"))
    other.close()


def udp_client(site: Rootless) -> socket.socket:
    """A client in the world that keeps its port, as a conntrack entry would remember it."""

    def made() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(0.3)
        client.connect((site.host_ip, 8185))
        return client

    return site.world.call(made)


def test_h7_a_taken_port_is_an_error_without_a_trace(site: Rootless) -> None:
    before = site.user.cli_json("forward ls dev")
    done = site.user.cli("forward", "add", "dev", "8186:web:80", f"{LOOPBACK_ONLY}:web:80", check=False)
    assert done.returncode == 1
    assert str(LOOPBACK_ONLY) in done.stderr
    assert site.user.cli_json("forward ls dev") == before
    assert refused(site.machine, "127.0.0.1", 8186) == "ECONNREFUSED"


def test_h7_a_privileged_port_is_refused_with_the_setting(site: Rootless) -> None:
    site.machine.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    done = site.user.cli("forward", "add", "dev", "81:web:80", check=False)
    assert done.returncode == 1
    assert "ip_unprivileged_port_start" in done.stderr


def test_h8_a_large_range_is_made_whole_or_refused_whole(site: Rootless) -> None:
    spec = "0.0.0.0:20000-39999:web:20000-39999"
    done = site.user.cli("forward", "add", "dev", spec, check=False)
    listed = [row["rule"] for row in site.user.cli_json("forward ls dev")]
    if done.returncode == 0:
        assert listed == [f"{spec}/tcp"]
        assert refused(site.world, site.host_ip, 39_999) != "timeout"
        site.user.cli("forward", "rm", "dev", spec)
    else:
        assert "descriptor" in done.stderr or "open files" in done.stderr
        assert listed == []
    wait_until(lambda: ":20000 " not in site.machine.run("ss -Hltn").stdout)
