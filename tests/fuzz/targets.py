"""What is fuzzed: each target takes any bytes, and raises when something is wrong that they caused.

`SAME_RUNS` are how many inputs CI gives each: a minute or a little more of one core.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.conntrack import operate
from tests.fuzz.framing import split
from tests.fuzz.nat import translate
from tests.fuzz.nat_model import compare
from tests.fuzz.switch import exchange
from tests.fuzz.vhost_user import converse
from tests.fuzz.vring import drive

TARGETS: dict[str, Callable[[bytes], None]] = {
    "conntrack": operate,
    "framing": split,
    "nat": translate,
    "nat_model": compare,
    "switch": exchange,
    "vhost_user": converse,
    "vring": drive,
}

IN_PYTHON = {"vhost_user": "arcbox_net/ports/vhost_user/"}  # what they look at is no compiled code, but here

SAME_RUNS = {
    "conntrack": 90_000,
    "framing": 400_000,
    "nat": 28_000,
    "nat_model": 1_000,
    "switch": 17_000,
    "vhost_user": 8_000,
    "vring": 42_000,
}
