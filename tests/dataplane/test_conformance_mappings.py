"""External endpoints: who gets which, how long it is theirs, and what happens when there are no more."""

from __future__ import annotations

import collections
import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.frames import ACK, ICMP, SYN, Endpoint, echo, ends, tcp, udp
from tests.support.nat import E2, E3, FORWARDED, A, B, Nat

BUILD = {"udp": udp, "tcp": tcp}
FILLED = (0.0, 0.5, 0.99)


def guest(number: int) -> str:
    """The address of a guest, from 0 to 250."""
    return f"192.168.64.{number + 2}"


@pytest.mark.parametrize("protocol", ["udp", "tcp"], ids=["n1-udp", "n15-tcp"])
@pytest.mark.parametrize("holder", [False, True], ids=["free", "another-guest-has-the-number"])
def test_n1_n15_one_mapping_serves_every_destination(protocol, holder):
    nat, build = Nat(), BUILD[protocol]
    if holder:
        nat.sent(build((B, 50000), (E2, 5000)))
    found = {nat.external(build((A, 50000), peer)) for peer in ((E2, 5000), (E2, 5001), (E3, 5000))}
    assert len(found) == 1
    assert found != {nat.external(build((B, 50000), (E2, 5000)))}


def test_n2_a_guest_keeps_one_external_address():
    nat = Nat(external_ip=["203.0.113.1", "203.0.113.2"])
    for host in range(8):
        used = {
            nat.external(build((guest(host), 2000 + i), (E2, 80))).ip
            for i in range(125)
            for build in (udp, tcp)
        }
        used.add(nat.external(echo(guest(host), E2, 7)).ip)
        assert len(used) == 1, guest(host)


@given(
    opens=st.lists(
        st.tuples(st.sampled_from(["udp", "tcp"]), st.integers(0, 7), st.integers(1, 65535)), max_size=60
    )
)
def test_n3_no_external_port_is_two_endpoints(opens):
    nat = Nat(port_range=(1000, 1063), external_ip=["203.0.113.1", "203.0.113.2"])
    owners = {}
    for protocol, host, number in opens:
        packet = BUILD[protocol]((guest(host), number), (E2, 80))
        if nat.outbound(packet) in FORWARDED:
            external = ends(packet)[0]
            assert owners.setdefault((protocol, external), (host, number)) == (host, number)


@pytest.mark.parametrize("number, low, high", [(53, 1, 1023), (123, 1, 1023), (4000, 1024, 65535)])
def test_n3_the_class_of_a_port_is_kept(number, low, high):
    nat = Nat(port_range=(512, 65535))
    for host in range(20):
        assert low <= nat.external(udp((guest(host), number), (E2, 80))).number <= high


def test_n3_a_low_port_is_mapped_high_where_only_high_ones_are_permitted():
    assert nat_port(Nat(), 53) >= 49152


def nat_port(nat: Nat, number: int) -> int:
    return nat.external(udp((A, number), (E2, 80))).number


@given(number=st.integers(1, 65535), host=st.integers(0, 100))
def test_n4_parity_is_kept_when_it_is_asked_for(number, host):
    nat = Nat(port_parity=True, preserve_ports=False)
    assert nat.external(udp((guest(host), number), (E2, 80))).number % 2 == number % 2


def test_n4_parity_is_not_kept_when_nobody_asked():
    nat = Nat(preserve_ports=False)
    parities = {nat.external(udp((guest(i), 4000), (E2, 80))).number % 2 for i in range(64)}
    assert parities == {0, 1}


def filled(share: float) -> Nat:
    """An engine with that much of its table in use, as one that was restarted finds it after a while."""
    nat = Nat(conntrack_size=1000, filtering="endpoint-independent")
    opened = 0
    for host, i in itertools.product(range(10), range(100)):
        if opened >= 1000 * share - 16:
            break
        opened += nat.outbound(udp((guest(host + 10), 2000 + i), (E3, 9))) in FORWARDED
    return nat


def behaves(nat: Nat, number: int = 50_000) -> Endpoint:
    """N1, N2, N8 and N9 hold for an endpoint of A; its external one."""
    externals = {nat.external(udp((A, number), peer)) for peer in ((E2, 1), (E2, 2), (E3, 1))}
    assert len(externals) == 1
    (external,) = externals
    assert ends(nat.received(udp((E3, 99), external)))[1] == (A, number)
    assert nat.external(udp((A, number + 1), (E2, 1))).ip == external.ip
    assert ends(nat.sent(udp((B, 4000), external)))[1] == (A, number)
    return external


@pytest.mark.parametrize("share", FILLED)
def test_n11_behaviour_is_the_same_however_full_the_table_is(share):
    behaves(filled(share))


@pytest.mark.parametrize("share", FILLED)
def test_n11_a_reload_changes_nothing_for_those_who_have_flows_nor_for_new_ones(share):
    nat = filled(share)
    before = behaves(nat)
    nat.engine.reconfigure(nat.engine.config)
    assert behaves(nat) == before
    behaves(nat, 51_000)


@pytest.mark.parametrize("share", FILLED)
def test_n11_an_engine_that_begins_anew_behaves_as_before(share):
    nat = filled(share)
    before = behaves(nat)
    nat.engine.flush()
    assert behaves(nat) == before  # its port is on hold, for nobody else
    behaves(filled(share))


def test_n21_ports_are_spread_evenly_over_the_range():
    """Chi-squared over 10,000 allocations in 64 buckets: 63 degrees of freedom exceed 120 once in 40,000 runs."""
    nat = Nat(preserve_ports=False, port_range=(2048, 2048 + 16383), ports_per_guest=100)
    packets = [udp((guest(i // 50), 1024 + i), (E2, 9)) for i in range(10_000)]
    assert {nat.outbound(packet) for packet in packets} == {Verdict.VERDICT_FORWARD}
    given = [int.from_bytes(packet[20:22], "big") for packet in packets]
    counts = collections.Counter((number - 2048) // 256 for number in given)
    expected = len(given) / 64
    assert sum((counts[bucket] - expected) ** 2 / expected for bucket in range(64)) < 120


def test_n21_ports_form_no_progression():
    nat = Nat(preserve_ports=False)
    given = [nat.external(udp((A, 1024 + i), (E2, 9))).number for i in range(1000)]
    steps = collections.Counter(after - before for before, after in itertools.pairwise(given))
    assert steps.most_common(1)[0][1] < 10
    assert statistics.pstdev(given) > 3000


def test_n21_two_engines_choose_differently():
    first, second = (
        [nat_port(nat, 4000 + i) for i in range(8)]
        for nat in (Nat(preserve_ports=False, seed=None) for _ in range(2))
    )
    assert first != second


def test_n22_an_icmp_mapping_goes_with_its_last_session():
    nat = Nat()
    nat.sent(echo(A, E2, 77))
    nat.wait(30)
    nat.sent(echo(A, E3, 77))
    nat.wait(31)
    assert len(nat.mappings()) == 1
    nat.wait(30)
    assert nat.mappings() == []


def test_n23_an_icmp_identifier_maps_alike_for_every_host():
    nat = Nat()
    assert nat.sent(echo(A, E2, 77))[ICMP].id == nat.sent(echo(A, E3, 77))[ICMP].id


def test_n23_an_icmp_mapping_lives_for_sixty_seconds():
    nat = Nat()
    external = nat.external(echo(A, E2, 77))
    nat.wait(60)
    reply = nat.received(echo(E2, external.ip, external.number, kind=0))
    assert (reply.dst, reply[ICMP].id) == (A, 77)


@pytest.mark.parametrize(
    "limit, refused",
    [
        ({"ports_per_guest": 10}, Verdict.DROP_GUEST_PORTS),
        ({"flows_per_guest": 10}, Verdict.DROP_GUEST_FLOWS),
    ],
    ids=["ports", "flows"],
)
def test_n24_a_guest_at_its_cap_takes_nothing_from_others(limit, refused):
    nat = Nat(**limit)
    verdicts = [nat.outbound(udp((A, 2000 + i), (E2, 80))) for i in range(11)]
    assert verdicts == [Verdict.VERDICT_FORWARD] * 10 + [refused]
    assert [nat.outbound(udp((B, 2000 + i), (E2, 80))) for i in range(10)] == [Verdict.VERDICT_FORWARD] * 10
    assert nat.outbound(udp((A, 2000), (E2, 80))) == Verdict.VERDICT_FORWARD, "an existing flow"


def test_n25_destinations_on_the_list_are_not_translated():
    nat = Nat(untranslated=["10.0.0.0/8"])
    there = nat.sent(udp((A, 4000), ("10.1.2.3", 80), ttl=64))
    assert ends(there) == ((A, 4000), ("10.1.2.3", 80))
    assert there.ttl == 63
    back = nat.received(udp(("10.1.2.3", 80), (A, 4000)))
    assert ends(back)[1] == (A, 4000)
    assert nat.external(udp((A, 4000), (E2, 80))).ip == "203.0.113.1"


def test_n26_a_freed_port_is_held_for_its_old_owner():
    nat = Nat(port_range=(50000, 50000), ports_per_guest=10, udp_timeout_s=120)
    nat.sent(udp((A, 1000), (E2, 80)))
    nat.wait(121)
    assert nat.mappings() == []
    assert nat.outbound(udp((B, 1000), (E2, 80))) == Verdict.DROP_PORTS_EXHAUSTED
    nat.wait(119)
    assert nat.outbound(udp((B, 1000), (E2, 80))) == Verdict.DROP_PORTS_EXHAUSTED
    assert nat.external(udp((A, 1000), (E2, 80))).number == 50000


def test_n26_a_freed_port_is_anybodys_once_the_hold_is_over():
    nat = Nat(port_range=(50000, 50000), ports_per_guest=10, udp_timeout_s=120)
    nat.sent(udp((A, 1000), (E2, 80)))
    nat.wait(121)
    nat.wait(121)
    assert nat.external(udp((B, 1000), (E2, 80))).number == 50000


@pytest.mark.parametrize("policy, code", [("prohibited", 13), ("host-unreachable", 1)])
def test_n27_exhaustion_refuses_the_new_and_evicts_nobody(policy, code):
    nat = Nat(port_range=(50000, 50009), ports_per_guest=10, exhausted=policy)
    held = {i: nat.external(udp((A, 1000 + i), (E2, 80))) for i in range(10)}
    offending = udp((B, 1000), (E2, 80))
    quoted = bytes(offending)
    assert nat.outbound(offending) == Verdict.DROP_PORTS_EXHAUSTED
    (answer,) = nat.answers()
    assert (answer.dst, answer[ICMP].type, answer[ICMP].code) == (B, 3, code)
    assert bytes(answer[ICMP].payload)[:28] == quoted[:28]
    for i, external in held.items():
        assert ends(nat.received(udp((E2, 80), external)))[1] == (A, 1000 + i)
    assert nat.engine.stats()["ports_exhausted"] == 1


def test_n27_refusals_are_limited():
    nat = Nat(port_range=(50000, 50000), ports_per_guest=10)
    nat.sent(udp((A, 1000), (E2, 80)))
    for i in range(1000):
        nat.outbound(udp((B, 2000 + i), (E2, 80)))
    assert 1 <= len(nat.answers()) <= 100


def test_n27_a_full_flow_table_refuses_the_new_and_evicts_nobody():
    nat = Nat(conntrack_size=10)
    externals = [nat.external(udp((A, 1000 + i), (E2, 80))) for i in range(10)]
    assert nat.outbound(udp((B, 1000), (E2, 80))) == Verdict.DROP_FLOWS_FULL
    assert all(nat.inbound(udp((E2, 80), external)) == Verdict.VERDICT_FORWARD for external in externals)


def test_n29_ranges_need_not_be_contiguous_and_are_used_up():
    ranges = {"203.0.113.1": [(5000, 5031), (7000, 7031)], "203.0.113.9": [(6000, 6063)]}
    nat = Nat(external_ip=ranges, ports_per_guest=1000)
    given = set()
    for i in range(400):
        packet = udp((guest(i % 100), 2000 + i), (E2, 80))
        if nat.outbound(packet) in FORWARDED:
            given.add(ends(packet)[0])
    allowed = {
        (address, number)
        for address, spans in ranges.items()
        for low, high in spans
        for number in range(low, high + 1)
    }
    assert given <= allowed
    assert len(given) >= 0.95 * len(allowed)


def test_forwards_lead_from_the_external_port_to_the_guest():
    nat = Nat()
    nat.engine.add_forward("tcp", 8080, A, 80)
    assert ends(nat.received(tcp((E2, 4000), ("203.0.113.1", 8080), SYN)))[1] == (A, 80)
    answer = nat.sent(tcp((A, 80), (E2, 4000), SYN | ACK, seq=1, ack=1001))
    assert ends(answer)[0] == ("203.0.113.1", 8080)
    assert nat.verdict(tcp((E2, 4000), ("203.0.113.1", 8081), SYN), Direction.INBOUND) >= Verdict.DROP_FIRST
