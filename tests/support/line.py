"""A worker between two ports."""

from __future__ import annotations

import time
from collections.abc import Callable

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.port import Port
from arcbox_net.dataplane.worker import Worker

DEADLINE_S = 30.0


class Line:
    """A worker that passes frames between two ports, both ways."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.patch = Patch()

    def add(self, port: Port) -> int:
        return self.worker.add(port, self.patch)

    def join(self, one: int, other: int) -> None:
        self.patch.lead(self.worker, one, other)
        self.patch.lead(self.worker, other, one)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.005)
