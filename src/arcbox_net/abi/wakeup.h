/* One thread wakes another, which waits for a descriptor to become readable: an eventfd on Linux, a pipe on macOS. */
#ifndef ARCBOX_NET_WAKEUP_H
#define ARCBOX_NET_WAKEUP_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include "platform.h"

struct abx_wakeup {
    int wait_fd;
    int signal_fd; /* may be the same */
};

#if ABX_MACOS

static inline int abx_wakeup_open(struct abx_wakeup *wakeup) {
    int ends[2], i;
    if (pipe(ends) < 0)
        return -1;
    for (i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    wakeup->wait_fd = ends[0];
    wakeup->signal_fd = ends[1];
    return 0;
}

/* A full pipe is readable already. */
static inline void abx_wakeup_signal(int signal_fd) {
    char byte = 0;
    while (write(signal_fd, &byte, 1) < 0 && errno == EINTR)
        ;
}

static inline void abx_wakeup_clear(int wait_fd) {
    char bytes[256];
    while (read(wait_fd, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes))
        ;
}

/* A poller has told of it, by an edge. A pipe that is full has no further edges. */
static inline void abx_wakeup_heard(int wait_fd) { abx_wakeup_clear(wait_fd); }

#else

#include <sys/eventfd.h>

static inline int abx_wakeup_open(struct abx_wakeup *wakeup) {
    wakeup->wait_fd = wakeup->signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return wakeup->wait_fd < 0 ? -1 : 0;
}

static inline void abx_wakeup_signal(int signal_fd) { eventfd_write(signal_fd, 1); }

static inline void abx_wakeup_clear(int wait_fd) {
    eventfd_t signals;
    eventfd_read(wait_fd, &signals);
}

static inline void abx_wakeup_heard(int wait_fd) { (void)wait_fd; }

#endif
#endif
