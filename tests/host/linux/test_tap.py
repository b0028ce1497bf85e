"""TAP ports in a real kernel: what their fds carry, how long they live, and who may open them."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from arcbox_net.errors import KernelError, LimitReached
from arcbox_net.host.linux import tap
from arcbox_net.host.linux.links import Links
from arcbox_net.host.plan import TapPlan, alias
from tests.host.linux.plans import bridge_plan, tap_plan
from tests.support import netns
from tests.support.descriptors import open_descriptors
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

TUNGETIFF = 0x800454D2
TUNGETVNETHDRSZ = 0x800454D7
NOBODY = 65534


@pytest.fixture
def links(host: Host) -> Iterator[Links]:
    with Links(host.path) as opened:
        opened.apply_bridge(bridge_plan())
        yield opened


def interface_flags(fd: int) -> int:
    reply = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    return int(struct.unpack_from("=16sH", reply)[1])


def test_a_tap_is_a_port_of_its_bridge_and_goes_with_its_last_fd(host: Host, links: Links) -> None:
    plan = tap_plan(queues=2, isolated=True)
    fds = links.create_tap(plan)
    link = host.links()[plan.ifname]
    assert (link["master"], link["mtu"], link["txqlen"], link["qdisc"]) == ("abx-t1", 1500, 10_000, "noqueue")
    assert link["ifalias"] == alias("t1", "p1") and "UP" in link["flags"]
    flags = link["linkinfo"]["info_slave_data"]
    assert (flags["isolated"], flags["learning"], flags["flood"]) == (True, False, False)
    assert host.sysctl(f"net.ipv6.conf.{plan.ifname}.disable_ipv6") == "1"
    os.close(fds.pop())
    assert plan.ifname in host.links()
    os.close(fds.pop())
    assert plan.ifname not in host.links()


@pytest.mark.parametrize(
    ("fields", "multi_queue"),
    [({"queues": 1}, False), ({"queues": 2}, True), ({"queues": 1, "multi_queue": True}, True)],
)
def test_queues_and_header_are_as_planned(links: Links, fields: dict[str, int], multi_queue: bool) -> None:
    fds = links.create_tap(tap_plan(**fields))
    assert len(fds) == fields["queues"]
    for fd in fds:
        flags = interface_flags(fd)
        assert flags & tap.IFF_VNET_HDR and flags & tap.IFF_NO_PI
        assert bool(flags & tap.IFF_MULTI_QUEUE) == multi_queue
        (size,) = struct.unpack("=i", fcntl.ioctl(fd, TUNGETVNETHDRSZ, bytes(4)))
        assert size == tap.VNET_HDR_BYTES
        assert not os.get_inheritable(fd) and not os.get_blocking(fd)
    tap.close_all(fds)


def test_a_kernel_without_uso_gets_tso(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    fds = links.create_tap(tap_plan())
    assert tap.set_offloads(fds[0], tap.OFFLOADS_ALL) in (tap.OFFLOADS_ALL, tap.OFFLOADS_TSO)
    real = fcntl.ioctl

    def old_kernel(fd: int, request: int, argument: int) -> int:
        if request == tap.TUNSETOFFLOAD and argument & ~tap.OFFLOADS_TSO:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, request, argument)

    monkeypatch.setattr(tap.fcntl, "ioctl", old_kernel)
    assert tap.set_offloads(fds[0], tap.OFFLOADS_ALL) == tap.OFFLOADS_TSO
    tap.close_all(fds)


def received(host: Host, plan: TapPlan, fd: int) -> bytes:
    """What the TAP hands over of a 9,000-byte TCP-like burst: the first frame of a UDP datagram to the
    guest.
    """
    host.run(f"ip neigh replace 192.168.64.9 lladdr {plan.mac} dev abx-t1")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 100, ("192.168.64.9", 9))

    wanted = bytes.fromhex(plan.mac.replace(":", ""))
    start = tap.VNET_HDR_BYTES if plan.vnet_hdr else 0

    def frame() -> bytes | None:
        host.call(send)  # lost, while the kernel has not noted that the bridge has a port that is up
        while select.select([fd], [], [], 1.0)[0]:
            found = os.read(fd, 65536)
            if found[start : start + 6] == wanted:
                return found
        return None

    return netns.wait_until(frame, message="a frame") or b""


def udp_checksum_is_right(frame: bytes) -> bool:
    packet = frame[14:]
    segment = packet[20:]
    total = sum(struct.unpack(">8H", packet[12:20] + struct.pack(">HH", 17, len(segment)) + bytes(4)))
    padded = segment + bytes(len(segment) % 2)
    total += sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def test_a_client_of_plain_frames_reads_complete_ones(host: Host, links: Links) -> None:
    plan = tap_plan(vnet_hdr=False)
    fds = links.create_tap(plan)
    assert not interface_flags(fds[0]) & tap.IFF_VNET_HDR
    frame = received(host, plan, fds[0])
    assert len(frame) == 14 + 20 + 8 + 100 and udp_checksum_is_right(frame)
    tap.close_all(fds)


@pytest.mark.parametrize("offload", [True, False])
def test_only_with_offload_are_checksums_left_to_the_client(host: Host, links: Links, offload: bool) -> None:
    plan = tap_plan(offload=offload)
    fds = links.create_tap(plan)
    frame = received(host, plan, fds[0])
    needs_checksum = frame[0] & 1
    assert bool(needs_checksum) == offload
    assert udp_checksum_is_right(frame[tap.VNET_HDR_BYTES :]) == (not offload)
    tap.close_all(fds)


def test_a_persistent_tap_waits_for_whoever_opens_it_by_name(host: Host, links: Links) -> None:
    plan = tap_plan(persist=True, owner_uid=NOBODY, queues=2)
    assert links.create_tap(plan) == []
    assert links.create_tap(plan) == []
    (port,) = [link for link in links.owned() if link.port]
    assert port.up and not port.carrier
    fds = links.open_tap(plan.ifname, 2)
    assert netns.wait_until(lambda: next(link for link in links.owned() if link.port).carrier)
    tap.close_all(fds)
    assert links.remove(plan.ifname)
    assert plan.ifname not in host.links()


def opens_as(host: Host, uid: int, ifname: str) -> int:
    """Errno of a child with *uid* and no capability that opens the TAP by name; 0: it could."""

    def attempt() -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            fd = tap.open_device()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            flags = tap.IFF_TAP | tap.IFF_NO_PI | tap.IFF_VNET_HDR
            fcntl.ioctl(fd, tap.TUNSETIFF, struct.pack("=16sH22x", ifname.encode(), flags))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(254)

    return host.call(attempt)


def test_only_the_owner_of_a_persistent_tap_may_open_it(host: Host, links: Links) -> None:
    plan = tap_plan(persist=True, owner_uid=NOBODY)
    links.create_tap(plan)
    assert opens_as(host, NOBODY, plan.ifname) == 0
    assert opens_as(host, 12345, plan.ifname) == errno.EPERM


def test_owner_may_have_a_user_id_of_the_upper_half(host: Host, links: Links) -> None:
    plan = tap_plan(persist=True, owner_uid=3_000_000_000)
    links.create_tap(plan)
    assert opens_as(host, 3_000_000_000, plan.ifname) == 0
    assert opens_as(host, 12345, plan.ifname) == errno.EPERM


def test_a_tap_that_is_held_is_not_made_again(links: Links) -> None:
    fds = links.create_tap(tap_plan())
    with pytest.raises(KernelError, match="still held") as caught:
        links.create_tap(tap_plan())
    assert caught.value.errno == errno.EBUSY
    tap.close_all(fds)
    persistent = tap_plan(index=2, persist=True)
    links.create_tap(persistent)
    fds = links.open_tap(persistent.ifname, 1)
    with pytest.raises(KernelError, match="another program holds it"):
        links.open_tap(persistent.ifname, 1)
    tap.close_all(fds)


def test_a_foreign_tap_is_neither_used_nor_opened(host: Host, links: Links) -> None:
    host.run(f"ip tuntap add {tap_plan().ifname} mode tap vnet_hdr")
    with pytest.raises(KernelError, match="not this network's"):
        links.create_tap(tap_plan())
    with pytest.raises(KernelError, match="not a TAP of arcbox-net"):
        links.open_tap(tap_plan().ifname, 1)
    assert tap_plan().ifname in host.links()


@pytest.mark.parametrize(
    "fields", [{"bridge": "abx-none"}, {"queues": 0}, {"queues": tap.QUEUES_MAX + 1}, {"mtu": 65535}]
)
def test_a_tap_that_fails_leaves_nothing(host: Host, links: Links, fields: dict[str, int]) -> None:
    before = sorted(host.links()), open_descriptors()
    with pytest.raises((KernelError, LimitReached, LookupError, Exception)):
        links.create_tap(tap_plan(**fields))
    assert (sorted(host.links()), open_descriptors()) == before


def test_k9_a_deleted_tap_is_an_error_at_its_fd_and_can_be_made_again(host: Host, links: Links) -> None:
    for _ in range(20):
        fds = links.create_tap(tap_plan())
        host.run(f"ip link del {tap_plan().ifname}")
        with pytest.raises(OSError) as caught:
            os.write(fds[0], bytes(12 + 60))
        assert caught.value.errno == errno.EBADFD
        tap.close_all(fds)


def test_200_taps_leave_links_and_fds_flat(host: Host, links: Links) -> None:
    before = sorted(host.links()), open_descriptors()
    for index in range(200):
        tap.close_all(links.create_tap(tap_plan(index=index, queues=1 + index % 2)))
    assert (sorted(host.links()), open_descriptors()) == before


@pytest.mark.parametrize(
    ("release", "takes"),
    [
        ("6.1.0-18-amd64", False),
        ("6.2.0", True),
        ("6.18.1-arch1-1", True),
        ("5.15.0-91", False),
        ("7.0", True),
    ],
)
def test_udp_super_frames_are_for_kernels_that_know_them(release: str, takes: bool) -> None:
    assert tap.takes_uso(release) is takes
