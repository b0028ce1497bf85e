"""What a guest, or somebody outside, may not take from another guest."""

from __future__ import annotations

import pytest

from arcbox_net import NatEngine, NatEngineConfig
from arcbox_net.dataplane.verdict import Direction, Verdict
from arcbox_net.errors import ConfigError
from tests.support.frames import fragments, icmp, udp
from tests.support.nat import E2, E3, EXTERNAL, A, B, Nat

FLOWS = 8
FORWARDED_PORT, INSIDE_PORT = 8080, 40_000
ETHERNET_BYTES = 14


def open_from_outside(nat: Nat, number: int) -> Verdict:
    return nat.inbound(udp((E2, 1000 + number), (EXTERNAL, FORWARDED_PORT)))


def open_from_a_neighbour(nat: Nat, number: int) -> Verdict:
    return nat.outbound(udp((B, 1000 + number), (EXTERNAL, FORWARDED_PORT)))


@pytest.mark.parametrize(
    ("opener", "most"), [(open_from_outside, FLOWS // 2), (open_from_a_neighbour, FLOWS)]
)
def test_n24_flows_that_others_open_to_a_guest_take_none_of_its_own(opener, most):
    nat = Nat(flows_per_guest=FLOWS)
    nat.engine.add_forward("udp", FORWARDED_PORT, A)
    opened = [opener(nat, number) for number in range(most + 1)]
    assert Verdict.DROP_GUEST_FLOWS not in opened[:-1]
    assert opened[-1] == Verdict.DROP_GUEST_FLOWS
    for number in range(FLOWS):
        nat.sent(udp((A, 5000 + number), (E2, 53)))
    assert nat.outbound(udp((A, 6000), (E2, 53))) == Verdict.DROP_GUEST_FLOWS


def test_n24_a_guest_pays_itself_for_what_it_opens_to_another():
    nat = Nat(flows_per_guest=FLOWS)
    nat.engine.add_forward("udp", FORWARDED_PORT, A)
    for number in range(FLOWS):
        assert open_from_a_neighbour(nat, number) == Verdict.VERDICT_HAIRPIN
    assert nat.outbound(udp((B, 6000), (E2, 53))) == Verdict.DROP_GUEST_FLOWS
    for number in range(FLOWS // 2):  # who comes from outside finds as much room as ever
        assert open_from_outside(nat, number) == Verdict.VERDICT_FORWARD
    nat.engine.flush()
    assert nat.outbound(udp((B, 6000), (E2, 53))) == Verdict.VERDICT_FORWARD


def test_n24_room_for_flows_from_outside_comes_back_as_they_end():
    nat = Nat(flows_per_guest=FLOWS)
    nat.engine.add_forward("udp", FORWARDED_PORT, A)
    for _ in range(3):
        for number in range(FLOWS // 2):
            assert open_from_outside(nat, number) == Verdict.VERDICT_FORWARD
        nat.engine.flush(guest=A)
    assert nat.engine.stats()["flows"] == 0


def test_n24_fragments_of_one_guest_leave_room_for_what_others_send_in_the_same_burst():
    nat = Nat()
    last = []
    for number in range(12):
        parts = fragments(
            udp((A, 4000), (E2, 53), bytes(60_000)), range(1480, 60_000, 1480), identification=number
        )
        for part in parts[:-1]:
            assert nat.outbound(part) == Verdict.VERDICT_HELD
        last.append(parts[-1])
    first, second = fragments(udp((B, 4000), (E2, 53), bytes(2000)), [1480], identification=1)
    burst = [*last, first, second, udp((B, 4000), (E2, 53), ttl=1)]
    verdicts = nat.engine.translate(burst, Direction.OUTBOUND, nat.now)
    assert verdicts[0] == Verdict.VERDICT_FRAGMENTED
    assert verdicts[11] == Verdict.DROP_TOO_BIG
    assert verdicts[13] == Verdict.VERDICT_FRAGMENTED
    assert [one.direction for one in nat.engine.emitted()].count(Direction.INBOUND) == 1
    assert nat.engine.translate([last[11]], Direction.OUTBOUND, nat.now)[0] == Verdict.VERDICT_HELD


def test_i3_a_guest_reports_no_errors_about_what_others_were_sent():
    nat = Nat()
    external = nat.external(udp((B, INSIDE_PORT), (E2, 443)))
    question = udp((E2, 443), external, b"question")
    nat.received(question)
    assert nat.outbound(icmp(A, E2, 3, 4, 68, bytes(question))) == Verdict.DROP_BAD_ICMP
    assert nat.outbound(icmp(B, E2, 3, 3, 0, bytes(question))) == Verdict.VERDICT_FORWARD


def told(nat: Nat, guest: str) -> int:
    """How many of a hundred packets that go nowhere the guest hears of."""
    for number in range(100):
        nat.outbound(udp((guest, 4000 + number), (E2, 53), ttl=1))
    return len(nat.answers())


def test_i7_guests_whose_addresses_are_alike_do_not_share_a_limit():
    nat = Nat(inside="10.0.0.0/8")
    assert [told(nat, f"10.{number}.16.2") for number in range(8)] == [25] * 8


def test_i7_a_guest_with_many_addresses_is_one_guest():
    nat = Nat(l3_offset=ETHERNET_BYTES)
    ethernet = bytes.fromhex("02000000000102000000000a0800")
    frames = [
        bytearray(ethernet) + udp((f"192.168.64.{host}", 4000), (E2, 53), ttl=1) for host in range(2, 42)
    ]
    nat.engine.translate(frames, Direction.OUTBOUND, nat.now)
    assert len(nat.engine.emitted()) == 25


def test_n1_an_endpoint_keeps_its_mapping_when_a_forward_of_it_comes_and_goes():
    nat = Nat(preserve_ports=False)
    before = nat.external(udp((A, INSIDE_PORT), (E2, 53)))
    forward = nat.engine.add_forward("udp", FORWARDED_PORT, A, INSIDE_PORT)
    assert nat.external(udp((A, INSIDE_PORT), (E3, 53))).number == FORWARDED_PORT
    nat.engine.remove_forward(forward)
    assert nat.external(udp((A, INSIDE_PORT), (E3, 54))) == before


def test_n1_an_endpoint_with_two_forwards_keeps_the_one_that_stays():
    nat = Nat(preserve_ports=False)
    first = nat.engine.add_forward("udp", FORWARDED_PORT, A, INSIDE_PORT, port_count=2)
    nat.engine.add_forward("udp", FORWARDED_PORT + 10, A, INSIDE_PORT, port_count=2)
    assert nat.external(udp((A, INSIDE_PORT + 1), (E2, 53))).number == FORWARDED_PORT + 1
    nat.engine.remove_forward(first)
    for number in range(2):
        left_from = nat.external(udp((A, INSIDE_PORT + number), (E3, 53)))
        assert left_from.number == FORWARDED_PORT + 10 + number


def test_a_network_does_not_move_away_from_under_a_forward():
    nat = Nat()
    nat.engine.add_forward("udp", FORWARDED_PORT, A)
    elsewhere = NatEngineConfig(EXTERNAL, l3_offset=0, seed=bytes(range(32)), inside="10.0.0.0/24")
    with pytest.raises(
        ConfigError, match=f"8080 is forwarded to {A}, which is not in 10.0.0.0/24"
    ) as refused:
        nat.engine.reconfigure(elsewhere)
    assert refused.value.field == "inside"
    assert nat.inbound(udp((E2, 1), (EXTERNAL, FORWARDED_PORT))) == Verdict.VERDICT_FORWARD


def test_filtering_by_address_does_not_begin_with_flows_whose_contacts_nobody_noted():
    def config(filtering: str) -> NatEngineConfig:
        return NatEngineConfig(EXTERNAL, l3_offset=0, filtering=filtering, seed=bytes(32))

    engine = NatEngine(config("endpoint-independent"))
    engine.translate([udp((A, INSIDE_PORT), (E2, 53))], Direction.OUTBOUND, 1.0)
    with pytest.raises(ConfigError, match="1 flows") as refused:
        engine.reconfigure(config("address-dependent"))
    assert refused.value.field == "filtering"
    engine.flush()
    engine.reconfigure(config("address-dependent"))
    for name in ("endpoint-independent", "address-dependent"):  # noted from now on, whether asked for or not
        engine.translate([udp((A, INSIDE_PORT), (E2, 53))], Direction.OUTBOUND, 2.0)
        engine.reconfigure(config(name))
