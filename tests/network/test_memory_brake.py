"""A callback that gets no memory is not called again at once."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from arcbox_net.network.memory_brake import LOG_EVERY_S, PAUSE_S, MemoryBrake


def test_k7_a_reader_without_memory_pauses_the_loop_and_is_told_of_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1000.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds
        if len(pauses) == 2 * LOG_EVERY_S / PAUSE_S:
            asyncio.get_running_loop().stop()

    def read() -> None:
        raise MemoryError

    ends = os.pipe()
    os.write(ends[1], b"x")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(MemoryBrake(lambda: now[0], sleep))
    loop.add_reader(ends[0], read)
    with caplog.at_level(logging.ERROR):
        loop.run_forever()
    loop.close()
    for end in ends:
        os.close(end)
    assert set(pauses) == {PAUSE_S}
    assert len(caplog.records) == 2


def test_other_errors_go_the_usual_way(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.ERROR):
        MemoryBrake(sleep=lambda _: pytest.fail("paused"))(loop, {"message": "x", "exception": ValueError()})
    loop.close()
    assert [record.message for record in caplog.records] == ["x"]
