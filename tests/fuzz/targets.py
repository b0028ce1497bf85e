"""What is fuzzed: each target takes any bytes, and raises when something is wrong that they caused."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.conntrack import operate
from tests.fuzz.framing import split
from tests.fuzz.nat import translate
from tests.fuzz.vhost_user import converse
from tests.fuzz.vring import drive

TARGETS: dict[str, Callable[[bytes], None]] = {
    "conntrack": operate,
    "framing": split,
    "nat": translate,
    "vhost_user": converse,
    "vring": drive,
}
