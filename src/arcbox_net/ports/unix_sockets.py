"""Unix sockets at paths that users choose: bound for their owner alone, and never in place of somebody's own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from arcbox_net.config_ports import check_path_size
from arcbox_net.credentials import UCRED_BYTES, unpack_ucred
from arcbox_net.errors import ConfigError

SOCKET_MODE = 0o600
SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h; Python has no name for it
NOBODY = -1


def open_socket(kind: int) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, kind)
    opened.setblocking(False)
    return opened


def check_path(path: str) -> str:
    """Raises ConfigError for a path that no socket can have."""
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is no path of a socket", field="socket", value=path)
    check_path_size("socket", path)
    return path


class BoundSocket:
    """A socket at *path* that its owner alone may reach. A file there that nobody listens at is replaced.

    Raises ConfigError.
    """

    def __init__(self, path: str, kind: int, owner_uid: int | None = None) -> None:
        self.path = path
        self.socket = open_socket(kind)
        try:
            _remove_stale(path, kind)
            bind_private(self.socket, path)
            self._inode = inode_of(path)
            if owner_uid is not None and owner_uid != os.geteuid():
                self._give_to(owner_uid)
        except OSError as error:
            self.socket.close()
            raise _unusable(path, error.strerror or "cannot be bound") from None
        except ConfigError:
            self.socket.close()
            raise

    def _give_to(self, uid: int) -> None:
        try:
            _give_to(self.path, uid)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"owner_uid {uid}: {self.path} cannot be given to that user: {error.strerror}",
                fix="leave owner_uid out: only a network of root's has guests of other users",
                field="owner_uid",
                value=uid,
            ) from None

    def close(self) -> None:
        """Remove the file too, unless somebody has put another there."""
        if inode_of(self.path) == self._inode:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.socket.close()


def bind_private(unbound: socket.socket, path: str) -> None:
    """Bind it so that the file is its owner's alone from the beginning. Raises OSError."""
    try:
        os.fchmod(unbound.fileno(), SOCKET_MODE)  # the file gets it from here
    except OSError:  # macOS; the umask is that of all threads, so it comes second
        mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            unbound.bind(path)
        finally:
            os.umask(mask)
    else:
        unbound.bind(path)


def refuse_descriptors(receiving: socket.socket) -> None:
    """Have the kernel refuse descriptors to whoever sends any, from Linux 6.16 on; also at what it accepts."""
    if hasattr(socket, "SO_PASSCRED"):
        with contextlib.suppress(OSError):
            receiving.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def ask_for_senders(bound: socket.socket) -> None:
    """Have datagrams come with their sender's credentials, where there is such a thing."""
    if hasattr(socket, "SO_PASSCRED"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def peek_sender(bound: socket.socket, size: int) -> tuple[bytes, str | bytes, int, int]:
    """The beginning of the first datagram, which stays, its sender's address, pid and uid.

    Where datagrams have no credentials, the sender is whoever owns the socket that it came from. Raises OSError.
    """
    body, ancillary, _, sender = bound.recvmsg(size, socket.CMSG_SPACE(UCRED_BYTES), socket.MSG_PEEK)
    if hasattr(socket, "SO_PASSCRED"):
        pid, uid = unpack_ucred(ancillary[0][2][:UCRED_BYTES]) if ancillary else (0, NOBODY)
        return body, sender or "", pid, uid
    try:
        return body, sender or "", 0, os.lstat(sender).st_uid if sender else NOBODY
    except OSError:
        return body, sender, 0, NOBODY


def inode_of(path: str | bytes) -> tuple[int, int] | None:
    """What tells the file at *path* from the next one there. None: there is none."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):  # ValueError: an abstract address
        return None
    return found.st_dev, found.st_ino


def is_served(address: str | bytes, kind: int) -> bool:
    """Whether a socket is bound there. Raises OSError when that cannot be found out."""
    with open_socket(kind) as probe:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # its queue of clients is full
            return True
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            return True  # a socket of datagrams that is connected to another one
    return True


def _give_to(path: str, uid: int) -> None:
    """Make a socket that was bound just now another user's. Raises OSError, ConfigError.

    Whoever may write to its directory can put something else there meanwhile: another link to a file of ours, too.
    """
    if not hasattr(os, "O_PATH"):  # macOS
        os.chown(path, uid, -1, follow_symlinks=False)
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise _unusable(path, "somebody has put something else there")
        os.chown(f"/proc/self/fd/{fd}", uid, -1)
    finally:
        os.close(fd)


def _remove_stale(path: str, kind: int) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _unusable(path, "is there, and is no socket")
    if is_served(path, kind):
        raise _unusable(path, "somebody listens there")
    os.unlink(path)


def _unusable(path: str, why: str) -> ConfigError:
    return ConfigError(f"{path}: {why}", fix="choose another path", field="socket", value=path)
