"""TCP of an ordinary user's guests: what reaches a peer, and what a guest is told, as if nothing were in between."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import answering
from tests.support import segments
from tests.support.machine import resident_bytes
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.peers import body_of, connect, drain_server, iperf3_server, listening, refused
from tests.support.rootless import WORLD6, Rootless, RunningGuest
from tests.support.segments import ACK, RST, SYN, Segment

GATEWAY = "192.168.64.1"
BLACKHOLE = "198.51.100.66"
UNREACHABLE_NET = "198.51.100.88"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootless]:
    with Rootless() as made, answering(made, tmp_path_factory.mktemp("world")):
        made.world.run(f"ip addr add {BLACKHOLE} dev lo")
        made.world.run(["nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }"])
        made.world.run(["nft", f"add rule ip t in ip daddr {BLACKHOLE} drop"])
        made.machine.run(f"ip route add unreachable {UNREACHABLE_NET}")
        made.up()
        yield made


@pytest.fixture(scope="module")
def guest(site: Rootless) -> RunningGuest:
    return site.guest("web")


@contextlib.contextmanager
def connected(site: Rootless, guest: RunningGuest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A guest's socket and the world's, connected to each other."""
    with listening(site.world, 9001) as listener, connect(guest, site.world_ip, 9001) as client:
        server, _ = listener.accept()
        server.settimeout(PATIENCE_S)
        with server:
            yield client, server


@pytest.mark.parametrize("address", ["4", "6"])
def test_t33_bytes_arrive_as_they_were_sent_both_ways(
    site: Rootless, guest: RunningGuest, address: str
) -> None:
    if address == "6":
        guest.ip6()
        wait_until(lambda: "default" in guest.run("ip -6 route").stdout)
    size = 100 << 20
    url = f"http://{site.world_ip if address == '4' else f'[{WORLD6}]'}"
    wanted = hashlib.sha256(body_of(size)).hexdigest()
    stall = "--speed-limit 1 --speed-time 30"
    down = guest.run(["sh", "-c", f"curl -gsS {stall} {url}/bytes/{size} | sha256sum"]).stdout
    assert down.split()[0] == wanted
    body = site.directory / "body"
    body.write_bytes(body_of(size))
    up = guest.run(["curl", "-gsS", *stall.split(), "--data-binary", f"@{body}", f"{url}/"]).stdout
    assert up == wanted


def test_t1_a_half_close_by_the_guest_leaves_the_answer_open(site: Rootless, guest: RunningGuest) -> None:
    body = site.directory / "half"
    body.write_bytes(body_of(10 << 20))
    with drain_server(site.world, 9002):
        got = guest.run(["sh", "-c", f"nc -N {site.world_ip} 9002 < {body} | head -c 64"]).stdout
    assert got == hashlib.sha256(body.read_bytes()).hexdigest()


def test_t1_a_half_close_by_the_peer_leaves_the_guests_side_open(site: Rootless, guest: RunningGuest) -> None:
    with connected(site, guest) as (client, server):
        server.sendall(b"last words")
        server.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"last words"
        assert client.recv(100) == b""
        for _ in range(10):
            client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := server.recv(65536):
            received += chunk
        assert len(received) == 10_000


def test_t2_a_reset_by_the_peer_resets_the_guest(site: Rootless, guest: RunningGuest) -> None:
    with connected(site, guest) as (client, server):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_t2_a_reset_by_the_guest_resets_the_peer(site: Rootless, guest: RunningGuest) -> None:
    with connected(site, guest) as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)


@pytest.mark.parametrize("address", ["4", "6"])
def test_t3_a_closed_port_is_refused(site: Rootless, guest: RunningGuest, address: str) -> None:
    if address == "6":
        guest.ip6()
        wait_until(lambda: "default" in guest.run("ip -6 route").stdout)
    target = site.world_ip if address == "4" else WORLD6
    assert refused(guest, target, 9, timeout=PATIENCE_S) == "ECONNREFUSED"


def test_t4_what_the_host_cannot_route_is_unreachable_for_the_guest(
    site: Rootless, guest: RunningGuest
) -> None:
    assert refused(guest, UNREACHABLE_NET, 80, timeout=PATIENCE_S) in ("EHOSTUNREACH", "ENETUNREACH")


def test_t4_a_host_that_nobody_answers_for_is_unreachable_for_the_guest(
    site: Rootless, guest: RunningGuest
) -> None:
    # On the uplink's own subnet, so that it is ARP that fails.
    neighbour = site.world_ip.rpartition(".")[0] + ".99"
    assert refused(guest, neighbour, 80, timeout=PATIENCE_S) == "EHOSTUNREACH"


def test_t5_a_blackholed_peer_gives_no_answer_before_the_guest_gives_up(
    site: Rootless, guest: RunningGuest
) -> None:
    mac = segments.gateway_mac(guest, GATEWAY)
    syn = Segment(guest.ip, 41001, BLACKHOLE, 80, SYN)
    answer = segments.exchange(
        guest, mac, syn, lambda got: (got.src, got.dst_port) == (BLACKHOLE, 41001), timeout=2.5
    )
    assert answer is None


def test_t6_a_retransmitted_syn_is_one_connection(site: Rootless, guest: RunningGuest) -> None:
    with listening(site.world, 9003) as listener, segments.by_hand(guest, 41002, GATEWAY) as mac:
        syn = Segment(guest.ip, 41002, site.world_ip, 9003, SYN)
        answered = lambda got: (got.src, got.dst_port) == (site.world_ip, 41002)  # noqa: E731
        first = segments.exchange(guest, mac, syn, answered)
        second = segments.exchange(guest, mac, syn, answered)
        assert first is not None and second is not None
        assert (first.flags, first.seq, first.ack) == (SYN | ACK, first.seq, syn.seq + 1)
        assert (second.seq, second.ack) == (first.seq, first.ack)
        server, _ = listener.accept()
        with server:
            listener.settimeout(0.5)
            with pytest.raises(TimeoutError):
                listener.accept()


@pytest.mark.parametrize("isn", [0, 0xFFFFFFF0, 0xFFFFFFFF])
def test_t10_t26_sequence_numbers_wrap_and_only_the_exact_reset_counts(
    site: Rootless, guest: RunningGuest, isn: int
) -> None:
    with listening(site.world, 9004) as listener, segments.by_hand(guest, 41006, GATEWAY) as mac:

        def said(flags: int, offset: int, answered: int) -> Segment | None:
            seq = (isn + offset) % 2**32
            segment = Segment(guest.ip, 41006, site.world_ip, 9004, flags, seq)
            wanted = lambda got: (got.dst_port, got.flags) == (41006, answered)  # noqa: E731
            return segments.exchange(guest, mac, segment, wanted)

        answer = said(SYN, 0, answered=SYN | ACK)
        assert answer is not None
        assert answer.ack == (isn + 1) % 2**32
        server, _ = listener.accept()
        with server:
            opened = Segment(guest.ip, 41006, site.world_ip, 9004, ACK, (isn + 1) % 2**32, answer.seq + 1)
            segments.send(guest, mac, opened)
            challenge = said(RST, 100, answered=ACK)
            assert challenge is not None
            assert challenge.ack == (isn + 1) % 2**32
            segments.send(guest, mac, dataclasses.replace(opened, flags=RST))
            server.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                server.recv(1)


def test_t27_initial_sequence_numbers_are_unlike(site: Rootless, guest: RunningGuest) -> None:
    seen = set()
    for l4_port in range(41010, 41014):
        with listening(site.world, 9005), segments.by_hand(guest, l4_port, GATEWAY) as mac:
            syn = Segment(guest.ip, l4_port, site.world_ip, 9005, SYN)
            answer = segments.exchange(guest, mac, syn, lambda got, own=l4_port: got.dst_port == own)
            assert answer is not None
            seen.add(answer.seq >> 8)  # and not one counter's
    assert len(seen) == 4


def test_t8_port_zero_is_dropped_and_harmless(site: Rootless, guest: RunningGuest) -> None:
    mac = segments.gateway_mac(guest, GATEWAY)
    segments.send(guest, mac, Segment(guest.ip, 41003, site.world_ip, 0, SYN))
    segments.send(guest, mac, Segment(guest.ip, 0, site.world_ip, 80, SYN))
    assert len(guest.run(f"curl -sS -m 30 http://{site.world_ip}/bytes/10").stdout) == 10


def test_t28_a_segment_of_no_connection_is_reset(site: Rootless, guest: RunningGuest) -> None:
    mac = segments.gateway_mac(guest, GATEWAY)
    stray = Segment(guest.ip, 41004, site.world_ip, 80, ACK, seq=5000, ack=7000)
    answer = segments.exchange(guest, mac, stray, lambda got: got.dst_port == 41004)
    assert answer is not None
    assert answer.flags & RST
    assert answer.seq == stray.ack


def test_t16_keepalives_of_a_guest_are_answered(site: Rootless, guest: RunningGuest) -> None:
    with connected(site, guest) as (client, server):
        before = keepalives_sent(guest)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)  # as many without an answer end it
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        wait_until(lambda: keepalives_sent(guest) >= before + 4)
        client.sendall(b"still here")
        assert server.recv(100) == b"still here"


def test_t16_both_sides_of_an_idle_flow_are_probed(site: Rootless, guest: RunningGuest) -> None:
    # A guest or a peer that vanished must not hold its flow forever.
    with connected(site, guest):

        def probed() -> list[int]:
            inside = site.inside(f"ss -Htno state established dst {guest.ip} and sport = 9001")
            outside = site.machine.run(f"ss -Htno state established dst {site.world_ip} and dport = 9001")
            return [sockets.stdout.count("timer:(keepalive,") for sockets in (inside, outside)]

        wait_until(lambda: probed() == [1, 1])


@pytest.mark.parametrize("every", [100, 20])
def test_t32_bytes_arrive_although_the_guests_link_loses_segments(
    site: Rootless, guest: RunningGuest, every: int
) -> None:
    size = 20 << 20
    body = site.directory / "lossy"
    body.write_bytes(body_of(size))
    losing = f"numgen inc mod {every} {every // 2} counter drop"
    guest.run(["nft", "add table ip loss"])
    for hook in ("input", "output"):
        guest.run(["nft", f"add chain ip loss {hook} {{ type filter hook {hook} priority 0; }}"])
        guest.run(["nft", f"add rule ip loss {hook} ip protocol tcp {losing}"])
    try:
        url = f"http://{site.world_ip}"
        # curl gives up when nothing moved for so long: a stall.
        curl = ["curl", "-sS", "--speed-limit", "1", "--speed-time", "30"]
        down = guest.run(["sh", "-c", f"{' '.join(curl)} {url}/bytes/{size} | sha256sum"]).stdout
        up = guest.run([*curl, "--data-binary", f"@{body}", f"{url}/"]).stdout
        rules = guest.run("nft list table ip loss").stdout
    finally:
        guest.run("nft delete table ip loss")
    assert down.split()[0] == up == hashlib.sha256(body_of(size)).hexdigest()
    lost = [int(count) for count in re.findall(r"packets (\d+)", rules)]
    assert len(lost) == 2 and all(lost), rules  # segments were lost both ways


def keepalives_sent(guest: RunningGuest) -> int:
    """By the kernel, for all of the guest's sockets."""
    names, values = (
        line.split()
        for line in guest.run("cat /proc/net/netstat").stdout.splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index("TCPKeepAlive")])


@pytest.mark.parametrize("slow", ["peer", "guest"])
def test_t31_a_reader_that_stops_stops_the_writer(site: Rootless, guest: RunningGuest, slow: str) -> None:
    rss = resident_bytes(site.network_pid())
    with connected(site, guest) as (client, server):
        writer, reader = (client, server) if slow == "peer" else (server, client)
        sent = sent_until_full(writer)
        assert sent < 64 << 20
        assert resident_bytes(site.network_pid()) - rss < 4 << 20
        writer.settimeout(PATIENCE_S)
        received = 0
        while received < sent:
            received += len(reader.recv(1 << 20))
        writer.sendall(b"end")
        assert reader.recv(3) == b"end"


def sent_until_full(writer: socket.socket) -> int:
    """How much *writer* took before it took nothing more for a second."""
    writer.setblocking(False)
    sent = 0
    while select.select([], [writer], [], 1.0)[1]:
        sent += writer.send(b"x" * 65536)
    return sent


@pytest.mark.parametrize("options", [[], ["-R"], ["-P", "4"], ["-6"]], ids=["up", "down", "four", "ipv6"])
def test_iperf3_runs_through_the_relay(site: Rootless, guest: RunningGuest, options: list[str]) -> None:
    target = WORLD6 if "-6" in options else site.world_ip
    if "-6" in options:
        guest.ip6()
        wait_until(lambda: "default" in guest.run("ip -6 route").stdout)
    with iperf3_server(site.world):
        done = guest.run(["iperf3", "-c", target, "-n", "4M", "-J", *options], check=False)
    report = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    assert report["end"]["sum_received"]["bytes"] > 0


def test_many_connections_one_after_the_other_leave_nothing(site: Rootless, guest: RunningGuest) -> None:
    pid = site.network_pid()
    guest.run(f"curl -sS -m 30 http://{site.world_ip}/")

    def descriptors() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(20):
        sockets = [connect(guest, site.world_ip, 80) for _ in range(20)]
        for each in sockets:
            each.close()
    wait_until(lambda: descriptors() <= before + 8, message="descriptors are given back")


def test_a_peer_that_refuses_is_not_an_accept_then_reset(site: Rootless, guest: RunningGuest) -> None:
    mac = segments.gateway_mac(guest, GATEWAY)
    syn = Segment(guest.ip, 41005, site.world_ip, 9, SYN)
    answer = segments.exchange(guest, mac, syn, lambda got: got.dst_port == 41005)
    assert answer is not None
    assert (answer.flags, answer.ack) == (RST | ACK, syn.seq + 1)
