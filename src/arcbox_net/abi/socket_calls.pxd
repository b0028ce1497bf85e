"""Calls on connected sockets that never wait and raise no signal: see socket_calls.h. Declarations only."""

from arcbox_net.abi.socket cimport msghdr


cdef extern from "socket_calls.h" nogil:
    const int ABX_SEND_FLAGS  # of sendmsg
    const bint ABX_FULL_IS_ENOBUFS  # a peer's queue of datagrams, and nothing tells when it has room again

    ctypedef struct abx_datagram:
        msghdr msg_hdr
        unsigned int msg_len  # that were sent, or have come

    int abx_socket_prepare(int fd, int send_buffer_bytes)  # once for each socket, before the others
    void abx_socket_leave(int fd)  # its peer, before it is closed
    int abx_receive_datagrams(int fd, abx_datagram *datagrams, unsigned int count)  # how many, or -1 with errno
    int abx_send_datagrams(int fd, abx_datagram *datagrams, unsigned int count)
