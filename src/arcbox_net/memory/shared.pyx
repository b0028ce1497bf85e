"""Memory that other processes can map: a memfd whose size nobody can change, and its mapping here.

Without the seals, whoever holds the descriptor could shorten the file, and our next access would be a SIGBUS.
"""

from libc.errno cimport errno
from libc.string cimport strerror

from arcbox_net.abi.files cimport close, fcntl
from arcbox_net.abi.mapping cimport (
    F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, MADV_HUGEPAGE, MAP_FAILED,
    MAP_SHARED, MFD_ALLOW_SEALING, MFD_CLOEXEC, PROT_READ, PROT_WRITE, fstat, ftruncate, madvise, memfd_create, mmap,
    munmap, stat_t,
)

from arcbox_net.errors import ConfigError, KernelError

cdef enum:
    PAGE_BYTES = 4096


cdef object _refused(str operation, str subject):
    return KernelError(
        f"{operation} {subject}: {strerror(errno).decode()}", operation=operation, object=subject, errno=errno
    )


cdef class SharedMemory:
    """*size* bytes of zeros under a descriptor of its own (`fd`), mapped until the last reference goes."""

    def __cinit__(self):
        self.fd = -1

    @staticmethod
    def create(str name, size_t size):
        """Return new memory; *name* shows in /proc/PID/maps."""
        cdef SharedMemory memory = SharedMemory()
        memory.fd = memfd_create(name.encode(), MFD_CLOEXEC | MFD_ALLOW_SEALING)
        if memory.fd < 0:
            raise _refused("memfd_create", name)
        if ftruncate(memory.fd, <ssize_t>size) < 0:
            raise _refused("ftruncate", f"{name} to {size} bytes")
        if fcntl(memory.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0:
            raise _refused("fcntl(F_ADD_SEALS)", name)
        memory.size = size
        memory.map()
        return memory

    @staticmethod
    def attach(int fd):
        """Map what another process created; *fd* stays the caller's. ConfigError if its size could change."""
        cdef SharedMemory memory = SharedMemory()
        cdef stat_t status
        cdef int seals = fcntl(fd, F_GET_SEALS)
        if seals < 0 or not seals & F_SEAL_SHRINK:
            raise ConfigError(
                f"descriptor {fd} is no memory that cannot shrink",
                fix="pass the fd of a memfd with F_SEAL_SHRINK",
                field="fd",
                value=fd,
            )
        memory.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)
        if memory.fd < 0:
            raise _refused("fcntl(F_DUPFD_CLOEXEC)", f"descriptor {fd}")
        if fstat(memory.fd, &status) < 0:
            raise _refused("fstat", f"descriptor {fd}")
        memory.size = <size_t>status.st_size
        memory.map()
        return memory

    cdef int map(self) except -1:
        cdef void *base = mmap(NULL, self.size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            raise _refused("mmap", f"{self.size} bytes")
        self.base = <uint8_t *>base
        return 0

    def advise_huge_pages(self):
        """Ask for 2 MiB pages: fewer TLB misses. A kernel that was built without them says no, and that is all."""
        madvise(self.base, self.size, MADV_HUGEPAGE)

    def touch(self):
        """Have every page now, not at its first use."""
        cdef size_t offset = 0
        with nogil:
            while offset < self.size:
                (<volatile uint8_t *>self.base)[offset] = 0
                offset += PAGE_BYTES

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            close(self.fd)
