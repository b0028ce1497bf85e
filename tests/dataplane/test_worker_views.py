"""The counters in shared memory, read by another process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker_views import COUNTERS_HEADER, COUNTERS_ROW, read_counters
from arcbox_net.errors import ConfigError
from tests.support.patched import collect, eventually, numbered, patched

READER = """
import mmap, sys
from arcbox_net.dataplane.worker_views import read_counters
counters = read_counters(mmap.mmap(int(sys.argv[1]), 0, prot=mmap.PROT_READ))
print({number: port.rx_frames for number, port in counters.ports.items()})
"""


def test_another_process_reads_the_counters_of_a_running_worker() -> None:
    with patched() as wire:
        wire.left.put(numbered(7))
        collect(wire.right, 7)
        with wire.worker.paused():  # the turn has ended
            pass
        fd = wire.worker.counters_fd
        done = subprocess.run(
            [sys.executable, "-c", READER, str(fd)], pass_fds=[fd], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str({wire.left_number: 7, wire.right_number: 0})


def test_drops_have_the_names_of_their_reasons() -> None:
    with patched() as wire:
        wire.left.put([bytes(13)])
        eventually(lambda: wire.worker.counters()[wire.right_number].drops)
        assert wire.worker.counters()[wire.right_number].drops == {PortDrop.PORT_DROP_SHORT: 1}


@pytest.mark.parametrize("memory", [bytes(1 << 20), b"\xff" * (1 << 20)])
def test_memory_of_something_else_is_refused(memory: bytes) -> None:
    with pytest.raises(ConfigError):
        read_counters(memory)


def test_layout_is_as_described() -> None:
    assert (COUNTERS_HEADER.size, COUNTERS_ROW.size) == (64, 320)
