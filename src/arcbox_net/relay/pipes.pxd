"""Kernel pipes for the relay, reused: a flow holds one only while bytes are in it or it moves in bulk."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from arcbox_net.abi.files cimport O_CLOEXEC, O_NONBLOCK, close, fcntl
from arcbox_net.abi.splice cimport F_GETPIPE_SZ, F_SETPIPE_SZ, pipe2
from arcbox_net.relay.flow cimport COPY_BYTES, relay_pipe, relay_worker

cdef enum:
    PIPE_BYTES = 1048576
    PIPES_IDLE_MAX = 8  # pipes count against the user's quota (64 MiB for all), so few are kept


cdef inline relay_pipe *pipe_open() noexcept nogil:
    """A pipe that holds at least COPY_BYTES, or NULL: no descriptors, or the user's pipe quota is used up."""
    cdef int fds[2]
    cdef int size
    cdef relay_pipe *pipe
    if pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0:
        return NULL
    size = fcntl(fds[0], F_SETPIPE_SZ, PIPE_BYTES)
    if size < 0:
        # EPERM: beyond pipe-max-size or the user's pipe-user-pages-soft. The default will do.
        size = fcntl(fds[0], F_GETPIPE_SZ)
    pipe = <relay_pipe *>calloc(1, sizeof(relay_pipe)) if size >= COPY_BYTES else NULL
    if pipe == NULL:
        close(fds[0])
        close(fds[1])
        return NULL
    pipe.read_fd = fds[0]
    pipe.write_fd = fds[1]
    pipe.size = <uint32_t>size
    return pipe


cdef inline void pipe_close(relay_pipe *pipe) noexcept nogil:
    close(pipe.read_fd)
    close(pipe.write_fd)
    free(pipe)


cdef inline bint pipe_reserve(relay_worker *w) noexcept nogil:
    """Whether the next `pipe_acquire` will succeed."""
    if w.pipes == NULL:
        w.pipes = pipe_open()
        w.pipe_count = 1 if w.pipes != NULL else 0
    return w.pipes != NULL


cdef inline relay_pipe *pipe_acquire(relay_worker *w) noexcept nogil:
    cdef relay_pipe *pipe
    if not pipe_reserve(w):
        return NULL
    pipe = w.pipes
    w.pipes = pipe.next
    w.pipe_count -= 1
    pipe.next = NULL
    return pipe


cdef inline void pipe_release(relay_worker *w, relay_pipe *pipe, bint empty) noexcept nogil:
    """Take back *pipe*. One that still holds bytes is never reused."""
    if not empty or w.pipe_count >= PIPES_IDLE_MAX:
        pipe_close(pipe)
        return
    pipe.next = w.pipes
    w.pipes = pipe
    w.pipe_count += 1


cdef inline void pipes_free(relay_worker *w) noexcept nogil:
    cdef relay_pipe *pipe
    while w.pipes != NULL:
        pipe = w.pipes
        w.pipes = pipe.next
        pipe_close(pipe)
    w.pipe_count = 0
