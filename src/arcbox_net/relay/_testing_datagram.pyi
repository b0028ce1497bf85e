def join(frames: list[bytes]) -> list[bytes | bool | None]: ...
def write(
    fd: int,
    guest: bytes,
    peer: bytes,
    ports: tuple[int, int],
    pieces: list[bytes],
    segment: int,
    mtu: int,
    super_refused: bool = False,
) -> tuple[list[int], bool]: ...
