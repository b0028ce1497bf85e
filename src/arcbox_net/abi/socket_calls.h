/* Calls on connected sockets that never wait and raise no signal: many datagrams at once where the system can. */
#ifndef ARCBOX_NET_SOCKET_CALLS_H
#define ARCBOX_NET_SOCKET_CALLS_H

#include <errno.h>
#include <sys/socket.h>

#include "platform.h"

#if ABX_MACOS

#include <fcntl.h>

#define ABX_SEND_FLAGS MSG_DONTWAIT
#define ABX_FULL_IS_ENOBUFS 1 /* of a peer's queue of datagrams, and nothing tells when it has room again */

typedef struct {
    struct msghdr msg_hdr;
    unsigned int msg_len;
} abx_datagram;

/* To be called once for each socket: sends heed neither MSG_DONTWAIT nor a flag against SIGPIPE. Datagrams wait in the
 * buffer of who receives them, which Apple wants to have four times the sender's. */
static inline int abx_socket_prepare(int fd, int send_buffer_bytes) {
    int on = 1, receive_bytes = 4 * send_buffer_bytes, flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof(send_buffer_bytes));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    return 0;
}

static inline int abx_receive_datagrams(int fd, abx_datagram *datagrams, unsigned int count) {
    unsigned int done;
    ssize_t received;
    for (done = 0; done < count; done++) {
        received = recvmsg(fd, &datagrams[done].msg_hdr, MSG_DONTWAIT);
        if (received < 0)
            break;
        datagrams[done].msg_len = (unsigned int)received;
    }
    return done ? (int)done : -1;
}

static inline int abx_send_datagrams(int fd, abx_datagram *datagrams, unsigned int count) {
    unsigned int done;
    ssize_t sent;
    for (done = 0; done < count; done++) {
        sent = sendmsg(fd, &datagrams[done].msg_hdr, ABX_SEND_FLAGS);
        if (sent < 0)
            break;
        datagrams[done].msg_len = (unsigned int)sent;
    }
    return done ? (int)done : -1;
}

#else

#define ABX_SEND_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL)
#define ABX_FULL_IS_ENOBUFS 0

typedef struct mmsghdr abx_datagram;

static inline int abx_socket_prepare(int fd, int send_buffer_bytes) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof(send_buffer_bytes));
    return 0;
}

static inline int abx_receive_datagrams(int fd, abx_datagram *datagrams, unsigned int count) {
    return recvmmsg(fd, datagrams, count, MSG_DONTWAIT, NULL);
}

static inline int abx_send_datagrams(int fd, abx_datagram *datagrams, unsigned int count) {
    return sendmmsg(fd, datagrams, count, ABX_SEND_FLAGS);
}

#endif

/* Whoever else has a descriptor too: a socket of datagrams forgets its peer, and stays bound; a connection ends. What
 * dissolves an association ends in an error on macOS. */
static inline void abx_socket_leave(int fd) {
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    int type = 0;
    socklen_t size = sizeof(type);
    if (connect(fd, &nobody, sizeof(nobody)) < 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0
        && type == SOCK_STREAM)
        shutdown(fd, SHUT_RDWR);
}

#endif
