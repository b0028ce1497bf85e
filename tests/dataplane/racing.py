"""Workers, their link and their control, for ThreadSanitizer: `python -m tests.dataplane.racing`.

Exits with 1 if frames were lost or out of order. Whether there was a race is ThreadSanitizer's to say.
"""

from __future__ import annotations

import sys
import threading

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_port import DOWN, UP, TestingPort
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.memory.pool import PacketPool
from tests.support.patched import collect, numbered

ROUNDS = 30
FRAMES = 200


def control(group: WorkerGroup, ended: threading.Event, done: list[int]) -> None:
    """Whatever control does while frames pass: messages, posts, events, counters, pauses, ports that come and go."""
    rounds = 0
    while not ended.is_set():
        number = group.add(TestingPort(group.pool))
        worker = group.home(number)
        worker.send(number, DOWN)
        worker.post(number, UP)
        with worker.paused():
            worker.counters()
        group.remove(number)
        worker.events()
        rounds += 1
    done.append(rounds)


def main() -> int:
    pool = PacketPool(8192, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    patches = [Patch(), Patch()]
    frames, ended = numbered(FRAMES), threading.Event()
    controlled: list[int] = []
    with WorkerGroup(patches, pool) as group:
        left, right = (group.add(port) for port in ports)
        patches[0].lead(group.home(left), left, right)
        patches[1].lead(group.home(right), right, left)
        threads = [threading.Thread(target=control, args=(group, ended, controlled)) for _ in range(2)]
        for thread in threads:
            thread.start()
        works = True
        for _ in range(ROUNDS):
            for port in ports:
                port.put(frames)
            works &= all(collect(port, FRAMES) == frames for port in ports)
        ended.set()
        for thread in threads:
            thread.join()
    pool.close()
    return not (works and len(controlled) == len(threads))


if __name__ == "__main__":
    sys.exit(main())
