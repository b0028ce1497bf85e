"""K2: `nft` is killed while it applies a ruleset: the kernel has the old one or the new one, never half of it."""

from __future__ import annotations

import re

import pytest

from arcbox_net.host.linux import ruleset
from tests.host.test_nftables_render import PLANS
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, pytest.mark.fault, netns.requires_root]
STEPS_MAX = 20
OLD = PLANS["nat_empty"]
NEW = PLANS["nat_ipv6"]


def applied(host: Host) -> str:
    """The ruleset without handles and counters."""
    return re.sub(r"# handle \d+", "", host.run("nft -s list ruleset").stdout)


def test_k2_killed_while_applying_a_ruleset() -> None:
    with Host() as host:
        host.run("nft -f -", stdin=ruleset.replacement(NEW))
        new = applied(host)
        outcomes = []
        for step in range(1, STEPS_MAX):
            host.run("nft -f -", stdin=ruleset.replacement(OLD))
            old = applied(host)
            kill = ["strace", "-f", "-qq", "-e", "trace=sendmsg,sendto", "-o", "/dev/null"]
            kill += ["-e", f"inject=sendmsg,sendto:signal=KILL:when={step}"]
            done = host.run([*kill, "nft", "-f", "-"], stdin=ruleset.replacement(NEW), check=False)
            found = applied(host)
            assert found in (old, new), f"killed at call {step}"
            outcomes.append(found == new)
            if done.returncode == 0:
                break
        assert outcomes[-1] and not outcomes[0]
