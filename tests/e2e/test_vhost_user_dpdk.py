"""DPDK's virtio_user, a driver that nobody here wrote, on our vhost-user port: in, back out, and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.netns import wait_until
from tests.support.testpmd import Testpmd, driver
from tests.support.vhost_port import ServedPort

pytestmark = pytest.mark.slow
ENOUGH = 100_000


def test_what_the_driver_sends_comes_in_whole(tmp_path: Path) -> None:
    path = tmp_path / "vhost.sock"
    with ServedPort(path) as port, Testpmd(driver(path), forward="txonly") as guest:
        guest.command("start")
        wait_until(lambda: port.counters.rx_frames > ENOUGH)
        sent = guest.finish()["TX"]
        wait_until(lambda: not port.is_up)
        counted = port.counters
        # What it put in the ring last may be behind what it counts.
        assert sent <= counted.rx_frames < sent + ENOUGH
        assert counted.rx_bytes == 64 * counted.rx_frames


@pytest.mark.parametrize("queues", [1, 2])
def test_frames_go_round_and_none_is_lost(tmp_path: Path, queues: int) -> None:
    path = tmp_path / "vhost.sock"
    with (
        ServedPort(path, echo=True, pairs=2) as port,
        Testpmd(driver(path, queues=queues), forward="io", queues=queues) as guest,
    ):
        guest.command("start tx_first")
        wait_until(lambda: port.counters.tx_frames > ENOUGH)
        guest.finish()
        counted = port.counters
        assert counted.rx_frames - counted.tx_frames < 1000 and sum(counted.drops.values()) < 1000


def test_driver_that_listens_is_connected_to_and_another_after_it(tmp_path: Path) -> None:
    path = tmp_path / "vhost.sock"
    with ServedPort(path, connect=True) as port:
        for _ in range(2):
            before = port.counters.rx_frames
            with Testpmd(driver(path, server=True), forward="txonly") as guest:
                guest.command("start")
                wait_until(lambda: port.counters.rx_frames > before + ENOUGH)  # noqa: B023
            wait_until(lambda: not port.is_up)
            path.unlink(missing_ok=True)


def test_killed_driver_leaves_the_port_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "vhost.sock"
    with ServedPort(path) as port:
        for _ in range(2):
            before = port.counters.rx_frames
            with Testpmd(driver(path), forward="txonly") as guest:
                guest.command("start")
                wait_until(lambda: port.counters.rx_frames > before + ENOUGH)  # noqa: B023
                guest.process.kill()
                wait_until(lambda: not port.is_up)
