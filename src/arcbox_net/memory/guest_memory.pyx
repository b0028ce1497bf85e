"""Mapping a guest's memory: what a front end says of it is checked, and what could take us down is refused.

A file that its owner can shorten turns our next access into a SIGBUS. So it has to be sealed against that
(F_SEAL_SHRINK), unless whoever runs this trusts the front end. Of huge pages that is not enough: a hole that is punched
into their file gives the page and its reservation back, and our next access ends in SIGBUS if others have taken it.
Sizes are compared with the file's own.

The table may change only while nobody uses an address that came out of it: its owner sees to that.
"""

from libc.errno cimport EACCES, EBADF, EEXIST, EINVAL, ENOENT, ENOSPC, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from arcbox_net.abi.files cimport fcntl
from arcbox_net.abi.filesystems cimport HUGETLBFS_MAGIC, fstatfs, statfs_t
from arcbox_net.abi.mapping cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, fstat, mmap, munmap, stat_t,
)
from arcbox_net.abi.seals cimport F_GET_SEALS, F_SEAL_SHRINK

from arcbox_net.errors import KernelError

REGIONS_MAX = GUEST_REGIONS_MAX

cdef enum:
    PAGE_BYTES = 4096


cdef int guest_memory_add(
    guest_memory *memory, uint64_t gpa, uint64_t size, uint64_t user, uint64_t offset, int fd, bint unsealed
) noexcept nogil:
    """Map *size* bytes of *fd*, which stays the caller's. 0, or a negative errno.

    ENOSPC: one region too many. EINVAL: no such range, or not of the file. EEXIST: overlaps another region.
    EACCES: it may not be written. Unless *unsealed* memory is accepted, EPERM: the file can shrink; EOPNOTSUPP: it
    has huge pages.
    """
    cdef guest_region *region
    cdef void *base
    cdef int error
    cdef uint32_t i
    if memory.count == GUEST_REGIONS_MAX:
        return -ENOSPC
    if size == 0 or size > UINT64_MAX - gpa or size > UINT64_MAX - user:
        return -EINVAL
    for i in range(memory.count):
        region = &memory.regions[i]
        if _overlap(gpa, region.gpa, size, region.size) or _overlap(user, region.user, size, region.size):
            return -EEXIST
    error = 0 if unsealed else _check_safe(fd)
    if error == 0:
        error = _check_range(fd, offset, size)
    if error < 0:
        return error
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, <int64_t>offset)
    if base == MAP_FAILED:
        return -EACCES if errno == EPERM else -errno  # a seal against writing
    region = &memory.regions[memory.count]
    region.gpa = gpa
    region.size = size
    region.user = user
    region.base = <uint8_t *>base
    memory.count += 1
    return 0


cdef int guest_memory_remove(guest_memory *memory, uint64_t gpa, uint64_t size, uint64_t user) noexcept nogil:
    """Unmap the region that was added with just these numbers. 0, or -ENOENT."""
    cdef guest_region *region
    cdef uint32_t i
    for i in range(memory.count):
        region = &memory.regions[i]
        if region.gpa == gpa and region.size == size and region.user == user:
            munmap(region.base, region.size)
            memory.count -= 1
            region[0] = memory.regions[memory.count]
            memset(&memory.regions[memory.count], 0, sizeof(guest_region))
            memory.last = 0
            return 0
    return -ENOENT


cdef void guest_memory_clear(guest_memory *memory) noexcept nogil:
    cdef uint32_t i
    for i in range(memory.count):
        munmap(memory.regions[i].base, memory.regions[i].size)
    memset(memory, 0, sizeof(guest_memory))


cdef bint _overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size) noexcept nogil:
    return a - b < b_size if a >= b else b - a < a_size


cdef int _check_safe(int fd) noexcept nogil:
    """Whether no access can fail later. Only the kernel's own files have seals: no other is asked anything."""
    cdef int seals = fcntl(fd, F_GET_SEALS)
    cdef statfs_t status
    if seals < 0 or not seals & F_SEAL_SHRINK:
        return -EPERM
    if fstatfs(fd, &status) < 0:
        return -EBADF
    return -EOPNOTSUPP if status.f_type == HUGETLBFS_MAGIC else 0


cdef int _check_range(int fd, uint64_t offset, uint64_t size) noexcept nogil:
    cdef stat_t status
    if fstat(fd, &status) < 0:
        return -EBADF
    if offset % PAGE_BYTES or offset > INT64_MAX or status.st_size < 0:
        return -EINVAL
    if offset > <uint64_t>status.st_size or size > <uint64_t>status.st_size - offset:
        return -EINVAL
    return 0


cdef class GuestMemory:
    """Up to 32 regions of a guest's memory. Errors are KernelErrors with the errno that a port would answer."""

    def __cinit__(self, *, unsealed=False):
        self.unsealed = unsealed

    def __dealloc__(self):
        guest_memory_clear(&self.memory)

    def __len__(self):
        return self.memory.count

    def add(self, uint64_t gpa, uint64_t size, uint64_t user, uint64_t offset, int fd):
        """Map *size* bytes of *fd* from *offset* on."""
        self._check(guest_memory_add(&self.memory, gpa, size, user, offset, fd, self.unsealed), "add", gpa)

    def remove(self, uint64_t gpa, uint64_t size, uint64_t user):
        """Unmap the region of these numbers."""
        self._check(guest_memory_remove(&self.memory, gpa, size, user), "remove", gpa)

    def clear(self):
        """Unmap all regions."""
        guest_memory_clear(&self.memory)

    def guest_range(self, uint64_t gpa, uint64_t size):
        """The bytes at *gpa*, or None if they do not lie within one region."""
        return _view(guest_range(&self.memory, gpa, size), size)

    def user_range(self, uint64_t user, uint64_t size):
        """The bytes at the front end's address *user*, or None if they do not lie within one region."""
        return _view(user_range(&self.memory, user, size), size)

    cdef int _check(self, int status, str operation, uint64_t gpa) except -1:
        if status < 0:
            subject = f"guest memory at {gpa:#x}"
            raise KernelError(
                f"{operation} {subject}: errno {-status}", operation=operation, object=subject, errno=-status
            )
        return 0


cdef bytes _view(const uint8_t *base, uint64_t size):
    return None if base == NULL else base[:size]
