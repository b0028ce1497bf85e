"""What the forwarder wants done. It decides without I/O; `service` and `asking` carry these out."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from arcbox_net.services.dns.upstreams import Upstream


@dataclasses.dataclass(slots=True, frozen=True)
class Reply:
    """Send *packet* to *client*."""

    client: Hashable
    packet: bytes


@dataclasses.dataclass(slots=True, frozen=True)
class Ask:
    """Send *packet* to *upstream* from a fresh socket, and report what comes back under *attempt*."""

    attempt: int
    upstream: Upstream
    packet: bytes
    stream: bool


@dataclasses.dataclass(slots=True, frozen=True)
class Cancel:
    """Close the socket of *attempt*."""

    attempt: int


Action = Reply | Ask | Cancel
