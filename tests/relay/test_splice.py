"""The relay as a whole: rules come and go, shortages are survived, nothing is left behind, nothing spins."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from arcbox_net.relay.splice import COUNTERS, SpliceRelay
from tests.support.descriptors import no_descriptors, open_descriptors
from tests.support.relay import (
    TcpForward,
    is_reset,
    read_exactly,
    reset,
    udp_socket,
    wait_until,
)

MIB = 1 << 20


def _ping(client: socket.socket, served: socket.socket) -> None:
    client.sendall(b"p")
    assert served.recv(1) == b"p"
    served.sendall(b"q")
    assert client.recv(1) == b"q"


def _block(forward: TcpForward, source: socket.socket, blocked: int) -> None:
    """Send from *source* until the relay can move no more of it and *blocked* flows hold bytes."""
    source.setblocking(False)

    def stuck() -> bool:
        try:
            source.send(bytes(MIB))
        except BlockingIOError:
            return sum(flow["held"] > 0 for flow in forward.relay.flows()) == blocked
        return False

    wait_until(stuck, f"{blocked} flows are blocked")


def _resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _listeners(wanted: int) -> list[socket.socket]:
    """Numbers one after the other: asking for any free one gets slow when thousands are taken."""
    found: list[socket.socket] = []
    host_port = 20_000
    while len(found) < wanted:
        with contextlib.suppress(OSError):
            found.append(socket.create_server(("127.0.0.1", host_port)))
        host_port += 1
    return found


def test_g3_after_churn_descriptors_and_flows_are_back_at_the_start() -> None:
    with TcpForward() as forward:
        _ping(*forward.pair())
        for sock in forward._open[1:]:
            sock.close()
        forward.wait_for("active", 0)
        fds, resident = open_descriptors(), 0
        for round_ in range(40):
            for i in range(25):
                client, served = forward.pair()
                _ping(client, served)
                if i % 3:
                    client.close()
                    assert served.recv(1) == b""
                    served.close()
                else:
                    reset(client if i % 2 else served)
                    client.close()
                    served.close()
            forward.wait_for("active", 0)
            if round_ == 10:
                resident = _resident_kib()
        assert open_descriptors() <= fds
        assert _resident_kib() <= resident * 1.05
        assert forward.stat("accepted") == 1001


def test_pipes_of_bulk_transfers_are_reused_and_given_back() -> None:
    gc.collect()  # sockets of earlier tests
    before = open_descriptors()
    with TcpForward() as forward:
        for _ in range(10):
            client, served = forward.pair()
            threading.Thread(target=client.sendall, args=(bytes(4 * MIB),), daemon=True).start()
            read_exactly(served, 4 * MIB)
            client.close()
            served.close()
            forward.wait_for("active", 0)
        # epoll, eventfd, reserve, two listeners; three pipes at most
        assert open_descriptors() <= before + 5 + 2 * 3
    gc.collect()
    assert open_descriptors() == before


def test_t14_an_idle_flow_and_a_half_closed_flow_cost_no_wakeups() -> None:
    with TcpForward() as forward, TcpForward() as other:
        idle, half, blocked = forward.pair(), forward.pair(), forward.pair()
        _ping(*idle)
        half[0].shutdown(socket.SHUT_WR)
        assert half[1].recv(1) == b""
        _block(forward, blocked[0], 1)
        rounds = other.pair()
        _ping(*rounds)

        def sleeps() -> bool:
            before = forward.stat("wakeups")
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                _ping(*rounds)
            return forward.stat("wakeups") == before

        # Once the blocked flow has filled what there is to fill. A spinning thread wakes thousands of times in each.
        wait_until(sleeps, "nothing wakes the relay any more")


def test_t15_a_blocked_flow_goes_on_by_itself_when_the_reader_is_back() -> None:
    with TcpForward() as forward:
        for way in range(2):
            pair = forward.pair()
            source, sink = pair if way == 0 else pair[::-1]
            sender = threading.Thread(target=source.sendall, args=(bytes(24 * MIB),), daemon=True)
            sender.start()
            for _ in range(24):
                read_exactly(sink, MIB)  # every read lets a stopped writer start again
            sender.join()


def test_t31_a_slow_reader_does_not_grow_this_process() -> None:
    with TcpForward() as forward:
        pairs = [forward.pair() for _ in range(20)]
        for client, served in pairs:
            _ping(client, served)
        start = _resident_kib()
        for i, (client, _) in enumerate(pairs):
            _block(forward, client, i + 1)
        assert _resident_kib() - start < 4096


def test_t17_a_dial_without_an_answer_ends_with_a_reset() -> None:
    # A listener whose backlog is full does not answer SYNs: the nearest thing to a black hole on loopback.
    with socket.socket() as hole, TcpForward(connect_timeout_ms=200) as forward:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
            fillers.append(filler)
        assert select.select([hole], [], [], 30)[0]  # one waits to be accepted, and is all that may
        _, port = forward.add(hole.getsockname())
        assert forward.dial_is_reset(port)
        forward.wait_for("connect_timeout", 1)
        assert forward.stat("active") == 0
        for filler in fillers:
            filler.close()


def test_t17_a_silent_flow_is_reset_after_the_idle_timeout() -> None:
    with TcpForward(idle_timeout_s=1) as forward:
        client, served = forward.pair()
        _ping(client, served)
        assert is_reset(client)
        assert is_reset(served)
        forward.wait_for("idle_timeout", 1)


def test_an_idle_timeout_of_zero_means_never() -> None:
    with TcpForward(idle_timeout_s=0) as forward:
        _ping(*forward.pair())


def test_k5_without_descriptors_clients_are_reset_and_flows_live_on() -> None:
    with TcpForward() as forward:
        known = forward.pair()
        _ping(*known)
        late = [socket.socket() for _ in range(10)]
        with no_descriptors():
            wakeups = forward.stat("wakeups")
            for client in late:
                client.settimeout(30)
                with contextlib.suppress(ConnectionResetError):
                    client.connect((forward.host, forward.port))
                    assert is_reset(client)
            forward.wait_for("refused_fds", 10)
            _ping(*known)
            assert forward.stat("wakeups") - wakeups < 50
        for client in late:
            client.close()
        _ping(*forward.pair())


def test_k5_with_descriptors_for_one_side_only_the_client_is_reset() -> None:
    with TcpForward() as forward:
        with no_descriptors(spare=2):  # the client's own, and what the relay accepts
            assert forward.dial_is_reset()
        _ping(*forward.pair())
        forward.wait_for("refused_fds", 1)


def test_k5_without_descriptors_for_pipes_bulk_data_still_arrives_whole() -> None:
    with TcpForward() as forward:
        blocked = [
            forward.pair() for _ in range(3)
        ]  # each holds a pipe, one more than are ready from the start
        for i, (source, _) in enumerate(blocked, 1):
            _block(forward, source, i)
        client, served = forward.pair()
        payload = os.urandom(16 * MIB)
        with no_descriptors():
            sender = threading.Thread(target=client.sendall, args=(payload,), daemon=True)
            sender.start()
            assert read_exactly(served, len(payload)) == payload
            sender.join()


def test_flows_max_refuses_the_next_connection_and_keeps_the_others() -> None:
    with TcpForward(flows_max=3) as forward:
        pairs = [forward.pair() for _ in range(3)]
        assert forward.dial_is_reset()
        forward.wait_for("refused_limit", 1)
        for client, served in pairs:
            _ping(client, served)
        pairs[0][0].close()
        pairs[0][1].close()
        forward.wait_for("active", 2)
        _ping(*forward.pair())


def test_10000_listeners_are_added_in_one_call_and_removed_again() -> None:
    relay = SpliceRelay()
    relay.start()
    before = open_descriptors()
    listeners = _listeners(10_000)
    ports = [listener.getsockname()[1] for listener in listeners]
    with _listener() as target:
        where = target.getsockname()
        ids = relay.add_tcp_many([(listener.detach(), where) for listener in listeners])
        assert len(set(ids)) == 10_000
        for port in (ports[0], ports[5000], ports[-1]):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                served, _ = target.accept()
                served.settimeout(30)
                _ping(client, served)
                served.close()
        wait_until(lambda: relay.stats()["active"] == 0, "flows ended")
        relay.remove_many(ids)
    assert open_descriptors() <= before + 2  # one pipe is kept for the next flow
    assert relay.stats()["accepted"] == 3
    relay.stop()


def test_removing_a_rule_closes_its_listener_and_resets_its_flows_only() -> None:
    with TcpForward() as forward:
        rule, port = forward.add(forward.target_address)
        doomed = forward.dial(port)
        doomed_served = forward.accept()
        _ping(doomed, doomed_served)
        kept = forward.pair()
        forward.relay.remove(rule)
        assert is_reset(doomed)
        assert is_reset(doomed_served)
        with pytest.raises(ConnectionRefusedError):
            forward.dial(port)
        _ping(*kept)
        assert forward.stat("rules") == 1
        with pytest.raises(KeyError):
            forward.relay.remove(rule)


def test_counters_of_a_removed_rule_stay_in_the_total() -> None:
    with TcpForward() as forward:
        _ping(*forward.pair())
        wait_until(lambda: forward.relay.stats(forward.rule)["bytes_out"] == 1, "counted")
        forward.relay.remove(forward.rule)
        assert (forward.stat("bytes_in"), forward.stat("bytes_out"), forward.stat("active")) == (1, 1, 0)


def test_flows_describes_each_flow() -> None:
    with TcpForward() as forward:
        client, served = forward.pair()
        _ping(client, served)
        client.shutdown(socket.SHUT_WR)
        assert served.recv(1) == b""
        (flow,) = forward.relay.flows()
        assert flow["client"] == f"127.0.0.1:{client.getsockname()[1]}"
        assert (flow["rule"], flow["protocol"], flow["state"]) == (forward.rule, "tcp", "half-closed")
        assert (flow["bytes_in"], flow["bytes_out"], flow["held"]) == (1, 1, 0)


def test_rules_added_before_start_serve_after_it() -> None:
    relay = SpliceRelay()
    with _listener() as target, _listener() as listener:
        port = listener.getsockname()[1]
        relay.add_tcp(listener.detach(), target.getsockname())
        relay.start()
        relay.start()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            served, _ = target.accept()
            _ping(client, served)
            served.close()
    relay.stop()
    relay.stop()
    with pytest.raises(RuntimeError):
        relay.start()


def test_several_threads_share_every_listener() -> None:
    with TcpForward(threads=3) as forward:
        pairs = []
        for _ in range(60):
            pairs.append(forward.pair())
            _ping(*pairs[-1])
        assert len(forward.relay.flows()) == 60
        for client, served in pairs:
            client.close()
            served.close()
        forward.wait_for("active", 0)
        forward.relay.remove(forward.rule)
        assert forward.stat("accepted") == 60


def test_rules_come_and_go_while_others_carry_data() -> None:
    with TcpForward(threads=2) as forward:
        client, served = forward.pair()
        sender = threading.Thread(target=client.sendall, args=(bytes(200 * MIB),), daemon=True)
        sender.start()

        def churn() -> None:
            for _ in range(100):
                forward.relay.remove(forward.add(forward.target_address)[0])
                forward.relay.stats()
                forward.relay.flows()

        others = [threading.Thread(target=churn) for _ in range(2)]
        for other in others:
            other.start()
        read_exactly(served, 200 * MIB)
        for thread in (sender, *others):
            thread.join()


def test_stop_resets_every_flow_and_gives_all_descriptors_back() -> None:
    before = open_descriptors()
    with TcpForward() as forward:
        client, served = forward.pair()
        _ping(client, served)
        forward.relay.stop()
        assert is_reset(client)
        assert is_reset(served)
        assert forward.relay.flows() == []
        assert forward.stat("active") == 0
        assert forward.stat("wakeups") > 0
    assert open_descriptors() == before


def test_a_dial_to_a_closed_loopback_port_never_meets_itself() -> None:
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with TcpForward() as forward:
        with _listener() as gone:
            closed = gone.getsockname()
        assert low <= closed[1] <= high, "the target must be a port that a dial could get as its source"
        _, port = forward.add(closed)
        for _ in range(300):
            assert forward.dial_is_reset(port)
        forward.wait_for("connect_failed", 300)


def test_a_bulk_transfer_does_not_starve_its_neighbours() -> None:
    with TcpForward() as forward:
        bulk, small = forward.pair(), forward.pair()
        stop = threading.Event()

        def send() -> None:
            block = bytes(MIB)
            while not stop.is_set():
                bulk[0].sendall(block)
            bulk[0].shutdown(socket.SHUT_WR)

        def drain() -> None:
            while bulk[1].recv(MIB):
                pass

        threads = [threading.Thread(target=send), threading.Thread(target=drain)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            _ping(*small)
        stop.set()
        for thread in threads:
            thread.join()


def test_a_socket_that_a_child_still_holds_brings_no_event_of_a_flow_that_is_gone() -> None:
    with TcpForward() as forward:
        client, served = forward.pair()
        _ping(client, served)
        child = os.fork()
        if child == 0:  # a copy of every descriptor of the relay, as between fork and exec
            signal.pause()
            os._exit(0)
        try:
            client.shutdown(socket.SHUT_WR)
            served.shutdown(socket.SHUT_WR)
            forward.wait_for("active", 0)
            fresh = forward.pair()
            client.close()
            served.close()
            _ping(*fresh)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        _ping(*fresh)
        assert forward.stat("active") == 1


def test_a_program_that_forgets_to_stop_the_relay_still_ends() -> None:
    script = "from arcbox_net.relay.splice import SpliceRelay; r = SpliceRelay(); r.start()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


class TestBadArguments:
    """Every one leaves the relay as it was, and the descriptor with its owner."""

    @pytest.mark.parametrize(
        "options",
        [{"threads": 0}, {"threads": 17}, {"flows_max": 0}, {"connect_timeout_ms": 0}, {"udp_idle_s": -1}],
    )
    def test_options_out_of_range_are_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            SpliceRelay(**options)

    @pytest.mark.parametrize(
        "target", [("localhost", 80), ("127.0.0.1", 0), ("127.0.0.1", 65536), ("300.1.1.1", 1)], ids=str
    )
    def test_a_bad_target_is_refused(self, target: tuple[str, int]) -> None:
        relay = SpliceRelay()
        with _listener() as listener:
            with pytest.raises(ValueError):
                relay.add_tcp(listener.fileno(), target)
            assert listener.getsockname()
        assert relay.stats()["rules"] == 0

    def test_sockets_of_the_wrong_kind_are_refused(self) -> None:
        relay = SpliceRelay()
        with socket.socket() as idle, udp_socket("127.0.0.1") as udp, _listener() as listener:
            with pytest.raises(ValueError, match="does not listen"):
                relay.add_tcp(idle.fileno(), ("127.0.0.1", 1))
            with pytest.raises(ValueError, match="not a TCP"):
                relay.add_tcp(udp.fileno(), ("127.0.0.1", 1))
            with pytest.raises(ValueError, match="not a UDP"):
                relay.add_udp(listener.fileno(), ("127.0.0.1", 1))

    def test_a_closed_descriptor_is_an_os_error(self) -> None:
        with pytest.raises(OSError):
            SpliceRelay().add_tcp(999_999, ("127.0.0.1", 1))

    def test_one_bad_forward_of_many_adds_none(self) -> None:
        relay = SpliceRelay()
        with _listener() as good, socket.socket() as bad:
            with pytest.raises(ValueError):
                relay.add_tcp_many([(good.fileno(), ("127.0.0.1", 1)), (bad.fileno(), ("127.0.0.1", 1))])
            with pytest.raises(ValueError, match="twice"):
                relay.add_tcp_many([(good.fileno(), ("127.0.0.1", 1))] * 2)
        assert relay.stats()["rules"] == 0

    def test_a_forward_to_itself_is_refused(self) -> None:
        with _listener() as listener, pytest.raises(ValueError, match="itself"):
            SpliceRelay().add_tcp(listener.fileno(), listener.getsockname())

    def test_unknown_rules_have_no_counters(self) -> None:
        with pytest.raises(KeyError):
            SpliceRelay().stats(1)


def test_the_counters_are_all_there() -> None:
    assert set(SpliceRelay().stats()) == {*COUNTERS, "wakeups", "rules"}


def test_relay_that_cannot_enter_the_namespace_does_not_start() -> None:
    with open("/dev/null", "rb") as nothing:
        relay = SpliceRelay(threads=3, netns_fd=nothing.fileno())
        with pytest.raises(OSError, match="enter the network namespace") as raised:
            relay.start()
        assert raised.value.errno == errno.EINVAL
        relay.stop()


def test_guest_subnets_have_a_limit() -> None:
    subnets = [f"10.{i}.0.0/16" for i in range(5)]
    SpliceRelay(guest_subnets=subnets[:4])
    with pytest.raises(ValueError, match="5 guest subnets: expected 4 or less"):
        SpliceRelay(guest_subnets=subnets)
