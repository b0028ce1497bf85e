"""Sockets of ports at paths: who may come, one at a time, what becomes of files, and the way back (Q8, K15)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from arcbox_net.config_ports import PATH_BYTES_MAX
from arcbox_net.errors import ConfigError
from arcbox_net.ports.endpoint import SocketEndpoint
from arcbox_net.ports.endpoints import DgramEndpoint, StreamEndpoint
from arcbox_net.ports.unix_sockets import is_served
from tests.support.descriptors import can_refuse_descriptors
from tests.support.netns import PATIENCE_S
from tests.support.sockets import StreamPeer, Wire, frame


class Place:
    """A worker, a loop that hands its events to one endpoint, and a folder for sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "port.sock")
        self.wire = Wire()
        self.endpoint: SocketEndpoint | None = None

    def stream(self, *, connect: bool = False) -> StreamEndpoint:
        return StreamEndpoint(
            self.path,
            self.wire.worker,
            self.wire.patch,
            connect=connect,
            frame_max=1514,
            on_change=self._changed,
        )

    def dgram(self, *, remote: str | None = None) -> DgramEndpoint:
        return DgramEndpoint(
            self.path,
            self.wire.worker,
            self.wire.patch,
            remote=remote,
            frame_max=1514,
            on_change=self._changed,
        )

    @contextlib.asynccontextmanager
    async def running(self, endpoint: SocketEndpoint) -> AsyncIterator[SocketEndpoint]:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.wire.worker.event_fd, self._events)
        await endpoint.start()
        self.endpoint = endpoint
        self.wire.number = endpoint.number
        self.wire.lead(endpoint.number, self.wire.far_number)
        try:
            yield endpoint
        finally:
            await endpoint.stop()
            loop.remove_reader(self.wire.worker.event_fd)

    def connect(self) -> StreamPeer:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return StreamPeer(connection)

    def bound(self, name: str) -> socket.socket:
        """A datagram socket at a path of its own, as hypervisors have one."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.folder / name
        path.unlink(missing_ok=True)
        made.bind(str(path))
        made.settimeout(PATIENCE_S)
        return made

    async def passes(self, send: Callable[[bytes], object], receive: Callable[[], bytes]) -> None:
        """Frames pass both ways."""
        send(frame(60, 1))
        await asyncio.to_thread(
            lambda: self.wire.arrived(1) == [frame(60, 1)] or pytest.fail("another frame")
        )
        self.wire.far.put([frame(60, 2)])
        assert receive() == frame(60, 2)

    async def stream_passes(self, peer: StreamPeer) -> None:
        await self.passes(peer.send, lambda: peer.receive(1)[0])

    async def dgram_passes(self, peer: socket.socket) -> None:
        await self.passes(lambda sent: peer.sendto(sent, self.path), lambda: peer.recv(2000))

    def _events(self) -> None:
        for event in self.wire.worker.events():
            assert self.endpoint is not None and event.number == self.endpoint.number
            self.endpoint.handle(event)

    def _changed(self) -> None:
        pass


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def within(folder: Path, test: Callable[[Place], object]) -> None:
    place = Place(folder)
    with place.wire:
        asyncio.run(test(place))  # type: ignore[arg-type]


def test_client_gets_the_port_and_another_is_refused(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.stream()) as endpoint:
            assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o600
            assert not endpoint.is_up
            first = place.connect()
            await eventually(lambda: endpoint.is_up)
            assert endpoint.peer_pid == os.getpid() and endpoint.trouble is None
            second = place.connect()
            await eventually(lambda: endpoint.trouble)
            assert "refused" in str(endpoint.trouble) and second.is_disconnected()
            await place.stream_passes(first)
        assert first.is_disconnected()
        assert not os.path.exists(place.path)

    within(tmp_path, run)


@pytest.mark.parametrize("way", ["listening", "connecting", "dgram"])
def test_kernel_refuses_descriptors_that_a_port_of_frames_is_sent(tmp_path: Path, way: str) -> None:
    """The worker would have to close them, and the close of a connection that lingers may wait for ever."""
    if not can_refuse_descriptors():
        pytest.skip("needs SO_PASSRIGHTS, of Linux 6.16 on")

    async def run(place: Place) -> None:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM if way == "dgram" else socket.SOCK_STREAM
        ) as own:
            if way == "connecting":
                own.bind(place.path)
                own.listen()
                own.setblocking(False)
            endpoint = place.dgram() if way == "dgram" else place.stream(connect=way == "connecting")
            async with place.running(endpoint):
                if way == "connecting":
                    peer, _ = await asyncio.get_running_loop().sock_accept(own)
                else:
                    own.connect(place.path)
                    peer = own.dup()
                with peer, pytest.raises(PermissionError):
                    socket.send_fds(peer, [b"frame"], [0])

    within(tmp_path, run)


def test_client_that_comes_back_a_hundred_times_finds_the_same_port_q8_k15(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.stream()) as endpoint:
            number = endpoint.number
            for _ in range(100):
                peer = place.connect()
                await eventually(lambda: endpoint.is_up)
                await place.stream_passes(peer)
                peer.connection.close()
            await eventually(lambda: not endpoint.is_up)
            assert endpoint.trouble == "the peer hung up"
            assert (endpoint.number, place.wire.counters().rx_frames) == (number, 100)

    within(tmp_path, run)


def test_client_that_announces_no_frame_is_disconnected_and_may_come_back_q1(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.stream()) as endpoint:
            peer = place.connect()
            peer.connection.send(b"\xff" * 4)
            await eventually(lambda: endpoint.trouble)
            assert "4294967295 bytes" in str(endpoint.trouble) and peer.is_disconnected()
            await place.stream_passes(place.connect())

    within(tmp_path, run)


def test_endpoint_that_connects_finds_its_peer_whenever_that_comes_q8(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.stream(connect=True)) as endpoint:
            await eventually(lambda: endpoint.trouble)
            assert "No such file" in str(endpoint.trouble)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(place.path)
                listener.listen()
                listener.setblocking(False)
                for _ in range(3):
                    peer, _ = await asyncio.get_running_loop().sock_accept(listener)
                    await eventually(lambda: endpoint.is_up)
                    await place.stream_passes(StreamPeer(peer))
                    peer.close()
                    await eventually(lambda: not endpoint.is_up)

    within(tmp_path, run)


@pytest.mark.parametrize("hello", [b"VFKT", frame()], ids=["vfkit", "qemu"])
def test_sender_of_the_first_datagram_is_the_peer_and_others_may_not_send(
    tmp_path: Path, hello: bytes
) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.dgram()) as endpoint:
            assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o600
            with place.bound("vm1") as peer, place.bound("vm2") as other:
                peer.sendto(hello, place.path)
                await eventually(lambda: endpoint.is_up)
                if hello == frame():
                    await asyncio.to_thread(place.wire.arrived, 1)
                await place.dgram_passes(peer)
                assert place.wire.counters().drops == {}
                with pytest.raises(PermissionError):
                    other.sendto(frame(), place.path)

    within(tmp_path, run)


@pytest.mark.parametrize("remote", [None, "vm1"], ids=["learned", "known"])
def test_peer_that_connects_its_socket_stays_the_peer_until_it_closes(
    tmp_path: Path, remote: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:  # as libkrun does: the kernel lets nobody else connect to such a socket
    looks: list[object] = []

    def look(address: str | bytes, kind: int) -> bool:
        found = is_served(address, kind)
        looks.append(found)
        return found

    monkeypatch.setattr("arcbox_net.ports.endpoints.is_served", look)

    async def run(place: Place) -> None:
        endpoint = place.dgram(remote=str(tmp_path / remote) if remote else None)
        async with place.running(endpoint):
            for _ in range(2):
                with place.bound("vm1") as peer:
                    peer.connect(place.path)
                    if remote is None:
                        peer.send(b"VFKT")
                    await eventually(lambda: endpoint.is_up)
                    looked_at = len(looks)
                    await eventually(lambda: len(looks) > looked_at)  # noqa: B023
                    assert endpoint.is_up
                    await place.dgram_passes(peer)
                await eventually(lambda: not endpoint.is_up)

    within(tmp_path, run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_socket_of_another_user_is_not_taken_for_the_guests(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        with place.bound("vm1"):
            os.chown(tmp_path / "vm1", 1234, -1)
            async with place.running(place.dgram(remote=str(tmp_path / "vm1"))) as endpoint:
                await eventually(lambda: endpoint.trouble)
                assert "uid 1234" in str(endpoint.trouble)
                assert not endpoint.is_up

    within(tmp_path, run)


def test_an_endpoint_that_did_not_start_can_be_stopped(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        refused = StreamEndpoint(
            str(tmp_path / "nowhere" / "port.sock"),
            place.wire.worker,
            place.wire.patch,
            frame_max=1514,
            on_change=lambda: None,
        )
        with pytest.raises((ConfigError, OSError)):
            await refused.start()
        await refused.stop()

    within(tmp_path, run)


@pytest.mark.parametrize("remote", [None, "vm1"], ids=["learned", "known"])
def test_peer_that_restarts_at_its_address_is_found_again_k15(tmp_path: Path, remote: str | None) -> None:
    async def run(place: Place) -> None:
        known = str(place.folder / remote) if remote else None
        async with place.running(place.dgram(remote=known)) as endpoint:
            for _ in range(3):
                with place.bound("vm1") as peer:
                    if remote is None:
                        peer.sendto(b"VFKT", place.path)
                    await eventually(lambda: endpoint.is_up)
                    await place.dgram_passes(peer)
                await eventually(lambda: not endpoint.is_up)

    within(tmp_path, run)


def test_sender_without_an_address_does_not_become_the_peer(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        async with place.running(place.dgram()) as endpoint:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless, place.bound("vm1") as peer:
                nameless.sendto(b"VFKT", place.path)
                await eventually(lambda: endpoint.trouble)
                assert "without an address" in str(endpoint.trouble)
                peer.sendto(b"VFKT", place.path)
                await eventually(lambda: endpoint.is_up)
                await place.dgram_passes(peer)

    within(tmp_path, run)


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_socket_file_that_nobody_listens_at_is_replaced_and_one_that_is_used_is_not(
    tmp_path: Path, kind: str
) -> None:
    async def run(place: Place) -> None:
        left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
        left.bind(place.path)
        left.close()
        async with place.running(getattr(place, kind)()):
            with pytest.raises(ConfigError, match="somebody listens there"):
                await getattr(place, kind)().start()
            assert len(place.wire.worker.counters()) == 2

    within(tmp_path, run)


def test_file_that_is_no_socket_stays_as_it_is(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        Path(place.path).write_text("mine")
        with pytest.raises(ConfigError, match="no socket"):
            await place.stream().start()
        assert Path(place.path).read_text() == "mine"

    within(tmp_path, run)


def test_path_is_as_long_as_a_socket_can_have_and_no_longer(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        folder = place.folder
        while len(str(folder)) < PATH_BYTES_MAX - 60:
            folder /= "x" * 20
        folder.mkdir(parents=True, exist_ok=True)
        place.path = str(folder / "s").ljust(PATH_BYTES_MAX, "s")
        async with place.running(place.stream()):
            assert os.path.exists(place.path)
        place.path += "s"
        with pytest.raises(ConfigError, match=f"at most {PATH_BYTES_MAX}"):
            place.stream()

    within(tmp_path, run)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def run(place: Place) -> None:
        place.path = str(place.folder / "none" / "port.sock")
        with pytest.raises(ConfigError, match="No such file"):
            await place.stream().start()

    within(tmp_path, run)
