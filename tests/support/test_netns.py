"""The test hosts themselves: what is promised about them, since every kernel test relies on it."""

from __future__ import annotations

import os
import socket

import pytest

from tests.support import netns
from tests.support.echo import wait_for_echo

pytestmark = [pytest.mark.e2e, netns.requires_root]


def test_a_host_reaches_its_world_and_leaves_nothing() -> None:
    with netns.Host() as host:
        wait_for_echo(host, host.world_ip)
        sleeper = host.popen("sleep 600")
        netns.wait_until(host.pids)
        names = [host.name, host.world.name]
    assert sleeper.wait(netns.PATIENCE_S) != 0
    assert not [name for name in names if os.path.exists(netns.NETNS_DIR / name)]


def test_call_runs_inside_and_hands_errors_back() -> None:
    with netns.Host(world=False) as host:
        host.run("ip link add br0 type bridge")
        assert [name for _, name in host.call(socket.if_nameindex)] == ["lo", "br0"]
        assert "br0" not in [name for _, name in socket.if_nameindex()]
        with pytest.raises(ZeroDivisionError):
            host.call(lambda: 1 // 0)


def test_sysctl_and_etc_are_the_hosts_own() -> None:
    with netns.Host(world=False) as host:
        assert host.sysctl("net.ipv4.ip_forward", 1) == "1"
        assert host.sysctl("net.ipv4.ip_forward", 0) == "0"
        host.etc("resolv.conf", "nameserver 192.0.2.1\n")
        assert host.run("cat /etc/resolv.conf").stdout == "nameserver 192.0.2.1\n"


def test_a_failed_command_shows_its_output() -> None:
    with netns.Host(world=False) as host, pytest.raises(AssertionError, match="does not exist"):
        host.run("ip link show nothing0")
