/* kqueue on two epolls in a third, which is the queue's descriptor: one for each filter, as each is watched by itself.
 * What epoll would hide is as on macOS: events of one descriptor come one for each filter, an end is EV_EOF whatever its
 * reason, and adding what is there changes where it leads and not whether it is an edge. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <sys/event.h>

enum { QUEUES_MAX = 64, DESCRIPTORS_MAX = 4096, FILTERS = 2, AT_ONCE = 64 };

struct note {
    bool there;
    bool clear;
    void *udata;
};

struct queue {
    bool open;
    int fd;
    int filter_fds[FILTERS];
    struct note notes[FILTERS][DESCRIPTORS_MAX];
};

static struct queue queues[QUEUES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const uint32_t wanted[FILTERS] = {EPOLLIN | EPOLLRDHUP, EPOLLOUT};
static const uint32_t ended[FILTERS] = {EPOLLRDHUP | EPOLLHUP | EPOLLERR, EPOLLHUP | EPOLLERR};

/* A queue's descriptor may have been closed, and its number used again. */
static struct queue *find(int fd)
{
    for (int i = 0; i < QUEUES_MAX; i++)
        if (queues[i].open && queues[i].fd == fd)
            return &queues[i];
    return NULL;
}

static void discard(struct queue *queue)
{
    for (int f = 0; f < FILTERS; f++)
        close(queue->filter_fds[f]);
    *queue = (struct queue){0};
}

int kqueue(void)
{
    struct queue *queue;
    int fd = epoll_create1(0);
    if (fd < 0)
        return -1;
    pthread_mutex_lock(&lock);
    if ((queue = find(fd)))
        discard(queue);
    for (queue = queues; queue < queues + QUEUES_MAX && queue->open; queue++)
        ;
    if (queue == queues + QUEUES_MAX) {
        pthread_mutex_unlock(&lock);
        close(fd);
        errno = ENFILE;
        return -1;
    }
    queue->open = true;
    queue->fd = fd;
    for (int f = 0; f < FILTERS; f++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = f};
        queue->filter_fds[f] = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(fd, EPOLL_CTL_ADD, queue->filter_fds[f], &event);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int apply(struct queue *queue, const struct kevent *change)
{
    int fd = (int)change->ident, f = change->filter == EVFILT_WRITE;
    struct epoll_event event = {.events = wanted[f], .data.fd = fd};
    struct note *note;
    if (fd < 0 || fd >= DESCRIPTORS_MAX)
        return EBADF;
    note = &queue->notes[f][fd];
    if (change->flags & EV_DELETE) {
        if (!note->there)
            return ENOENT;
        note->there = false;
        return epoll_ctl(queue->filter_fds[f], EPOLL_CTL_DEL, fd, &event) < 0 ? errno : 0;
    }
    if (!note->there)
        note->clear = change->flags & EV_CLEAR;
    event.events |= note->clear ? EPOLLET : 0;
    if (epoll_ctl(queue->filter_fds[f], EPOLL_CTL_ADD, fd, &event) < 0) {
        if (errno != EEXIST)
            return errno;
        epoll_ctl(queue->filter_fds[f], EPOLL_CTL_MOD, fd, &event);
    }
    note->there = true;
    note->udata = change->udata;
    return 0;
}

static int collect(struct queue *queue, struct kevent *events, int count)
{
    struct epoll_event found[AT_ONCE];
    int used = 0;
    for (int f = 0; f < FILTERS && used < count; f++) {
        int most = count - used < AT_ONCE ? count - used : AT_ONCE;
        int ready = epoll_wait(queue->filter_fds[f], found, most, 0);
        for (int i = 0; i < ready; i++) {
            struct note *note = &queue->notes[f][found[i].data.fd];
            uint16_t flags = found[i].events & ended[f] ? EV_EOF : 0;
            if (note->there)
                EV_SET(&events[used++], found[i].data.fd, f ? EVFILT_WRITE : EVFILT_READ, flags, 0, 0, note->udata);
        }
    }
    return used;
}

int kevent(
    int fd, const struct kevent *changes, int change_count, struct kevent *events, int event_count,
    const struct timespec *timeout)
{
    int wait_ms = timeout ? (int)(timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000) : -1;
    struct epoll_event ready[FILTERS];
    struct queue *queue;
    int failure = 0, used = 0;
    pthread_mutex_lock(&lock);
    queue = find(fd);
    if (!queue)
        failure = EBADF;
    for (int i = 0; i < change_count && !failure; i++)
        failure = apply(queue, &changes[i]);
    pthread_mutex_unlock(&lock);
    if (failure) {
        errno = failure;
        return -1;
    }
    while (event_count > 0) {
        if (epoll_wait(fd, ready, FILTERS, wait_ms) < 0)
            return -1;
        pthread_mutex_lock(&lock);
        used = collect(queue, events, event_count);
        pthread_mutex_unlock(&lock);
        if (used || wait_ms >= 0)
            break;
    }
    return used;
}
