"""The inner loops of `arcbox_net.netspeed`, where Python would be what is measured. Blocking sockets only."""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ECONNABORTED, ECONNREFUSED, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strerror

from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.files cimport close
from arcbox_net.abi.poll cimport POLLIN, poll, pollfd
from arcbox_net.abi.socket cimport (
    AF_INET, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, SOCK_CLOEXEC, SOCK_STREAM, accept4, connect,
    htons, iovec, mmsghdr, recv, recvmmsg, send, sendmmsg, sockaddr, sockaddr_in, socket,
)

import array

cdef enum:
    TOKEN_BYTES = 8
    BURST_MAX = 64
    DATAGRAM_BYTES_MAX = 65507
    RR_BYTES_MAX = 16 * 1024 * 1024


def rr_client(int fd, size_t size, int count):
    """Send *size* bytes and read *size* back, *count* times; the time of each exchange in ns."""
    if not 1 <= size <= RR_BYTES_MAX:
        raise ValueError(f"size {size}: expected 1 to {RR_BYTES_MAX}")
    times = array.array("Q", bytes(8 * count))
    cdef uint64_t[::1] view = times
    cdef uint8_t *buffer = <uint8_t *>calloc(1, size)
    cdef int failed = 0, i
    cdef uint64_t begin
    if buffer == NULL:
        raise MemoryError
    try:
        with nogil:
            for i in range(count):
                begin = monotonic_ns()
                if _send_all(fd, buffer, size) < 0 or _recv_all(fd, buffer, size) <= 0:
                    failed = errno if errno else -1
                    break
                view[i] = monotonic_ns() - begin
    finally:
        free(buffer)
    if failed:
        raise ConnectionError(failed, "the connection ended in the middle of an exchange")
    return times


def rr_server(int fd, size_t size):
    """Echo blocks of *size* bytes until the peer closes; the number of blocks."""
    if not 1 <= size <= RR_BYTES_MAX:
        raise ValueError(f"size {size}: expected 1 to {RR_BYTES_MAX}")
    cdef uint8_t *buffer = <uint8_t *>calloc(1, size)
    cdef int count = 0
    if buffer == NULL:
        raise MemoryError
    with nogil:
        while _recv_all(fd, buffer, size) > 0 and _send_all(fd, buffer, size) == 0:
            count += 1
    free(buffer)
    return count


def connect_many(bytes address, int l4_port, int count):
    """Open *count* IPv4 connections one after the other, with a byte each way on each; the seconds it took.

    *address* is packed. The server closes first, so the client keeps no TIME_WAIT.
    """
    cdef sockaddr_in name
    cdef int done = 0, fd, failed = 0
    cdef uint8_t byte = 0
    cdef uint64_t begin
    if len(address) != 4:
        raise ValueError("a packed IPv4 address has 4 bytes")
    memset(&name, 0, sizeof(name))
    name.sin_family = AF_INET
    name.sin_port = htons(<uint16_t>l4_port)
    memcpy(&name.sin_addr, <const char *>address, 4)
    begin = monotonic_ns()
    with nogil:
        while done < count and not failed:
            fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)
            if fd < 0 or connect(fd, <sockaddr *>&name, sizeof(name)) < 0:
                failed = errno
            elif _send_all(fd, &byte, 1) < 0 or _recv_all(fd, &byte, 1) <= 0 or _recv_all(fd, &byte, 1) != 0:
                failed = errno if errno else ECONNREFUSED
            else:
                done += 1
            close(fd)
    if failed:
        raise OSError(failed, f"connection {done}: {strerror(failed).decode()}")
    return (monotonic_ns() - begin) / 1e9


def accept_many(int listener_fd):
    """Answer a byte on every connection and close it, until the listener is shut down; how many."""
    cdef int fd, count = 0
    cdef uint8_t byte = 0
    with nogil:
        while True:
            fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC)
            if fd < 0 and errno in (EINTR, ECONNABORTED):
                continue
            if fd < 0:
                break
            if _recv_all(fd, &byte, 1) > 0:
                _send_all(fd, &byte, 1)
            close(fd)
            count += 1
    return count


def udp_send(int fd, bytes token, size_t size, double seconds, double rate_pps=0.0):
    """Send datagrams of *size* bytes on a connected socket for *seconds*; how many the kernel took.

    *rate_pps* 0 sends as fast as the kernel takes them.
    """
    if len(token) != TOKEN_BYTES or not TOKEN_BYTES <= size <= DATAGRAM_BYTES_MAX:
        raise ValueError(f"size {size}: expected {TOKEN_BYTES} to {DATAGRAM_BYTES_MAX}, a token of 8")
    cdef uint8_t *buffer = <uint8_t *>calloc(1, size)
    cdef mmsghdr messages[BURST_MAX]
    cdef iovec vector
    cdef uint64_t sent = 0, begin, now, end, due
    cdef int i, n, failed = 0, burst = BURST_MAX
    if buffer == NULL:
        raise MemoryError
    memcpy(buffer, <const uint8_t *>token, TOKEN_BYTES)
    vector.iov_base = buffer
    vector.iov_len = size
    memset(messages, 0, sizeof(messages))
    for i in range(BURST_MAX):
        messages[i].msg_hdr.msg_iov = &vector
        messages[i].msg_hdr.msg_iovlen = 1
    begin = now = monotonic_ns()
    end = begin + <uint64_t>(seconds * 1e9)
    with nogil:
        while now < end:
            if rate_pps > 0:
                due = <uint64_t>(<double>(now - begin) * rate_pps / 1e9)
                if due <= sent:
                    poll(NULL, 0, 1)
                    now = monotonic_ns()
                    continue
                burst = <int>min(<uint64_t>BURST_MAX, due - sent)
            n = sendmmsg(fd, messages, burst, MSG_NOSIGNAL)
            if n > 0:
                sent += <uint64_t>n
            elif errno not in (EAGAIN, EINTR, ENOBUFS, ECONNREFUSED):
                failed = errno
                break
            now = monotonic_ns()
    free(buffer)
    if failed:
        raise OSError(failed, "sendmmsg failed")
    return sent


def udp_count(int fd, int control_fd, bytes token, int quiet_ms=200):
    """(count, bytes) of datagrams that begin with *token*, until *control_fd* is readable and none come."""
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"a token has {TOKEN_BYTES} bytes")
    cdef const uint8_t *wanted = <const uint8_t *>token
    cdef uint8_t heads[BURST_MAX][TOKEN_BYTES]
    cdef mmsghdr messages[BURST_MAX]
    cdef iovec vectors[BURST_MAX]
    cdef pollfd waits[2]
    cdef uint64_t count = 0, total = 0
    cdef int i, n, ending = 0
    memset(messages, 0, sizeof(messages))
    for i in range(BURST_MAX):
        vectors[i].iov_base = &heads[i][0]
        vectors[i].iov_len = TOKEN_BYTES
        messages[i].msg_hdr.msg_iov = &vectors[i]
        messages[i].msg_hdr.msg_iovlen = 1
    waits[0].fd = fd
    waits[1].fd = control_fd
    waits[0].events = waits[1].events = POLLIN
    while True:
        with nogil:
            while True:
                # The token is all that is read: MSG_TRUNC makes msg_len the datagram's true size.
                n = recvmmsg(fd, messages, BURST_MAX, MSG_DONTWAIT | MSG_TRUNC, NULL)
                if n <= 0:
                    break
                for i in range(n):
                    if messages[i].msg_len >= TOKEN_BYTES and memcmp(&heads[i][0], wanted, TOKEN_BYTES) == 0:
                        count += 1
                        total += messages[i].msg_len
            waits[0].revents = waits[1].revents = 0
            n = poll(waits, 1 if ending else 2, quiet_ms if ending else 1000)
        PyErr_CheckSignals()
        if ending and n == 0:
            return count, total
        if waits[1].revents:
            ending = 1


cdef int _send_all(int fd, const uint8_t *buffer, size_t size) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t n
    while done < size:
        n = send(fd, buffer + done, size - done, MSG_NOSIGNAL)
        if n < 0:
            if errno == EINTR:
                continue
            return -1
        done += <size_t>n
    return 0


cdef int _recv_all(int fd, uint8_t *buffer, size_t size) noexcept nogil:
    """1 when *size* bytes came, 0 at the end of the stream, -1 on an error."""
    cdef size_t done = 0
    cdef ssize_t n
    while done < size:
        n = recv(fd, buffer + done, size - done, 0)
        if n < 0 and errno == EINTR:
            continue
        if n <= 0:
            return <int>n
        done += <size_t>n
    return 1
