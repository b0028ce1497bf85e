/* Memory under a descriptor, whose size nobody can change: a sealed memfd on Linux, POSIX shared memory on macOS.
 *
 * Without that, whoever holds the descriptor could shorten the file, and our next access would be a SIGBUS.
 */
#ifndef ARCBOX_NET_SHARED_MEMORY_H
#define ARCBOX_NET_SHARED_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform.h"

#if ABX_MACOS

#include <stdio.h>
#include <stdlib.h>

#define ABX_SHARED_KIND "POSIX shared memory"

/* Under a name of 64 random bits, until the name is removed at once. */
static inline int abx_shared_open(const char *name) {
    char path[24]; /* PSHMNAMLEN is 31 */
    int fd, tries;
    (void)name;
    for (tries = 0; tries < 16; tries++) {
        snprintf(path, sizeof(path), "/abx-%08x%08x", arc4random(), arc4random());
        fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd >= 0) {
            shm_unlink(path);
            return fd;
        }
        if (errno != EEXIST)
            break;
    }
    return -1;
}

/* The system takes a size once. */
static inline int abx_shared_size(int fd, int64_t size) { return ftruncate(fd, size); }

static inline bool abx_shared_is_fixed(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_size > 0 && ftruncate(fd, status.st_size) < 0 && errno == EINVAL;
}

static inline void abx_advise_huge_pages(void *base, size_t size) { (void)base, (void)size; }

#else

#define ABX_SHARED_KIND "a memfd with F_SEAL_SHRINK"

static inline int abx_shared_open(const char *name) { return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); }

static inline int abx_shared_size(int fd, int64_t size) {
    if (ftruncate(fd, size) < 0)
        return -1;
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

static inline bool abx_shared_is_fixed(int fd) {
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && seals & F_SEAL_SHRINK;
}

static inline void abx_advise_huge_pages(void *base, size_t size) { madvise(base, size, MADV_HUGEPAGE); }

#endif
#endif
