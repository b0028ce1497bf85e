"""The numbers of messages and reports of stream and dgram ports, for control."""

from arcbox_net.dataplane.port cimport FRAME_BYTES_MAX, FRAME_BYTES_MIN
from arcbox_net.ports.backlog cimport BACKLOG_BYTES_MAX as _BACKLOG_BYTES_MAX
from arcbox_net.ports.socket_port cimport (
    MESSAGE_CONNECT, MESSAGE_DISCONNECT, REPORT_BAD_LENGTH, REPORT_EOF, REPORT_ERROR,
)

from arcbox_net.errors import ConfigError

PEER_CONNECT = MESSAGE_CONNECT
PEER_DISCONNECT = MESSAGE_DISCONNECT
PEER_EOF = REPORT_EOF
PEER_ERROR = REPORT_ERROR
PEER_BAD_LENGTH = REPORT_BAD_LENGTH
BACKLOG_BYTES_MAX = _BACKLOG_BYTES_MAX


def check_frame_max(frame_max):
    """Raises ConfigError unless a port may have that as its largest frame."""
    if not FRAME_BYTES_MIN <= frame_max <= FRAME_BYTES_MAX:
        raise ConfigError(
            f"frame_max {frame_max}: expected {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}",
            field="frame_max",
            value=frame_max,
        )
