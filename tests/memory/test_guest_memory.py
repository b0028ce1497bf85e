from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

import pytest

from arcbox_net.errors import KernelError
from arcbox_net.memory.guest_memory import REGIONS_MAX, GuestMemory
from tests.support.virtqueue import USER, Ram

PAGE = 4096
HUGE_PAGE = 1 << 30  # a multiple of whatever size huge pages have here
TOP = 1 << 64


@pytest.fixture
def ram():
    one = Ram(64 * PAGE)
    yield one
    one.close()


def refused(memory: GuestMemory, *region: int) -> int:
    before = len(memory)
    with pytest.raises(KernelError) as caught:
        memory.add(*region)
    assert len(memory) == before
    return caught.value.errno


def test_range_is_found_by_the_guests_address_and_by_the_front_ends(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(ram.gpa, ram.size, USER, 0, ram.fd)
    ram.write(ram.gpa + 5000, b"here")
    assert memory.guest_range(ram.gpa + 5000, 4) == b"here"
    assert memory.user_range(USER + 5000, 4) == b"here"
    assert memory.guest_range(USER + 5000, 4) is None


def test_region_begins_at_its_offset_in_the_file(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(0, PAGE, USER, 2 * PAGE, ram.fd)
    ram.write(ram.gpa + 2 * PAGE, b"third page")
    assert memory.guest_range(0, 10) == b"third page"


@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        pytest.param(-1, 1, id="before"),
        pytest.param(64 * PAGE, 1, id="behind"),
        pytest.param(64 * PAGE - 4, 5, id="one byte past the end"),
        pytest.param(0, 64 * PAGE + 1, id="all and one"),
        pytest.param(8, (1 << 64) - 4, id="wraps"),
        pytest.param(8, (1 << 64) - 1, id="wraps to itself"),
    ],
)
def test_v5_v6_range_outside_of_the_region_is_none(ram: Ram, gpa: int, size: int) -> None:
    memory = GuestMemory()
    memory.add(PAGE, ram.size, USER, 0, ram.fd)
    assert memory.guest_range(PAGE + gpa, size) is None
    assert memory.user_range(USER + gpa, size) is None


def test_v7_range_over_two_regions_is_none_though_the_guest_sees_one(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(0, PAGE, USER, 0, ram.fd)
    memory.add(PAGE, PAGE, USER + PAGE, PAGE, ram.fd)
    assert memory.guest_range(PAGE - 1, 1) == memory.guest_range(PAGE, 1) == b"\0"
    assert memory.guest_range(PAGE - 1, 2) is None
    assert memory.user_range(USER + PAGE - 1, 2) is None


def test_region_that_is_not_the_last_one_is_found_too(ram: Ram) -> None:
    memory = GuestMemory()
    for i in range(3):
        memory.add(i * 2 * PAGE, PAGE, USER + i * 2 * PAGE, i * PAGE, ram.fd)
        ram.write(ram.gpa + i * PAGE, bytes([i + 1]))
    for i in (2, 0, 1, 1, 2, 0):
        assert memory.guest_range(i * 2 * PAGE, 1) == bytes([i + 1])
    assert memory.guest_range(PAGE, 1) is None


def test_v26_as_many_regions_as_the_limit_and_one_more(ram: Ram) -> None:
    memory = GuestMemory()
    for i in range(REGIONS_MAX):
        memory.add(i * PAGE, PAGE, USER + i * PAGE, 0, ram.fd)
    assert refused(memory, REGIONS_MAX * PAGE, PAGE, USER + REGIONS_MAX * PAGE, 0, ram.fd) == errno.ENOSPC
    assert memory.guest_range((REGIONS_MAX - 1) * PAGE, PAGE) is not None


@pytest.mark.parametrize(
    ("gpa", "size", "user", "offset", "error"),
    [
        pytest.param(0, 0, USER, 0, errno.EINVAL, id="no bytes"),
        pytest.param(TOP - PAGE, 2 * PAGE, USER, 0, errno.EINVAL, id="wraps in the guest"),
        pytest.param(0, 2 * PAGE, TOP - PAGE, 0, errno.EINVAL, id="wraps in the front end"),
        pytest.param(0, PAGE, USER, TOP - PAGE, errno.EINVAL, id="offset past all files"),
        pytest.param(0, PAGE, USER, 100, errno.EINVAL, id="offset inside a page"),
        pytest.param(99 * PAGE, 65 * PAGE, 0, 0, errno.EINVAL, id="larger than the file"),
        pytest.param(0, PAGE, USER, 64 * PAGE, errno.EINVAL, id="behind the file"),
        pytest.param(0, PAGE + 1, USER, 63 * PAGE, errno.EINVAL, id="one byte behind the file"),
        pytest.param(11 * PAGE, PAGE, USER, 0, errno.EEXIST, id="overlaps in the guest"),
        pytest.param(9 * PAGE, 9 * PAGE, USER, 0, errno.EEXIST, id="around another"),
        pytest.param(0, PAGE, USER + 11 * PAGE, 0, errno.EEXIST, id="overlaps in the front end"),
    ],
)
def test_v26_region_that_cannot_be_is_refused(
    ram: Ram, gpa: int, size: int, user: int, offset: int, error: int
) -> None:
    memory = GuestMemory()
    memory.add(10 * PAGE, 2 * PAGE, USER + 10 * PAGE, 0, ram.fd)
    assert refused(memory, gpa, size, user, offset, ram.fd) == error


def test_v26_region_that_ends_where_all_addresses_do_is_fine(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(TOP - 1 - PAGE, PAGE, TOP - 1 - PAGE, 63 * PAGE, ram.fd)
    assert memory.guest_range(TOP - 2, 1) == b"\0"
    assert memory.guest_range(TOP - 2, 2) is None
    assert memory.guest_range(0, 1) is None


@pytest.mark.parametrize("kind", ["pipe", "directory", "read-only", "closed"])
def test_v26_descriptor_that_is_no_memory_is_refused(ram: Ram, kind: str, tmp_path: object) -> None:
    fds: tuple[int, ...] = ()
    if kind == "pipe":
        fds = os.pipe()
    elif kind == "directory":
        fds = (os.open(str(tmp_path), os.O_RDONLY),)
    elif kind == "read-only":
        fds = (os.open(f"/proc/self/fd/{ram.fd}", os.O_RDONLY),)
    expected = {"pipe": errno.EINVAL, "directory": None, "read-only": errno.EACCES, "closed": errno.EBADF}[
        kind
    ]
    found = refused(GuestMemory(unsealed=True), 0, 1, USER, 0, fds[0] if fds else 1 << 20)
    assert expected in (None, found)
    for fd in fds:
        os.close(fd)


def test_v28_memory_that_can_shrink_is_only_mapped_on_demand() -> None:
    loose = Ram(PAGE, sealed=False)
    assert refused(GuestMemory(), 0, PAGE, USER, 0, loose.fd) == errno.EPERM
    GuestMemory(unsealed=True).add(0, PAGE, USER, 0, loose.fd)
    loose.close()


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """Sealed memory of huge pages; none of them need exist."""
    try:
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"this kernel has no huge pages: {error.strerror}")
    os.ftruncate(fd, HUGE_PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield fd
    os.close(fd)


def test_v28_huge_pages_are_not_mapped_although_they_are_sealed(huge_pages: int) -> None:
    assert refused(GuestMemory(), 0, HUGE_PAGE, USER, 0, huge_pages) == errno.EOPNOTSUPP


def test_v26_memory_that_is_sealed_against_writing_is_told_apart_from_memory_that_can_shrink() -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    assert refused(GuestMemory(), 0, PAGE, USER, 0, fd) == errno.EACCES
    os.close(fd)


def test_v28_sealed_memory_stays_although_its_owner_wants_it_shorter(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(0, ram.size, USER, 0, ram.fd)
    with pytest.raises(PermissionError):
        os.ftruncate(ram.fd, 0)
    assert memory.guest_range(0, ram.size) == bytes(ram.size)


def test_region_is_removed_by_its_numbers(ram: Ram) -> None:
    memory = GuestMemory()
    memory.add(0, PAGE, USER, 0, ram.fd)
    memory.add(PAGE, PAGE, USER + PAGE, PAGE, ram.fd)
    with pytest.raises(KernelError):
        memory.remove(0, PAGE, USER + 1)
    memory.remove(0, PAGE, USER)
    assert memory.guest_range(0, 1) is None
    assert memory.guest_range(PAGE, 1) == b"\0"
    memory.clear()
    assert len(memory) == 0
    assert memory.guest_range(PAGE, 1) is None
