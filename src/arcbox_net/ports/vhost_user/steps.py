"""How the decisions of a session wait for the port: generators that yield commands and are sent the answers."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from arcbox_net.ports.vhost_user.port_messages import PortMessage

T = TypeVar("T")


class Refused(Exception):
    """The front end asked for what cannot be."""


@dataclass(frozen=True)
class Command:
    """A message to the port. The answer is a number from 0 on, or a negative errno."""

    kind: PortMessage
    payload: bytes = b""


Steps = Generator[Command, int, T]


def ask(kind: PortMessage, payload: bytes = b"", *, reasons: Mapping[int, str] = {}) -> Steps[int]:
    """The port's answer. Raises Refused, with what *reasons* says of the errno if it does."""
    answer = yield Command(kind, payload)
    if answer < 0:
        raise Refused(reasons.get(-answer) or f"{kind.name.lower()}: {os.strerror(-answer)}")
    return answer
