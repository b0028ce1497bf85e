CSUM: int
TSO4: int
TSO6: int
ECN: int
LARGE: int
USO: int
SEGMENTS: int
PARTS: int

class NotingPort:
    def __new__(cls, *, takes: int = 0, frame_max: int = 1514, up: bool = True) -> NotingPort: ...
    def send(self, frames: list[bytes], *, head: int = 0, piece: int = 0) -> list[bytes]: ...
    def time(
        self, frames: list[bytes], rounds: int, *, head: int = 0, piece: int = 0
    ) -> tuple[float, int]: ...
    @property
    def drops(self) -> dict[int, int]: ...

class Burst:
    def __new__(cls, frames: list[bytes], head: int, piece: int) -> Burst: ...

def time_memcpy(size: int, rounds: int) -> float: ...
