"""What a front end may ask for, what the port is told then, and who owns each descriptor."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest

from arcbox_net.ports.vhost_user import messages
from arcbox_net.ports.vhost_user.features import FEATURES_OFFERED, PROTOCOL_FEATURES_OFFERED, Feature
from arcbox_net.ports.vhost_user.memory import REGIONS_MAX, Region
from arcbox_net.ports.vhost_user.messages import (
    NEED_REPLY,
    NO_DESCRIPTOR,
    VERSION,
    Message,
    ProtocolError,
    Request,
)
from arcbox_net.ports.vhost_user.port_messages import NO_FD, RING_ENABLED, RING_RESUMES, PortMessage
from arcbox_net.ports.vhost_user.steps import Command
from tests.fuzz.vhost_user import converse
from tests.support.vhost_user import (
    SLOT_BYTES,
    Conversation,
    addresses,
    inflight,
    number_in,
    one_region,
    region,
    state,
    table,
    u64,
)


@pytest.fixture
def talk() -> Iterator[Conversation]:
    talk = Conversation()
    yield talk
    talk.close()


def test_features_are_offered_and_acknowledged_ones_reach_the_port(talk: Conversation) -> None:
    assert number_in(talk.request(Request.GET_FEATURES)) == FEATURES_OFFERED
    wanted = Feature.VERSION_1 | Feature.MRG_RXBUF | Feature.PROTOCOL_FEATURES
    assert talk.request(Request.SET_FEATURES, u64(wanted)) is None
    assert talk.port.done == [(PortMessage.FEATURES, (Feature.VERSION_1 | Feature.MRG_RXBUF,))]


@pytest.mark.parametrize(
    ("request_", "offered"),
    [(Request.SET_FEATURES, FEATURES_OFFERED), (Request.SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES_OFFERED)],
)
def test_v34_bit_that_was_not_offered_is_refused(talk: Conversation, request_: int, offered: int) -> None:
    for bit in range(64):
        assert talk.refused(request_, u64(1 << bit)) == (not offered & 1 << bit)


def test_refusal_without_a_reply_ends_the_connection(talk: Conversation) -> None:
    with pytest.raises(ProtocolError, match="not offered"):
        talk.request(Request.SET_FEATURES, u64(1 << 63))


def test_numbers_are_answered(talk: Conversation) -> None:
    assert number_in(talk.request(Request.GET_PROTOCOL_FEATURES)) == PROTOCOL_FEATURES_OFFERED
    assert number_in(talk.request(Request.GET_QUEUE_NUM)) == 2
    assert number_in(talk.request(Request.GET_MAX_MEM_SLOTS)) == REGIONS_MAX
    talk.request(Request.SET_STATUS, u64(15))
    assert number_in(talk.request(Request.GET_STATUS)) == 15
    assert talk.refused(Request.SET_STATUS, u64(256))


@pytest.mark.parametrize(("mtu", "refused"), [(67, True), (68, False), (65535, False), (65536, True)])
def test_mtu_is_within_what_ip_has(talk: Conversation, mtu: int, refused: bool) -> None:
    assert talk.refused(Request.NET_SET_MTU, u64(mtu)) == refused


def test_v33_log_of_dirty_pages_is_neither_offered_nor_taken(talk: Conversation) -> None:
    log_all, set_log_base = 1 << 26, 6
    assert not number_in(talk.request(Request.GET_FEATURES)) & log_all
    assert talk.refused(Request.SET_FEATURES, u64(log_all))
    assert talk.refused(set_log_base, bytes(16), fds=1)
    assert talk.port.done == []


def test_v31_unknown_request_is_an_error_where_a_reply_is_wanted(talk: Conversation) -> None:
    assert talk.request(77, bytes(100), fds=8) is None
    assert talk.port.done == []


def test_ring_starts_when_all_of_it_is_known(talk: Conversation) -> None:
    talk.request(Request.SET_VRING_CALL, u64(1), fds=[7])
    talk.request(Request.SET_VRING_NUM, state(1, 256))
    talk.request(Request.SET_VRING_BASE, state(1, 5))
    talk.request(Request.SET_VRING_ENABLE, state(1, 1))
    talk.request(Request.SET_VRING_KICK, u64(1), fds=[8])
    assert talk.port.done == []
    talk.request(Request.SET_VRING_ADDR, addresses(1, 0x5000))
    start = (1, 256, 0x5000, 0x6000, 0x7000, 5, RING_ENABLED, 8, 7)
    assert talk.port.done == [(PortMessage.RING_START, start)]
    talk.issued += [7, 8]


def test_ring_without_descriptors_is_polled(talk: Conversation) -> None:
    talk.request(Request.SET_VRING_NUM, state(0, 2))
    talk.request(Request.SET_VRING_ADDR, addresses(0))
    talk.request(Request.SET_VRING_KICK, u64(NO_DESCRIPTOR))
    ((_, fields),) = talk.port.done
    assert fields[-2:] == (NO_FD, NO_FD)


def test_ring_that_the_port_refuses_keeps_its_descriptors_to_close(talk: Conversation) -> None:
    talk.port.answers[PortMessage.RING_START] = -errno.EFAULT
    with pytest.raises(ProtocolError, match="ring 0 is not in memory that is shared"):
        talk.start_ring()
    assert talk.port.owned == []


def test_running_ring_gets_new_descriptors_and_is_enabled(talk: Conversation) -> None:
    talk.start_ring()
    talk.request(Request.SET_VRING_CALL, u64(0), fds=1)
    talk.request(Request.SET_VRING_KICK, u64(0), fds=1)
    talk.request(Request.SET_VRING_CALL, u64(NO_DESCRIPTOR))
    talk.request(Request.SET_VRING_ENABLE, state(0, 1))
    assert talk.port.kinds() == [
        PortMessage.RING_START,
        PortMessage.RING_CALL,
        PortMessage.RING_KICK,
        PortMessage.RING_CALL,
        PortMessage.RING_ENABLE,
    ]
    assert talk.port.done[3][1] == (0, NO_FD)
    assert talk.port.done[4][1] == (0, 1)


@pytest.mark.parametrize("size", [0, 3, 65536, 0xFFFFFFFF])
def test_v22_ring_size_is_a_power_of_two_up_to_its_limit(talk: Conversation, size: int) -> None:
    assert talk.refused(Request.SET_VRING_NUM, state(0, size))
    assert not talk.refused(Request.SET_VRING_NUM, state(0, 32768))


def test_v22_running_ring_does_not_change(talk: Conversation) -> None:
    talk.start_ring()
    assert talk.refused(Request.SET_VRING_NUM, state(0, 512))
    assert talk.refused(Request.SET_VRING_BASE, state(0, 1))
    assert talk.refused(Request.SET_VRING_ADDR, addresses(0, 0x9000))
    assert talk.refused(Request.SET_FEATURES, u64(Feature.VERSION_1))
    assert not talk.refused(Request.SET_VRING_ADDR, addresses(0))  # the same, as QEMU may say again
    assert talk.port.kinds() == [PortMessage.RING_START]


def test_v24_ring_is_stopped_before_the_front_end_hears_of_it(talk: Conversation) -> None:
    talk.start_ring()
    talk.port.answers[PortMessage.RING_STOP] = 77
    answer = talk.request(Request.GET_VRING_BASE, state(0, 0))
    assert answer is not None
    assert answer.body[messages.HEADER.size :] == state(0, 77)
    assert talk.port.kinds()[-1] is PortMessage.RING_STOP
    # It starts again with new descriptors alone, where it was.
    talk.request(Request.SET_VRING_KICK, u64(0), fds=1)
    assert talk.port.done[-1][1][5] == 77


def test_v24_ring_that_never_ran_stops_without_the_port(talk: Conversation) -> None:
    talk.request(Request.SET_VRING_BASE, state(3, 9))
    answer = talk.request(Request.GET_VRING_BASE, state(3, 0))
    assert answer is not None and answer.body[messages.HEADER.size :] == state(3, 9)
    assert talk.port.done == []


@pytest.mark.parametrize("index", [4, 256, 0x10000, 0xFFFFFFFF])
def test_v25_ring_index_is_not_cut_short(talk: Conversation, index: int) -> None:
    for request in (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ENABLE):
        assert talk.refused(request, state(index, 1))
    assert talk.refused(Request.SET_VRING_ADDR, addresses(index))
    with pytest.raises(ProtocolError):
        talk.request(Request.GET_VRING_BASE, state(index, 0))


@pytest.mark.parametrize("number", [4, 255, 0x200, 1 << 32, (1 << 64) - 1])
def test_v25_ring_index_of_a_descriptor_is_one_of_ours(talk: Conversation, number: int) -> None:
    assert talk.refused(Request.SET_VRING_KICK, u64(number), fds=1)
    assert talk.refused(Request.SET_VRING_CALL, u64(number), fds=1)


@pytest.mark.parametrize(("number", "fds"), [(0, 0), (0, 2), (NO_DESCRIPTOR, 1)])
def test_v29_descriptor_is_there_if_the_message_says_so(talk: Conversation, number: int, fds: int) -> None:
    assert talk.refused(Request.SET_VRING_KICK, u64(number), fds=fds)
    assert talk.refused(Request.SET_VRING_CALL, u64(number), fds=fds)


def test_v29_descriptors_that_nobody_wants_are_closed(talk: Conversation) -> None:
    for request in (Request.SET_OWNER, Request.GET_FEATURES, Request.RESET_OWNER):
        talk.request(request, fds=8)
    talk.request(Request.SET_VRING_ERR, u64(0), fds=1)
    assert len(talk.port.closed) == 25


def test_v30_repeated_descriptors_replace_each_other(talk: Conversation) -> None:
    for _ in range(100):
        talk.request(Request.SET_VRING_CALL, u64(0), fds=1)
        talk.request(Request.SET_VRING_KICK, u64(0), fds=1)
    assert len(talk.port.closed) == 198


def test_without_protocol_features_rings_start_enabled(talk: Conversation) -> None:
    talk.request(Request.SET_FEATURES, u64(Feature.VERSION_1))
    talk.start_ring()
    assert talk.port.done[-1][1][6] == RING_ENABLED


def test_reset_of_the_owner_disables_rings(talk: Conversation) -> None:
    talk.start_ring()
    talk.request(Request.SET_VRING_ENABLE, state(0, 1))
    talk.request(Request.RESET_OWNER)
    assert talk.port.done[-1] == (PortMessage.RING_ENABLE, (0, 0))


def test_memory_table_is_staged_then_committed(talk: Conversation) -> None:
    talk.request(Request.SET_MEM_TABLE, table(region(0), region(1)), fds=2)
    kinds = [PortMessage.MEMORY_STAGE, PortMessage.MEMORY_STAGE, PortMessage.MEMORY_COMMIT]
    assert talk.port.kinds() == kinds
    assert talk.port.done[1][1] == (*region(1), talk.issued[1])


BAD_TABLES = [
    pytest.param(table(region(0), count=0), 1, id="count-0"),
    pytest.param(table(region(0), count=9), 1, id="count-9"),
    pytest.param(table(region(0), count=0xFFFFFFFF), 1, id="count-max"),
    pytest.param(table(region(0), region(1)), 1, id="a-descriptor-short"),
    pytest.param(table(region(0)), 2, id="a-descriptor-too-many"),
    pytest.param(table(region(0, size=0)), 1, id="size-0"),
    pytest.param(table(region(0, size=1 << 63), region(1)), 2, id="overlap"),
    pytest.param(table((0, 8192, 0, 0), (1 << 20, 8192, 4096, 0)), 2, id="overlap-in-user-addresses"),
    pytest.param(table((0, 8192, 0, 0), (4096, 8192, 1 << 20, 0)), 2, id="overlap-in-guest-addresses"),
    pytest.param(table((0, 4096, 0, (1 << 64) - 4095)), 1, id="offset-wraps"),
    pytest.param(table(((1 << 64) - 4095, 4096, 0, 0)), 1, id="guest-address-wraps"),
    pytest.param(table((0, 4096, (1 << 64) - 4095, 0)), 1, id="user-address-wraps"),
    pytest.param(table(region(0, offset=100)), 1, id="offset-in-a-page"),
]


@pytest.mark.parametrize(("payload", "fds"), BAD_TABLES)
def test_v26_bad_memory_table_reaches_no_port(talk: Conversation, payload: bytes, fds: int) -> None:
    assert talk.refused(Request.SET_MEM_TABLE, payload, fds=fds)
    assert talk.port.done == []


def test_v26_region_may_end_at_the_last_address(talk: Conversation) -> None:
    last = (1 << 64) - 4096
    assert not talk.refused(Request.SET_MEM_TABLE, table((last, 4096, last, last)), fds=1)


def test_v27_memory_that_the_port_refuses_leaves_the_old_table(talk: Conversation) -> None:
    talk.request(Request.ADD_MEM_REG, one_region(region(0)), fds=1)
    talk.port.answers[PortMessage.MEMORY_STAGE] = -errno.EPERM
    assert talk.refused(Request.SET_MEM_TABLE, table(region(1), region(2)), fds=2)
    assert talk.port.kinds()[1:] == [PortMessage.MEMORY_STAGE, PortMessage.MEMORY_DISCARD]
    assert talk.refused(Request.ADD_MEM_REG, one_region(region(0, size=SLOT_BYTES // 2)), fds=1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errno.EPERM, "can shrink under us; for QEMU: -object memory-backend-memfd,share=on"),
        (errno.EOPNOTSUPP, "without hugetlb=on"),
        (errno.EACCES, "may not be written by us"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_v28_front_end_is_told_what_its_memory_lacks(talk: Conversation, error: int, told: str) -> None:
    talk.port.answers[PortMessage.MEMORY_ADD] = -error
    with pytest.raises(ProtocolError, match=told):
        talk.request(Request.ADD_MEM_REG, one_region(region(0)), fds=1)


@pytest.mark.parametrize("request_kind", [Request.SET_VRING_KICK, Request.SET_VRING_CALL])
def test_kick_or_call_descriptor_that_is_no_eventfd_is_refused(
    talk: Conversation, request_kind: Request
) -> None:
    talk.other_files = set(talk.fds(1))
    message = Message(request_kind, VERSION | NEED_REPLY, u64(0), [*talk.other_files])
    assert number_in(talk.handle(message)) != 0
    assert talk.port.closed == [*talk.other_files]


def test_memory_slots_are_added_up_to_their_limit_and_removed(talk: Conversation) -> None:
    for number in range(REGIONS_MAX):
        assert not talk.refused(Request.ADD_MEM_REG, one_region(region(number)), fds=1)
    assert talk.refused(Request.ADD_MEM_REG, one_region(region(REGIONS_MAX)), fds=1)
    assert not talk.refused(Request.REM_MEM_REG, one_region(region(3)), fds=1)
    assert talk.port.done[-1] == (PortMessage.MEMORY_REMOVE, region(3)[:3])
    assert talk.refused(Request.REM_MEM_REG, one_region(region(3)))
    assert not talk.refused(Request.ADD_MEM_REG, one_region(region(REGIONS_MAX)), fds=1)


def test_files_of_memory_are_closed_once_the_port_has_let_go_of_it(talk: Conversation) -> None:
    """Whoever has a dead guest's memory last takes long to give it back: that is never the worker."""
    first, second, third = talk.fds(3)
    let_go = {PortMessage.MEMORY_COMMIT: first, PortMessage.MEMORY_REMOVE: second}
    act = talk.port.act

    def watched(command: Command) -> int:
        assert let_go.get(command.kind) not in talk.port.closed
        return act(command)

    talk.port.act = watched  # type: ignore[method-assign]
    talk.request(Request.ADD_MEM_REG, one_region(region(0)), fds=[first])
    talk.request(Request.SET_MEM_TABLE, table(region(1), region(2)), fds=[second, third])
    assert talk.port.closed == [first]
    talk.request(Request.REM_MEM_REG, one_region(region(1)))
    assert talk.port.closed == [first, second]
    talk.session.close()
    assert talk.port.closed == [first, second, third]


def test_v27_table_whose_memory_lacks_a_running_ring_is_the_ports_all_the_same(talk: Conversation) -> None:
    talk.request(Request.ADD_MEM_REG, one_region(region(0)), fds=1)
    talk.port.answers[PortMessage.MEMORY_COMMIT] = -errno.EFAULT
    assert talk.refused(Request.SET_MEM_TABLE, table(region(1)), fds=1)
    assert [*talk.session.memory.regions] == [Region(*region(1))]
    assert talk.port.closed == talk.issued[:1]


def test_memory_slot_added_for_each_pair_of_queues_is_mapped_once(talk: Conversation) -> None:
    for _ in range(2):
        assert not talk.refused(Request.ADD_MEM_REG, one_region(region(0)), fds=1)
    for _ in range(2):
        assert not talk.refused(Request.REM_MEM_REG, one_region(region(0)))
    assert talk.port.kinds() == [PortMessage.MEMORY_ADD, PortMessage.MEMORY_REMOVE]


@pytest.mark.parametrize("fds", [0, 2])
def test_v26_memory_slot_comes_with_one_descriptor(talk: Conversation, fds: int) -> None:
    assert talk.refused(Request.ADD_MEM_REG, one_region(region(0)), fds=fds)


def test_ring_resumes_at_the_used_index_once_the_front_end_kept_what_was_in_flight(
    talk: Conversation,
) -> None:
    answer = talk.request(Request.GET_INFLIGHT_FD, inflight(4, 256, 0))
    assert answer is not None and answer.fd is not None
    total, offset, queues, size = messages.INFLIGHT.unpack_from(answer.body, messages.HEADER.size)
    assert (offset, queues, size) == (0, 4, 256)
    assert talk.made == [total] and total >= 4 * 256 * 16
    talk.request(Request.SET_INFLIGHT_FD, inflight(4, 256, total), fds=1)
    talk.start_ring()
    assert talk.port.done[-1][1][6] == RING_RESUMES


@pytest.mark.parametrize(("queues", "size"), [(0, 256), (5, 256), (0xFFFF, 256), (4, 0), (4, 32769)])
def test_v25_inflight_for_rings_that_are_not_there_is_refused(
    talk: Conversation, queues: int, size: int
) -> None:
    assert talk.refused(Request.GET_INFLIGHT_FD, inflight(queues, size))
    assert talk.refused(Request.SET_INFLIGHT_FD, inflight(queues, size), fds=1)
    assert talk.made == []


def test_v25_inflight_memory_is_large_enough_and_there(talk: Conversation) -> None:
    assert talk.refused(Request.SET_INFLIGHT_FD, inflight(4, 256, 100), fds=1)
    assert talk.refused(Request.SET_INFLIGHT_FD, inflight(4, 256), fds=0)


def test_v29_any_messages_leave_the_books_of_descriptors_balanced() -> None:
    chance = random.Random(29)
    for _ in range(500):
        converse(chance.randbytes(chance.randrange(300)))
