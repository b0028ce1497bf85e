"""What a monitor may do to its TAP that a guest cannot, and what its neighbours notice of that."""

from __future__ import annotations

import fcntl
import struct

from arcbox_net import NetConfig
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine
from tests.support.netns import wait_until

SIOCSIFHWADDR = 0x8924
ARPHRD_ETHER = 1


def set_mac(tap_fd: int, mac: str) -> None:
    """As the holder of a TAP's descriptor may, without any privilege."""
    address = bytes.fromhex(mac.replace(":", ""))
    fcntl.ioctl(tap_fd, SIOCSIFHWADDR, struct.pack("=16sH6s16x", b"", ARPHRD_ETHER, address))


def test_a_tap_that_takes_its_neighbours_mac_cuts_it_off_for_a_moment_only(machine: Machine) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        victim = machine.guest(network, "victim")
        with network.attach_tap("evil") as tap:
            set_mac(tap.fd, victim.mac)
            wait_until(lambda: victim.mac not in machine.run(f"ip link show {tap.ifname}").stdout)
            wait_for_echo(victim, "192.168.64.1")
            assert {port.name for port in network.ports()} == {"victim", "evil"}
            set_mac(tap.fd, victim.mac)
            wait_until(lambda: {port.name for port in network.ports()} == {"victim"})
            wait_for_echo(victim, "192.168.64.1")
