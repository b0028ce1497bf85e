"""K6: what a socket port does when the kernel refuses its calls, for a time or for good."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.netns import wait_until
from tests.support.sockets import StreamPeer, frame

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
TRIES = 8
CALLS_S_MAX = 200
KINDS = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
CALLS = {"stream": ("recvfrom", "sendmsg"), "dgram": ("recvmmsg", "sendmmsg")}

# A port that sends back what it receives, until its standard input ends.
ECHO = """
import struct, sys
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.worker import Worker
from arcbox_net.ports.dgram import DgramPort
from arcbox_net.ports.socket_port import PEER_CONNECT
from arcbox_net.ports.stream import StreamPort
with Worker() as worker:
    patch = Patch()
    number = worker.add({"stream": StreamPort, "dgram": DgramPort}[sys.argv[1]](frame_max=1514), patch)
    patch.lead(worker, number, number)
    worker.send(number, PEER_CONNECT, struct.pack("i", int(sys.argv[2])))
    sys.stdin.read()
"""


@contextmanager
def echo(kind: str, fault: str, log: Path) -> Iterator[socket.socket]:
    """The peer of an echoing port whose calls of the kind that *fault* names fail as it says."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, KINDS[kind])
    call = fault.split(":", 1)[0]
    strace = ["strace", "-f", "-qq", "-ttt", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={fault}"]
    argv = [*strace, sys.executable, "-c", ECHO, kind, str(theirs.fileno())]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.settimeout(30)
        try:
            with ours:
                yield ours
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("error", ["ENOBUFS", "EINTR"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", [0, 1], ids=["receive", "send"])
def test_k6_every_other_call_fails_and_no_frame_is_lost(
    tmp_path: Path, kind: str, direction: int, error: str
) -> None:
    call = CALLS[kind][direction]
    with echo(kind, f"{call}:error={error}:when=1+2", tmp_path / "log") as peer:
        sent = [frame(60, i) for i in range(5)]
        for one in sent:
            assert echoed(kind, peer, one) == one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", [0, 1], ids=["receive", "send"])
def test_k6_calls_that_always_fail_are_not_repeated_in_a_tight_loop(
    tmp_path: Path, kind: str, direction: int
) -> None:
    log = tmp_path / "log"
    with echo(kind, f"{CALLS[kind][direction]}:error=ENOBUFS", log) as peer:
        (StreamPeer(peer).send if kind == "stream" else peer.send)(frame())
        wait_until(lambda: log.exists() and len(refusals(log)) >= TRIES, timeout=30)
        times = refusals(log)
        assert len(times) / (times[-1] - times[0]) < CALLS_S_MAX


def echoed(kind: str, peer: socket.socket, sent: bytes) -> bytes:
    if kind == "stream":
        stream = StreamPeer(peer)
        stream.send(sent)
        return stream.receive(1, timeout=30)[0]
    peer.send(sent)
    return peer.recv(2000)


def refusals(log: Path) -> list[float]:
    """When calls were refused, of all that strace has written."""
    found = re.findall(r"^\d+ +([\d.]+) .*INJECTED\)$", log.read_text(), re.MULTILINE)
    return [float(time) for time in found]
