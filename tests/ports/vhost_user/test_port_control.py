from __future__ import annotations

import errno
import os
import struct

import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.ports.vhost_user import port_messages
from arcbox_net.ports.vhost_user._testing import PAYLOAD_BYTES
from arcbox_net.ports.vhost_user.port import VhostUserPort
from arcbox_net.ports.vhost_user.port_messages import NO_FD, RING_ENABLED, RING_RESUMES, PortMessage
from tests.ports.vhost_user.guest import PLAIN, RAM_BYTES, RING_SIZE, USUAL, Guest, frame, guest
from tests.support.virtqueue import USER, Ram

PAIRS_MAX = 8


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def served(one: Guest) -> bool:
    """Whether frames of the guest's come in."""
    one.transmit(frame())
    return len(one.worker.receive()) == 1


@pytest.mark.parametrize("name", PAYLOAD_BYTES)
def test_payloads_have_the_same_size_in_c_and_python(name: str) -> None:
    assert getattr(port_messages, name).size == PAYLOAD_BYTES[name]


@pytest.mark.parametrize("pairs", [0, PAIRS_MAX + 1])
def test_number_of_pairs_has_limits(pairs: int) -> None:
    with pytest.raises(ConfigError):
        VhostUserPort(pairs=pairs)


def test_as_many_pairs_as_there_can_be() -> None:
    with guest(pairs=PAIRS_MAX) as one:
        assert one.worker.watches == PAIRS_MAX
        one.transmit(frame(), pair=PAIRS_MAX - 1)
        assert len(one.worker.receive()) == 1


@pytest.mark.parametrize("kind", [*PortMessage, 199, 212, 0xFFFF])
@pytest.mark.parametrize("size", [1, 7, 100, 464])
def test_message_of_the_wrong_size_is_refused(kind: int, size: int) -> None:
    with guest() as one:
        assert one.worker.message(kind, bytes(size)) == -errno.EINVAL
        assert served(one)


@pytest.mark.parametrize("size", [0, 3, 63, 32769, 65536, 1 << 31])
def test_v22_ring_size_that_cannot_be_is_refused(size: int) -> None:
    with guest(start=False) as one:
        one.map()
        before = fds()
        assert one.start(1, size=size) == -errno.EINVAL
        assert fds() == before
        assert one.stop(1) == -errno.EINVAL


@pytest.mark.parametrize("size", [1, 2, 32768])
def test_v22_smallest_and_largest_ring(size: int) -> None:
    with guest(start=False, size=size) as one:
        one.tell_features()
        one.map()
        assert one.start(1) == 0
        for number in range(3):
            one.transmit(frame(60, number))
            assert [body for _, body, _ in one.worker.receive()] == [frame(60, number)]


def test_v22_ring_that_runs_is_not_started_again() -> None:
    with guest() as one:
        assert one.start(1, size=RING_SIZE // 2) == -errno.EBUSY
        assert served(one)


@pytest.mark.parametrize(
    ("part", "address", "error"),
    [
        ("descriptors", USER + 0x10_0008, errno.EINVAL),
        ("available", USER + 0x10_0801, errno.EINVAL),
        ("used", USER + 0x10_0902, errno.EINVAL),
        ("descriptors", 0x10_0000, errno.EFAULT),
        ("descriptors", USER + 0x10_0000 + RAM_BYTES - 16 * RING_SIZE + 16, errno.EFAULT),
        ("available", USER + 0x10_0000 + RAM_BYTES - 4 - 2 * RING_SIZE + 2, errno.EFAULT),
        ("used", USER + 0x10_0000 + RAM_BYTES - 4 - 8 * RING_SIZE + 4, errno.EFAULT),
        ("used", (1 << 64) - 16, errno.EFAULT),
        ("used", USER + 0x10_0000, errno.EINVAL),
        ("available", USER + 0x10_0000 + 16 * RING_SIZE - 2, errno.EINVAL),
    ],
)
def test_v23_ring_that_lies_nowhere_or_on_itself_is_refused(part: str, address: int, error: int) -> None:
    with guest(start=False) as one:
        one.tell_features()
        one.map()
        fields = {"descriptors": USER + 0x10_0000, "available": USER + 0x10_4000, "used": USER + 0x10_8000}
        assert one.start(1, **fields | {part: address}) == -error
        assert one.start(1, **fields) == 0


def test_v23_ring_that_is_aligned_for_the_front_end_and_not_for_us_is_refused() -> None:
    with guest(start=False) as one:
        one.tell_features()
        region = one.ram.gpa, one.ram.size, one.ram.gpa + USER + 1, 0, one.ram.fd
        assert one.tell(PortMessage.MEMORY_ADD, port_messages.REGION.pack(*region)) == 0
        assert one.start(1) == -errno.EINVAL


def test_v24_ring_needs_memory_first() -> None:
    with guest(start=False) as one:
        assert one.start(1) == -errno.EFAULT
        assert one.map() == 0
        assert one.start(1) == 0


def test_v24_enable_before_start_is_remembered() -> None:
    with guest(start=False) as one:
        one.tell_features()
        one.map()
        assert one.enable(1) == 0
        assert not one.worker.is_up
        assert one.start(1, flags=0) == 0
        assert served(one)


@pytest.mark.parametrize("kind", [PortMessage.RING_CALL, PortMessage.RING_KICK, PortMessage.RING_STOP])
def test_v24_message_for_a_ring_that_does_not_run_is_refused(kind: PortMessage) -> None:
    with guest(start=False) as one:
        assert one.tell(kind, struct.pack("=Ii", 1, 0)) == -errno.EINVAL


def test_v24_kick_after_stop_wakes_nobody() -> None:
    with guest() as one:
        one.transmit(frame())
        assert one.stop(1) == 0
        os.eventfd_write(one.kicks[1], 1)
        assert not one.worker.kicked()
        assert one.worker.receive() == []


def test_transmit_ring_needs_something_to_be_kicked_by() -> None:
    with guest(start=False) as one:
        one.map()
        assert one.start(1, kick=False) == -errno.EINVAL
        assert one.start(0, kick=False) == 0


@pytest.mark.parametrize("index", [2, 16, 0xFFFF_FFFF, 0x1_0000])
def test_v25_index_of_no_ring_is_refused(index: int) -> None:
    with guest() as one:
        start = port_messages.RING_START.pack(index, 64, 0, 0, 0, 0, 0, NO_FD, NO_FD)
        assert one.tell(PortMessage.RING_START, start) == -errno.EINVAL
        assert one.tell(PortMessage.RING_ENABLE, port_messages.RING_NUMBER.pack(index, 1)) == -errno.EINVAL
        assert one.stop(index) == -errno.EINVAL


def test_stopped_ring_goes_on_where_it_was() -> None:
    with guest() as one:
        for number in range(5):
            one.transmit(frame(60, number))
        one.worker.receive(budget=3)
        assert one.stop(1) == 3
        assert one.worker.is_up, "the receive ring still runs"
        assert one.start(1, base=3) == 0
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, 3), frame(60, 4)]


def test_back_end_that_was_killed_is_followed_by_one_that_takes_up_where_the_used_ring_ends() -> None:
    with guest() as one:
        for number in range(5):
            one.transmit(frame(60, number))
        one.worker.receive(budget=2)
        one.worker.message(PortMessage.RESET)
        one.tell_features()
        one.map()
        assert one.start(1, base=99, flags=RING_ENABLED | RING_RESUMES) == 0
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, number) for number in (2, 3, 4)]
        assert one.stop(1) == 5


def test_features_do_not_change_while_a_ring_runs() -> None:
    with guest() as one:
        one.features = 0
        assert one.tell_features() == -errno.EBUSY
        one.features = USUAL
        assert one.tell_features() == 0


def test_v27_new_table_takes_the_place_of_the_old_and_rings_go_on() -> None:
    with guest() as one:
        assert served(one)
        assert one.map(kind=PortMessage.MEMORY_STAGE) == 0
        assert served(one)
        assert one.tell(PortMessage.MEMORY_COMMIT) == 0
        assert served(one)
        assert served(one)


def test_v27_ring_that_is_not_in_the_new_table_is_stopped() -> None:
    with guest() as one:
        other = Ram(1 << 16, gpa=0x900_0000)
        region = other.gpa, other.size, other.gpa + USER, 0, other.fd
        assert one.tell(PortMessage.MEMORY_STAGE, port_messages.REGION.pack(*region)) == 0
        assert one.tell(PortMessage.MEMORY_COMMIT) == -errno.EFAULT
        assert not one.worker.is_up
        assert not served(one)
        assert one.worker.watches == 0
        one.worker.send([(PLAIN, frame())])
        other.close()


def test_v27_region_of_a_ring_that_is_removed_stops_it() -> None:
    with guest() as one:
        name = port_messages.REGION_NAME.pack(one.ram.gpa, one.ram.size, one.ram.gpa + USER)
        assert one.tell(PortMessage.MEMORY_REMOVE, name) == -errno.EFAULT
        assert not served(one)
        assert one.tell(PortMessage.MEMORY_REMOVE, name) == -errno.ENOENT


def test_staged_regions_are_not_used_and_can_be_discarded() -> None:
    with guest(start=False) as one:
        for _ in range(3):
            assert one.map(kind=PortMessage.MEMORY_STAGE) == 0
            assert one.map(kind=PortMessage.MEMORY_STAGE) == -errno.EEXIST
            assert one.start(1) == -errno.EFAULT
            assert one.tell(PortMessage.MEMORY_DISCARD) == 0


def test_v28_memory_that_can_shrink_is_refused_unless_it_is_allowed() -> None:
    loose = Ram(RAM_BYTES, sealed=False)
    for unsealed, answer in ((False, -errno.EPERM), (True, 0)):
        with guest(start=False, unsealed=unsealed) as one:
            assert one.map(fd=loose.fd) == answer
    loose.close()


def test_v29_v30_port_that_is_reset_has_no_descriptor_and_no_mapping_left() -> None:
    with guest(start=False, pairs=4) as one:
        before = fds(), mappings()
        for _ in range(10):
            one.tell_features()
            one.map()
            one.map(kind=PortMessage.MEMORY_STAGE)
            assert [one.start(index) for index in range(8)] == [0] * 8
            assert (one.worker.is_up, one.worker.watches) == (True, 4)
            assert one.tell(PortMessage.RESET) == 0
            assert (one.worker.is_up, one.worker.watches) == (False, 0)
            assert not served(one)
            assert (fds(), mappings()) == before


def mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:guest" in line for line in maps)


def test_broken_port_serves_again_after_a_reset() -> None:
    with guest() as one:
        one.rings[1].offer(RING_SIZE)
        one.worker.receive()
        assert one.fault is not None
        assert one.enable(1) == 0
        assert not one.worker.is_up
        assert not served(one)
        one.worker.message(PortMessage.RESET)
        one.tell_features()
        one.map()
        assert one.start(1, base=one.rings[1].index) == 0
        assert served(one)
