"""Memory that other processes can map: a descriptor of memory whose size nobody can change, and its mapping here."""

from libc.errno cimport errno
from libc.string cimport strerror

from arcbox_net.abi.files cimport F_DUPFD_CLOEXEC, close, fcntl
from arcbox_net.abi.mapping cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, fstat, mmap, munmap, stat_t,
)
from arcbox_net.abi.shared_memory cimport (
    ABX_SHARED_KIND, abx_advise_huge_pages, abx_shared_is_fixed, abx_shared_open, abx_shared_size,
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
        """Return new memory; *name* shows in /proc/PID/maps, where there is one."""
        cdef SharedMemory memory = SharedMemory()
        memory.fd = abx_shared_open(name.encode())
        if memory.fd < 0:
            raise _refused("shared memory", name)
        if abx_shared_size(memory.fd, <ssize_t>size) < 0:
            raise _refused("ftruncate", f"{name} to {size} bytes")
        memory.size = size
        memory.map()
        return memory

    @staticmethod
    def attach(int fd):
        """Map what another process created; *fd* stays the caller's. ConfigError if its size could change."""
        cdef SharedMemory memory = SharedMemory()
        cdef stat_t status
        if not abx_shared_is_fixed(fd):
            raise ConfigError(
                f"descriptor {fd} is no memory that cannot shrink",
                fix=f"pass the fd of {ABX_SHARED_KIND.decode()}",
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
        abx_advise_huge_pages(self.base, self.size)

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
