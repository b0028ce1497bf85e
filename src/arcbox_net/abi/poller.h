/* Waiting for many descriptors: epoll on Linux, kqueue on macOS.
 *
 * A descriptor is watched once in a poller. What was watched is found again by its token. Of a descriptor that is watched
 * for reading and writing, both may come in one event or in two.
 */
#ifndef ARCBOX_NET_POLLER_H
#define ARCBOX_NET_POLLER_H

#include <errno.h>
#include <stdint.h>

#include "platform.h"

#if ABX_MACOS
#include <fcntl.h>
#include <sys/event.h>
#include <time.h>
#include <unistd.h>
#else
#include <sys/epoll.h>
#endif

#define ABX_POLL_READ (1u << 0)
#define ABX_POLL_WRITE (1u << 2)
#define ABX_POLL_BROKEN (3u << 3) /* failed or hung up: it comes, or a bit of it, without being asked for */
#define ABX_POLL_END (1u << 13)   /* no more comes from the far end */
#define ABX_POLL_EDGE (1u << 31)  /* when something happens, not as long as it is so */

#if ABX_MACOS

typedef struct kevent abx_poll_event;

static inline uint64_t abx_poll_token(const abx_poll_event *event) { return (uint64_t)(uintptr_t)event->udata; }

/* kqueue has one word for an end and for a hang-up. */
static inline uint32_t abx_poll_events(const abx_poll_event *event) {
    uint32_t events = event->filter == EVFILT_WRITE ? ABX_POLL_WRITE : ABX_POLL_READ;
    return event->flags & EV_EOF ? events | ABX_POLL_END | ABX_POLL_BROKEN : events;
}

static inline int abx_poller_open(void) {
    int poller = kqueue();
    if (poller >= 0)
        fcntl(poller, F_SETFD, FD_CLOEXEC);
    return poller;
}

static inline int abx_poller_set(int poller, int fd, int16_t filter, uint16_t flags, uint64_t token) {
    struct kevent change;
    EV_SET(&change, fd, filter, flags, 0, 0, (void *)(uintptr_t)token);
    return kevent(poller, &change, 1, NULL, 0, NULL);
}

static inline void abx_poller_forget(int poller, int fd) {
    abx_poller_set(poller, fd, EVFILT_READ, EV_DELETE, 0);
    abx_poller_set(poller, fd, EVFILT_WRITE, EV_DELETE, 0);
}

static inline int abx_poller_watch(int poller, int fd, uint32_t events, uint64_t token) {
    const uint16_t flags = events & ABX_POLL_EDGE ? EV_ADD | EV_CLEAR : EV_ADD;
    if (events & ABX_POLL_READ && abx_poller_set(poller, fd, EVFILT_READ, flags, token) < 0)
        return -1;
    if (events & ABX_POLL_WRITE && abx_poller_set(poller, fd, EVFILT_WRITE, flags, token) < 0) {
        int failure = errno;
        abx_poller_forget(poller, fd);
        errno = failure;
        return -1;
    }
    return 0;
}

static inline int abx_poller_change(int poller, int fd, uint32_t events, uint64_t token) {
    abx_poller_forget(poller, fd); /* the flags of what is there already would stay */
    return abx_poller_watch(poller, fd, events, token);
}

static inline int abx_poller_wait(int poller, abx_poll_event *events, int count, int timeout_ms) {
    struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    return kevent(poller, NULL, 0, events, count, timeout_ms < 0 ? NULL : &timeout);
}

#else

_Static_assert(
    ABX_POLL_READ == (uint32_t)EPOLLIN && ABX_POLL_WRITE == (uint32_t)EPOLLOUT && ABX_POLL_END == (uint32_t)EPOLLRDHUP
        && ABX_POLL_BROKEN == (uint32_t)(EPOLLERR | EPOLLHUP) && ABX_POLL_EDGE == (uint32_t)EPOLLET,
    "our events are epoll's");

typedef struct epoll_event abx_poll_event;

static inline uint64_t abx_poll_token(const abx_poll_event *event) { return event->data.u64; }
static inline uint32_t abx_poll_events(const abx_poll_event *event) { return event->events; }

static inline int abx_poller_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

static inline int abx_poller_watch(int poller, int fd, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data.u64 = token};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static inline int abx_poller_change(int poller, int fd, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data.u64 = token};
    return epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static inline void abx_poller_forget(int poller, int fd) {
    struct epoll_event ignored = {0};
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, &ignored);
}

static inline int abx_poller_wait(int poller, abx_poll_event *events, int count, int timeout_ms) {
    return epoll_wait(poller, events, count, timeout_ms);
}

#endif
#endif
