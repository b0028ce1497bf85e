"""K8: clocks that jump: the wall clock is set, the machine was asleep."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcbox_net import DnsConfig, NetConfig, NetworkManager
from tests.support.dig import dig
from tests.support.machine import CLI, Machine, kill9, udhcpc
from tests.support.peers import dns_server

pytestmark = [pytest.mark.fault]
YEAR_S, HOUR_S = 365 * 86400, 3600
LEASE_S = 3600
TOLERANCE_S = 120  # of a loaded machine
# What python runs first in the network process: the wall clock is as far off as a file says.
OTHER_TIME = """
import time
_time = time.time
def other():
    with open({path!r}) as file:
        return _time() + float(file.read() or 0)
time.time = other
"""


def left(network: NetworkManager) -> dict[str, float]:
    """Seconds that each lease has, by address."""
    return {lease.ip: lease.expires_s or 0.0 for lease in network.leases()}


def test_k8_setting_the_wall_clock_ends_and_prolongs_nothing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(OTHER_TIME.format(path=str(offset)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        dns_server(machine.world, machine.world_ip, tmp_path, f"--local-ttl={LEASE_S}") as log,
        machine.network(NetConfig(dns=DnsConfig(upstreams=(machine.world_ip,))), name="dev") as network,
    ):
        guests = [machine.bare_guest(network, name) for name in ("vm1", "vm2")]
        addresses = {udhcpc(guest)["ip"] for guest in guests}
        dig(guests[0], "192.168.64.1", "cached.test")
        asked = log.read_text().lower().count("cached.test")
        assert asked
        for jump in (YEAR_S, -YEAR_S, HOUR_S, -HOUR_S):
            offset.write_text(str(jump))
            found = left(network)
            assert set(found) == addresses
            assert all(LEASE_S - TOLERANCE_S < seconds <= LEASE_S for seconds in found.values())
            lease = udhcpc(guests[0], "-r", guests[0].ip)
            assert (lease["ip"], lease["lease"]) == (guests[0].ip, str(LEASE_S))
        dig(guests[0], "192.168.64.1", "cached.test")
        assert log.read_text().lower().count("cached.test") == asked


def test_k8_a_machine_that_slept_ten_minutes_counts_them_and_no_more(machine: Machine) -> None:
    """A time namespace makes BOOTTIME go on as if the machine had been suspended between two runs."""
    guest, other = machine.namespace("vm1"), machine.namespace("vm2")
    machine.cli("up dev")
    for name, namespace in (("vm1", guest), ("vm2", other)):
        machine.cli(f"attach dev {name} --netns {namespace.path} --no-configure")
    addresses = {udhcpc(guest)["ip"], udhcpc(other)["ip"]}
    for asleep, remaining in ((600, LEASE_S - 600), (LEASE_S - 300, 300)):
        kill9(machine.network_pids()[0])
        clocks = ["--time", "--fork", "--monotonic", str(asleep), "--boottime", str(asleep)]
        machine.run(["unshare", *clocks, str(CLI), "up", "dev"])
        found = {lease["ip"]: lease["expires_s"] for lease in machine.cli_json("lease ls dev")}
        assert set(found) == addresses
        assert all(remaining - TOLERANCE_S < seconds <= remaining for seconds in found.values())
    assert udhcpc(guest)["ip"] in addresses
    machine.cli("down dev")
