"""Real sockets and real descriptors: whatever a front end does, none of them stays (V29–V31)."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcbox_net.ports.vhost_user.conversation import Conversation
from arcbox_net.ports.vhost_user.messages import FDS_MAX, PAYLOAD_SIZES, VERSION, ProtocolError, Request
from arcbox_net.ports.vhost_user.port_messages import NO_FD, PortMessage
from arcbox_net.ports.vhost_user.strangers import WAITING_MAX, Strangers
from tests.support import fuse
from tests.support.descriptors import open_descriptors
from tests.support.line import wait_for
from tests.support.lingering import Lingering
from tests.support.vhost_user import (
    FDS_AT_END,
    PAYLOADS,
    addresses,
    inflight,
    number_in,
    packed,
    region,
    state,
    table,
    u64,
)

BAD_MESSAGES = 10_000
FDS_SENT_MAX = 253
SMALL_MEMORY_BYTES = 4 << 20
SMALL_BUFFER = 4096
DEADLINE_S = 10


class OwningPort:
    """Takes descriptors as a port does, and gives them up with RESET. Refuses what `refuses` has."""

    def __init__(self) -> None:
        self.refuses: set[int] = set()
        self.fds: list[int] = []

    def send(self, kind: int, payload: bytes) -> int:
        if kind in self.refuses:
            raise OSError(22, "refused")
        if kind == PortMessage.RESET:
            for fd in self.fds:
                os.close(fd)
            self.fds.clear()
        elif count := FDS_AT_END.get(PortMessage(kind), 0):
            fields = PAYLOADS[PortMessage(kind)].unpack(payload)
            self.fds += [fd for fd in fields[-count:] if fd != NO_FD]
        return 0


class FrontEnd:
    """One end of a socket whose other end a conversation serves, a step at a time."""

    def __init__(self) -> None:
        self.port = OwningPort()
        self.strangers = Strangers()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)  # a kick, a call, or memory: this port does not look
        self._connect()

    def _connect(self) -> None:
        self.socket, self.served = socket.socketpair()
        self.conversation = Conversation(self.served, self.port.send, pairs=2, strangers=self.strangers)

    def send(self, body: bytes, fds: int = 0) -> None:
        socket.send_fds(self.socket, [body], [self.fd] * fds)

    def reconnect(self) -> None:
        self.disconnect()
        self._connect()

    def disconnect(self) -> None:
        self.conversation.close()
        self.strangers.close_connection(self.served)
        self.socket.close()

    def serve(self) -> bool:
        """Whether it is still connected."""
        try:
            self.conversation.receive()
        except (ProtocolError, OSError):
            self.reconnect()
            return False
        return True


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    with no_descriptor_stays():
        made = FrontEnd()
        yield made
        made.disconnect()
        os.close(made.fd)


@contextmanager
def no_descriptor_stays() -> Iterator[None]:
    before = open_descriptors()
    yield
    wait_for(lambda: open_descriptors() == before, "every descriptor closed")


def test_v29_descriptors_after_ten_thousand_bad_messages(front_end: FrontEnd) -> None:
    chance = random.Random(29)
    requests = [*Request, 0, 6, 7, 21, 99]
    for _ in range(BAD_MESSAGES):
        request = chance.choice(requests)
        size = chance.choice([*PAYLOAD_SIZES.get(request, (0,)), 0, 8, 5000])
        payload = chance.randbytes(min(size, 64)).ljust(min(size, 4096), b"\0")
        flags = chance.choice([VERSION, VERSION, VERSION | 8, 0])
        front_end.port.refuses = {chance.randrange(200, 211)}
        front_end.send(packed(request, payload, flags, size), fds=chance.choice([0, 1, 2, 8, 12]))
        front_end.serve()


def test_v29_more_than_eight_descriptors_disconnect(front_end: FrontEnd) -> None:
    front_end.send(packed(Request.SET_OWNER), fds=FDS_MAX)
    assert front_end.serve()
    front_end.send(packed(Request.SET_OWNER), fds=FDS_SENT_MAX)
    assert not front_end.serve()


def test_v29_descriptors_are_not_inherited(front_end: FrontEnd) -> None:
    before = eventfds()
    front_end.send(packed(Request.SET_MEM_TABLE, table(region(0))), fds=1)
    front_end.send(packed(Request.SET_VRING_CALL, u64(0)), fds=1)
    assert front_end.serve() and front_end.serve()
    came = eventfds() - before
    assert len(came) == 2
    assert not any(map(os.get_inheritable, came))


def eventfds() -> set[int]:
    links = {int(fd): os.path.realpath(f"/dev/fd/{fd}") for fd in os.listdir("/dev/fd")}
    return {fd for fd, link in links.items() if link.endswith("anon_inode:[eventfd]")}


def test_v29_rings_that_were_set_up_leave_nothing(front_end: FrontEnd) -> None:
    for _ in range(3):
        for request, payload, fds in (
            (Request.SET_MEM_TABLE, table(region(0)), 1),
            (Request.SET_VRING_CALL, u64(1), 1),
            (Request.SET_VRING_CALL, u64(0), 1),
            (Request.SET_VRING_NUM, state(0, 256), 0),
            (Request.SET_VRING_ADDR, addresses(0), 0),
            (Request.SET_VRING_KICK, u64(0), 1),
        ):
            front_end.send(packed(request, payload), fds)
            assert front_end.serve()
        front_end.reconnect()  # ring 0 runs, and ring 1 holds a descriptor


def test_v30_memory_for_what_is_in_flight_goes_to_the_front_end_alone(front_end: FrontEnd) -> None:
    for _ in range(100):
        front_end.send(packed(Request.GET_INFLIGHT_FD, inflight(4, 256)))
        assert front_end.serve()
        _, fds, _, _ = socket.recv_fds(front_end.socket, 100, 1)
        assert os.fstat(fds[0]).st_size >= 4 * 256 * 16
        os.close(fds[0])


def test_only_an_eventfd_is_taken_for_a_kick_or_a_call(front_end: FrontEnd, tmp_path: Path) -> None:
    named = tmp_path / "anon_inode:[eventfd]"
    named.touch()
    others = [*os.pipe(), os.memfd_create("anon_inode:[eventfd]"), os.open(named, os.O_RDWR)]
    for fd in [front_end.fd, *others]:
        for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL):
            socket.send_fds(front_end.socket, [packed(request, u64(0))], [fd])
            assert front_end.serve() == (fd not in others)
    for fd in others:
        os.close(fd)


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 19])
def test_v31_disconnect_inside_a_message_closes_its_descriptors(front_end: FrontEnd, cut: int) -> None:
    front_end.send(packed(Request.SET_VRING_KICK, u64(0))[:cut], fds=1)
    assert front_end.serve()
    front_end.socket.close()
    assert not front_end.serve()


def test_v31_byte_at_a_time_is_served_as_it_comes(front_end: FrontEnd) -> None:
    for byte in packed(Request.GET_QUEUE_NUM):
        front_end.send(bytes([byte]))
        assert front_end.serve()
    assert number_in(front_end.socket.recv(100)) == 2


def test_v31_descriptors_on_later_bytes_belong_to_the_message(front_end: FrontEnd) -> None:
    body = packed(Request.SET_VRING_CALL, u64(0))
    for start in range(0, len(body), 2):
        front_end.send(body[start : start + 2], fds=1)
    assert not all(front_end.serve() for _ in range(len(body)))


def test_front_end_that_reads_no_replies_is_disconnected(front_end: FrontEnd) -> None:
    front_end.served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    for _ in range(1000):
        front_end.send(packed(Request.GET_FEATURES))
        if not front_end.serve():
            return
    pytest.fail("a thousand replies were kept for it")


def with_a_message_that_takes_none(front_end: FrontEnd, lingering: Lingering) -> None:
    lingering.send_to(front_end.socket, packed(Request.SET_OWNER))
    front_end.serve()


def with_more_than_there_is_room_for(front_end: FrontEnd, lingering: Lingering) -> None:
    lingering.send_to(front_end.socket, packed(Request.SET_OWNER), times=FDS_SENT_MAX)
    front_end.serve()


def unread_when_it_is_disconnected(front_end: FrontEnd, lingering: Lingering) -> None:
    front_end.send(packed(Request.SET_FEATURES, u64(1 << 63)))
    lingering.send_to(front_end.socket, packed(Request.SET_OWNER))
    front_end.serve()


def out_of_band(front_end: FrontEnd, lingering: Lingering) -> None:
    lingering.send_to(front_end.socket, b"x", flags=socket.MSG_OOB)
    front_end.send(packed(Request.SET_OWNER))
    front_end.serve()


def out_of_band_and_unread(front_end: FrontEnd, lingering: Lingering) -> None:
    front_end.send(packed(Request.SET_FEATURES, u64(1 << 63)))
    lingering.send_to(front_end.socket, b"x", flags=socket.MSG_OOB)
    front_end.serve()


@pytest.mark.parametrize(
    "way",
    [
        with_a_message_that_takes_none,
        with_more_than_there_is_room_for,
        unread_when_it_is_disconnected,
        out_of_band,
        out_of_band_and_unread,
    ],
)
def test_v29_connection_that_lingers_keeps_nobody_waiting(
    front_end: FrontEnd, way: Callable[[FrontEnd, Lingering], None]
) -> None:
    with Lingering() as lingering:
        thread = threading.Thread(target=way, args=(front_end, lingering))
        thread.start()
        thread.join(DEADLINE_S)
        was_kept = thread.is_alive()
    thread.join()
    assert not was_kept


@pytest.mark.parametrize(
    ("size", "by_thread"), [(SMALL_MEMORY_BYTES, False), (SMALL_MEMORY_BYTES + 4096, True)]
)
def test_v29_large_memory_is_given_back_by_another_thread(
    monkeypatch: pytest.MonkeyPatch, size: int, by_thread: bool
) -> None:
    closed_by: list[str] = []
    close = os.close

    def closing(fd: int) -> None:
        closed_by.append(threading.current_thread().name)
        close(fd)

    memory = os.memfd_create("guest")
    os.posix_fallocate(memory, 0, size)
    monkeypatch.setattr(os, "close", closing)
    Strangers().close(memory)
    wait_for(lambda: closed_by, "the memory closed")
    assert (closed_by == ["strangers"]) == by_thread


@pytest.fixture
def unanswered() -> Iterator[fuse.Unanswered]:
    """A file whose close() waits for a server that says nothing."""
    if reason := fuse.missing():
        pytest.skip(reason)
    file = fuse.Unanswered()
    yield file
    file.end()


@pytest.mark.e2e
def test_v29_file_whose_server_does_not_answer_keeps_nobody_waiting(
    front_end: FrontEnd, unanswered: fuse.Unanswered
) -> None:
    """As memory, as a call, and with a message that takes none: all are closed, and none is asked for anything."""
    served: list[bool] = []

    def serve() -> None:
        for request, payload in (
            (Request.SET_MEM_TABLE, table(region(0))),
            (Request.SET_VRING_CALL, u64(0)),
            (Request.SET_OWNER, b""),
        ):
            front_end.port.refuses = {PortMessage.MEMORY_STAGE}
            socket.send_fds(front_end.socket, [packed(request, payload)], [unanswered.fd])
            served.append(front_end.serve())

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(DEADLINE_S)
    was_kept = thread.is_alive()
    unanswered.end()
    thread.join()
    assert not was_kept
    assert served == [False, False, True]


@pytest.mark.e2e
def test_v29_files_that_cannot_be_closed_are_few(front_end: FrontEnd, unanswered: fuse.Unanswered) -> None:
    before = open_descriptors()
    taken = -1
    is_served = True
    while is_served:
        taken += 1
        socket.send_fds(front_end.socket, [packed(Request.SET_OWNER)], [unanswered.fd])
        is_served = front_end.serve()
    held = open_descriptors() - before
    unanswered.end()
    assert WAITING_MAX <= taken <= WAITING_MAX + 1, "one is being closed"
    assert held <= WAITING_MAX + 1, "with the connection, of which not all was read"
    wait_for(lambda: not front_end.strangers.are_many, "the descriptors closed")
    front_end.send(packed(Request.SET_OWNER))
    assert front_end.serve()
