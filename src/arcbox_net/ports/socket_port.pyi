PEER_CONNECT: int
PEER_DISCONNECT: int
PEER_EOF: int
PEER_ERROR: int
PEER_BAD_LENGTH: int
BACKLOG_BYTES_MAX: int

def check_frame_max(frame_max: int) -> None: ...
