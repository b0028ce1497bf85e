"""How pieces of a stream become messages, and which sizes are believed (V31)."""

from __future__ import annotations

import pytest

from arcbox_net.ports.vhost_user.messages import (
    FDS_MAX,
    HEADER,
    NEED_REPLY,
    PAYLOAD_BYTES_MAX,
    PAYLOAD_SIZES,
    REPLY,
    TABLE_REGIONS_MAX,
    VERSION,
    Message,
    MessageReader,
    ProtocolError,
    Request,
)
from tests.support.vhost_user import packed, region, table, u64

UNKNOWN = 99


def read(stream: bytes, fds: tuple[int, ...] = (), piece: int = 1 << 20) -> Message | None:
    """The last message of *stream*, read in pieces; *fds* come with its first byte."""
    reader = MessageReader()
    reader.fds += fds
    message = None
    while stream:
        size = min(reader.wanted, piece)
        message, stream = reader.receive(stream[:size]), stream[size:]
    return message


@pytest.mark.parametrize("piece", [1, 5, 12, 4096])
def test_message_is_read_in_pieces_of_any_size(piece: int) -> None:
    body = packed(Request.SET_FEATURES, u64(7), VERSION | NEED_REPLY)
    assert read(body, (3, 4), piece) == Message(Request.SET_FEATURES, VERSION | NEED_REPLY, u64(7), [3, 4])


def test_message_without_payload_is_complete_with_its_header() -> None:
    assert read(packed(Request.GET_FEATURES)) == Message(Request.GET_FEATURES)


def test_next_message_begins_without_the_descriptors_of_the_last() -> None:
    two = packed(Request.SET_VRING_CALL, u64(0)) + packed(Request.SET_OWNER)
    assert read(two, (5,)) == Message(Request.SET_OWNER)


def test_reader_never_wants_a_byte_of_the_next_message() -> None:
    reader = MessageReader()
    assert reader.wanted == HEADER.size
    reader.receive(packed(Request.SET_FEATURES, u64(1))[: HEADER.size])
    assert reader.wanted == 8
    reader.receive(bytes(7))
    assert reader.wanted == 1


@pytest.mark.parametrize("request_", Request, ids=lambda r: r.name)
def test_v31_size_is_the_request_s_own(request_: Request) -> None:
    for size in (0, 1, 4, 7, 8, 9, 16, 20, 24, 32, 40, 41, 4096, 4097, 1 << 31, 0xFFFFFFFF):
        stream = packed(request_, size=size)
        if size in PAYLOAD_SIZES[request_]:
            read(stream)
        else:
            with pytest.raises(ProtocolError, match=f"{size} bytes"):
                read(stream)


def test_every_request_that_is_known_has_a_size() -> None:
    assert set(PAYLOAD_SIZES) == set(Request)


def test_memory_table_has_room_for_eight_regions() -> None:
    eight = table(*(region(n) for n in range(TABLE_REGIONS_MAX)))
    assert read(packed(Request.SET_MEM_TABLE, eight)) == Message(Request.SET_MEM_TABLE, VERSION, eight)
    with pytest.raises(ProtocolError):
        read(packed(Request.SET_MEM_TABLE, table(*(region(n) for n in range(TABLE_REGIONS_MAX + 1)))))


def test_v31_unknown_request_is_read_up_to_the_limit() -> None:
    longest = packed(UNKNOWN, bytes(PAYLOAD_BYTES_MAX))
    assert read(longest) == Message(UNKNOWN, VERSION, bytes(PAYLOAD_BYTES_MAX))
    with pytest.raises(ProtocolError):
        read(packed(UNKNOWN, size=PAYLOAD_BYTES_MAX + 1))


@pytest.mark.parametrize("flags", [0, 2, 3, VERSION | REPLY, 0xFFFFFFFF])
def test_v31_other_versions_and_replies_are_no_requests(flags: int) -> None:
    with pytest.raises(ProtocolError, match="flags"):
        read(packed(Request.GET_FEATURES, flags=flags))


def test_v29_more_descriptors_than_a_message_has_room_for() -> None:
    assert read(packed(Request.GET_FEATURES), tuple(range(FDS_MAX))) is not None
    with pytest.raises(ProtocolError, match="descriptors"):
        read(packed(Request.GET_FEATURES), tuple(range(FDS_MAX + 1)))
