from array import array
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeVar, overload

from typing_extensions import Buffer

_Address = IPv4Address | IPv6Address | str | bytes
_Out = TypeVar("_Out", bound=Buffer)

def checksum(buffer: Buffer, initial: int = 0) -> int: ...
def pseudo_header_checksum(source: _Address, destination: _Address, protocol: int, size: int) -> int: ...
def incremental_checksum_update(
    old_checksum: int, old_value: int, new_value: int, *, width: Literal[16, 32] = 16
) -> int: ...
@overload
def checksum_batch(buffer: Buffer, offsets: Buffer, sizes: Buffer, out: None = None) -> array[int]: ...
@overload
def checksum_batch(buffer: Buffer, offsets: Buffer, sizes: Buffer, out: _Out) -> _Out: ...
@overload
def incremental_checksum_update_batch(
    old_checksums: Buffer,
    old_values: Buffer,
    new_values: Buffer,
    *,
    width: Literal[16, 32] = 16,
    out: None = None,
) -> array[int]: ...
@overload
def incremental_checksum_update_batch(
    old_checksums: Buffer, old_values: Buffer, new_values: Buffer, *, width: Literal[16, 32] = 16, out: _Out
) -> _Out: ...
