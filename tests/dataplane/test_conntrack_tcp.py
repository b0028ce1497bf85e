"""What TCP segments do to their flow's state and life: RFC 5382 REQ-2 and 5, 5961, 7857 sections 2 and 8."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane.verdict import Verdict
from tests.support.conntrack import ACK, FIN, RST, SYN, WRAP, Connection, ways

PSH = 8
FORWARD, DROP = Verdict.VERDICT_FORWARD, Verdict.DROP_TCP_STATE
AROUND_WRAP = [1000, WRAP - 1, WRAP - 2, WRAP - 500, (1 << 31) - 1]


def connection(isn: tuple[int, int] = (1000, 5000), **timeouts: int) -> Connection:
    """One that is about to begin, in a table whose states have timeouts that tell them apart."""
    seconds = {"opening": 241, "established": 7441, "closing": 242, "reset": 243} | timeouts
    return Connection(Table(4, **seconds), isn)  # type: ignore[arg-type]


@pytest.mark.parametrize("isn", AROUND_WRAP)
def test_n16_a_handshake_establishes_wherever_the_sequence_numbers_begin(isn: int) -> None:
    tcp = connection((isn, isn))
    for sender, flags, state in (
        (tcp.client, SYN, "opening"),
        (tcp.server, SYN | ACK, "opening"),
        (tcp.client, ACK, "established"),
    ):
        assert tcp.send(sender, flags) == FORWARD
        assert tcp.state == state


@pytest.mark.parametrize("isn", AROUND_WRAP)
def test_n16_a_simultaneous_open_establishes(isn: int) -> None:
    tcp = connection((isn, isn))
    client, server = tcp.client, tcp.server
    tcp.send(client, SYN)
    tcp.send(server, SYN)
    tcp.send(client, SYN | ACK, seq=isn, ack=server.seq)
    assert tcp.state == "opening"
    tcp.send(server, SYN | ACK, seq=isn, ack=client.seq)
    assert tcp.state == "established"


def test_n16_data_in_a_syn_and_its_partial_acknowledgment_are_legal() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN, 500)
    tcp.send(tcp.server, SYN | ACK, ack=1001)
    tcp.send(tcp.client, ACK, ack=5001)
    assert tcp.state == "established"


def test_n16_a_syn_that_is_sent_again_changes_nothing() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    tcp.send(tcp.client, SYN, seq=1000)
    tcp.send(tcp.server, SYN | ACK)
    tcp.send(tcp.client, SYN, seq=1000)
    tcp.send(tcp.server, SYN | ACK, seq=5000)
    tcp.send(tcp.client, ACK)
    assert tcp.state == "established"


@pytest.mark.parametrize("first", ["client", "server"])
def test_n16_half_of_a_connection_may_stay_open(first: str) -> None:
    tcp = connection().establish()
    closer, stayer = (tcp.client, tcp.server) if first == "client" else (tcp.server, tcp.client)
    tcp.send(closer, FIN | ACK)
    tcp.send(stayer, ACK)
    assert tcp.state == "half closed"
    tcp.now = 7000
    tcp.send(stayer, ACK | PSH, 100)
    assert tcp.table.expires(tcp.flow) == 7000 + 7442
    tcp.send(stayer, FIN | ACK)
    assert tcp.state == "closing"
    assert tcp.lives_until() == 7000 + 242


def test_n16_both_ends_may_close_at_once() -> None:
    tcp = connection().establish()
    client, server = tcp.client, tcp.server
    tcp.send(client, FIN | ACK, 10, seq=client.seq, ack=client.ack)
    tcp.send(server, FIN | ACK, 10, seq=server.seq, ack=server.ack)
    assert tcp.state == "closing"


@pytest.mark.parametrize("isn", AROUND_WRAP)
@pytest.mark.parametrize("from_server", [False, True])
def test_n16_a_syn_with_a_higher_sequence_number_reuses_a_closed_connection(
    isn: int, from_server: bool
) -> None:
    tcp = connection((isn, isn)).establish()
    tcp.finish()
    old, new = (tcp.server, tcp.client) if from_server else (tcp.client, tcp.server)
    for behind in (1, 1000):
        tcp.send(old, SYN, seq=old.seq - behind)
        assert tcp.state == "closing"
    tcp.now = 100
    old.seq += 64000
    tcp.send(old, SYN)
    assert tcp.state == "opening"
    new.seq += 100_000
    tcp.send(new, SYN | ACK)
    tcp.send(old, ACK)
    assert tcp.state == "established"


def test_n16_a_syn_may_follow_a_rst_at_once() -> None:
    tcp = connection().establish()
    tcp.send(tcp.client, RST)
    tcp.client.seq -= 900  # whatever its number
    tcp.send(tcp.client, SYN)
    assert tcp.state == "opening"
    tcp.send(tcp.server, SYN | ACK)
    tcp.send(tcp.client, ACK)
    assert tcp.state == "established"


def test_n18_each_state_has_its_timeout() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    assert tcp.table.expires(tcp.flow) == 242
    tcp.send(tcp.server, SYN | ACK)
    assert tcp.table.expires(tcp.flow) == 242
    tcp.send(tcp.client, ACK)
    assert tcp.table.expires(tcp.flow) == 7442
    tcp.finish()
    assert tcp.table.expires(tcp.flow) == 243


@pytest.mark.parametrize("sender", ["client", "server"])
def test_n18_data_of_either_way_keeps_a_connection_alive(sender: str) -> None:
    tcp = connection().establish()
    tcp.now = 5000
    tcp.send(tcp.client if sender == "client" else tcp.server, ACK, 10)
    assert tcp.table.expire(12_441) == 0
    assert tcp.table.expire(12_442) == 1


def test_n18_a_connection_that_closes_after_hours_does_not_keep_its_long_timer() -> None:
    tcp = connection().establish()
    tcp.table.expire(300)  # armed for the established state now
    tcp.now = 400
    tcp.finish()
    assert tcp.lives_until() == 642


def test_n18_what_is_outside_the_handshake_does_not_establish() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    for ack in (0, 1000, 1002, 999, (1 << 31) + 1000):
        tcp.send(tcp.server, SYN | ACK, seq=5000, ack=ack)
        tcp.send(tcp.server, ACK, seq=5001, ack=ack)
    tcp.send(tcp.client, ACK, seq=1001, ack=5001)
    assert tcp.state == "opening"
    assert tcp.table.window(tcp.server.half) == (1000, 1001)


def test_a_syn_in_an_established_connection_moves_and_refreshes_nothing() -> None:
    tcp = connection().establish()
    tcp.now = 100
    assert tcp.send(tcp.server, SYN, seq=9) == FORWARD
    assert tcp.send(tcp.client, SYN | ACK, seq=9, ack=9) == FORWARD
    assert tcp.state == "established"
    assert tcp.table.expires(tcp.flow) == 7442


@pytest.mark.parametrize("isn", AROUND_WRAP)
@pytest.mark.parametrize("offset", [0, 1, 999, 1000])
def test_n19_a_rst_within_the_window_leaves_the_flow_for_240_seconds(isn: int, offset: int) -> None:
    tcp = connection((isn, isn), reset=240).establish()
    tcp.now = 50
    assert tcp.send(tcp.server, RST, seq=tcp.server.seq + offset) == FORWARD
    assert tcp.state == "reset"
    assert tcp.lives_until() == 290


@pytest.mark.parametrize("isn", AROUND_WRAP)
@pytest.mark.parametrize("offset", [-1, -5000, 1001, 1 << 31])
def test_n19_a_rst_outside_the_window_moves_nothing(isn: int, offset: int) -> None:
    tcp = connection((isn, isn)).establish()
    tcp.now = 50
    assert tcp.send(tcp.server, RST, seq=tcp.server.seq + offset) == DROP
    assert tcp.state == "established"
    assert tcp.table.expires(tcp.flow) == 7442


@pytest.mark.parametrize("isn", AROUND_WRAP)
@pytest.mark.parametrize("offset", [-1, -5000, 1003, 1 << 31])
def test_n19_an_ack_from_outside_beyond_what_was_offered_moves_and_refreshes_nothing(
    isn: int, offset: int
) -> None:
    tcp = connection((isn, isn)).establish()
    before, tcp.now = tcp.table.window(tcp.server.half), 50
    assert tcp.send(tcp.server, ACK, seq=tcp.server.seq, ack=tcp.server.ack + offset) == FORWARD
    assert tcp.table.window(tcp.server.half) == before
    assert tcp.table.expires(tcp.flow) == 7442


@pytest.mark.parametrize("isn", AROUND_WRAP)
@pytest.mark.parametrize("offset", [1, 1000, 1002])
def test_an_ack_from_outside_within_what_was_offered_moves_the_window(isn: int, offset: int) -> None:
    tcp = connection((isn, isn)).establish()
    first = tcp.table.window(tcp.server.half)[0]
    tcp.send(tcp.server, ACK, seq=tcp.server.seq, ack=tcp.server.ack + offset)
    assert tcp.table.window(tcp.server.half) == ((first + offset) % WRAP, (first + offset + 1000) % WRAP)


def test_a_window_once_offered_is_not_taken_back() -> None:
    tcp = connection().establish()
    tcp.send(tcp.server, ACK, seq=tcp.server.seq, ack=tcp.server.ack + 100, window=10)
    assert tcp.table.window(tcp.server.half) == (1101, 2001)


def test_a_guest_puts_right_a_window_that_was_lost_track_of() -> None:
    tcp = connection().establish()
    tcp.now = 50
    tcp.send(tcp.client, ACK, seq=tcp.client.seq, ack=tcp.client.ack + 90_000)
    assert tcp.table.window(tcp.client.half) == (95_001, 96_001)
    tcp.now = 60
    tcp.send(tcp.client, ACK, seq=tcp.client.seq, ack=tcp.client.ack)
    assert tcp.table.window(tcp.client.half) == (95_001, 96_001)
    assert tcp.lives_until() == 60 + 7441


def test_n19_a_window_is_scaled_when_both_have_offered_it() -> None:
    for scales, reach in (((7, 2), 1000 << 7), ((7, None), 1000), ((None, 2), 1000), ((20, 0), 1000 << 14)):
        tcp = Connection(Table(4), scales=scales).establish()
        assert tcp.send(tcp.server, RST, seq=tcp.server.seq + reach + 1) == DROP
        assert tcp.send(tcp.server, RST, seq=tcp.server.seq + reach) == FORWARD
        assert tcp.state == "reset"


def test_n19_the_window_of_a_syn_is_not_scaled() -> None:
    tcp = Connection(Table(4), scales=(2, 7))
    tcp.send(tcp.client, SYN)
    tcp.send(tcp.server, SYN | ACK, window=1000)
    assert tcp.table.window(tcp.server.half) == (1001, 2001)


def test_n19_a_refused_syn_is_told_by_what_its_rst_acknowledges() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    for flags, ack in ((RST, 1001), (RST | ACK, 1000), (RST | ACK, 1002), (RST | ACK, 0)):
        assert tcp.send(tcp.server, flags, seq=0, ack=ack) == FORWARD
        assert tcp.state == "opening"
    tcp.send(tcp.server, RST | ACK, seq=0, ack=1001)
    assert tcp.state == "reset"


def test_n19_a_guest_that_gives_up_its_syn_resets_the_flow() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    tcp.send(tcp.client, RST, seq=9_999_999)
    assert tcp.state == "opening"
    tcp.send(tcp.client, RST)
    assert tcp.state == "reset"


@pytest.mark.parametrize("offset", [-1, 1001])
def test_a_fin_outside_the_window_does_not_close(offset: int) -> None:
    tcp = connection().establish()
    assert tcp.send(tcp.server, FIN | ACK, seq=tcp.server.seq + offset) == FORWARD
    assert tcp.state == "established"


def test_a_fin_whose_data_was_partly_acknowledged_closes() -> None:
    tcp = connection().establish()
    first = tcp.server.seq
    tcp.send(tcp.server, ACK, 100)
    tcp.send(tcp.client, ACK)
    tcp.send(tcp.server, FIN | ACK, 150, seq=first)
    assert tcp.state == "half closed"


def test_half_open_ends_find_out_through_the_nat() -> None:
    """RFC 9293 3.5.1: the client has crashed and begins anew, the server still has the connection."""
    tcp = connection().establish()
    tcp.send(tcp.client, SYN, seq=700_000)
    tcp.send(tcp.server, ACK, seq=tcp.server.seq, ack=tcp.client.seq)  # RFC 5961 4: a challenge
    assert tcp.send(tcp.client, RST, seq=tcp.client.seq) == FORWARD
    assert tcp.state == "reset"
    tcp.client.seq = 700_000
    tcp.send(tcp.client, SYN)
    tcp.send(tcp.server, SYN | ACK)
    tcp.send(tcp.client, ACK)
    assert tcp.state == "established"


def test_n20_a_rst_that_answers_what_came_after_a_rst_does_not_refresh() -> None:
    tcp = connection(reset=240).establish()
    tcp.send(tcp.client, RST)
    for now in (100, 200):
        tcp.now = now
        assert tcp.send(tcp.server, ACK, 10) == FORWARD
        assert tcp.send(tcp.client, RST, seq=tcp.client.seq) == FORWARD
    assert tcp.lives_until() == 240


def test_n20_a_guest_that_did_not_believe_a_rst_keeps_its_connection() -> None:
    tcp = connection(reset=240).establish()
    tcp.send(tcp.server, RST)
    tcp.now = 200
    tcp.send(tcp.client, ACK, 10)
    assert tcp.lives_until() == 440


def test_a_flow_that_is_closed_by_hand_leaves_no_state_to_the_next() -> None:
    tcp = connection().establish()
    tcp.table.close(tcp.flow)
    assert tcp.table.open(*ways(1, 6), 0) == tcp.flow
    assert tcp.state == "opening"
    assert tcp.table.window(tcp.client.half) == (0, 0)


def test_an_ack_of_a_way_that_sent_no_syn_is_of_another_connection() -> None:
    tcp = connection()
    tcp.send(tcp.client, SYN)
    tcp.now = 100
    assert tcp.send(tcp.server, ACK, seq=77, ack=1001) == FORWARD
    assert tcp.table.expires(tcp.flow) == 242
    tcp.send(tcp.server, RST | ACK, seq=0, ack=1001)
    assert tcp.state == "reset"
