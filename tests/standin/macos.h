/* Ahead of everything that is compiled as if for macOS: what macOS has and Linux has not, and of what Linux alone has
 * the names are poisoned, so that no module for macOS can use them unseen. */
#ifndef STANDIN_MACOS_H
#define STANDIN_MACOS_H

#define ABX_STANDIN 1

/* All that declares these names, before they are poisoned. */
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* POSIX shared memory gets its size once. */
static inline int standin_shm_open(const char *name, int flags, mode_t mode)
{
    (void)flags, (void)mode;
    return memfd_create(name + 1, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

static inline int standin_shm_unlink(const char *name) { return name[0] == '/' ? 0 : -1; }

static inline int standin_ftruncate(int fd, off_t size)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && seals & F_SEAL_SHRINK) {
        errno = EINVAL;
        return -1;
    }
    if (ftruncate(fd, size) < 0)
        return -1;
    return seals < 0 ? 0 : fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
}

static inline bool standin_is_datagram(int fd)
{
    int type = 0;
    socklen_t size = sizeof(type);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM;
}

/* Whether a send waits is the descriptor's matter, whatever its flags are; a full queue of datagrams never makes it. */
static inline ssize_t standin_sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t sent = sendmsg(fd, message, flags & ~MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN && standin_is_datagram(fd))
        errno = ENOBUFS;
    return sent;
}

/* An association is dissolved by an address that nobody can have, which is an error. */
static inline int standin_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int result = connect(fd, address, size);
    if (address->sa_family != AF_UNSPEC)
        return result;
    errno = EAFNOSUPPORT;
    return -1;
}

static inline int standin_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    return name < 0 ? 0 : setsockopt(fd, level, name, value, size);
}

#define shm_open standin_shm_open
#define shm_unlink standin_shm_unlink
#define ftruncate standin_ftruncate
#define sendmsg standin_sendmsg
#define connect standin_connect
#define setsockopt standin_setsockopt
#define SO_NOSIGPIPE (-1)

#undef MSG_NOSIGNAL
#undef SOCK_CLOEXEC
#undef SOCK_NONBLOCK
#undef MADV_HUGEPAGE
#undef F_ADD_SEALS
#undef F_GET_SEALS
#undef SCHED_BATCH
#pragma GCC poison MSG_NOSIGNAL SOCK_CLOEXEC SOCK_NONBLOCK MADV_HUGEPAGE F_ADD_SEALS F_GET_SEALS SCHED_BATCH
#pragma GCC poison accept4 recvmmsg sendmmsg mmsghdr memfd_create pipe2 splice gettid sched_setscheduler
#pragma GCC poison epoll_create1 epoll_ctl epoll_wait EPOLLIN EPOLLOUT EPOLLET eventfd eventfd_read eventfd_write

#endif
