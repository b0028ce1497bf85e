"""K9, K10: others change the kernel under a running network: links vanish, rulesets are flushed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.errors import PortNotFound
from tests.support.dig import dig
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.machine import Machine, udhcpc, wait_for_rest
from tests.support.netns import wait_until
from tests.support.peers import http_server, is_closed, refused

pytestmark = [pytest.mark.fault]
GATEWAY = "192.168.64.1"
REPAIRS_S = 90.0  # a network repairs so often a minute, and what came in two parts may have taken two


@pytest.fixture
def network(machine: Machine) -> Iterator[NetworkManager]:
    with machine.network(NetConfig(), name="dev") as started:
        yield started


@pytest.mark.parametrize("how", ["flush ruleset", "delete table inet abx_dev", "delete table bridge abx_dev"])
def test_k10_removed_rules_come_back(machine: Machine, network: NetworkManager, how: str) -> None:
    guest = machine.guest(network, "vm1")
    network.expose("0.0.0.0:8080:vm1:80")
    rules = machine.ruleset()
    for _ in range(3):
        machine.run(f"nft {how}")
        wait_until(lambda: machine.ruleset() == rules, timeout=REPAIRS_S, message=f"the rules after {how}")
        wait_for_echo(guest, machine.world_ip)
        with http_server(guest), http_server(machine, 8000):
            assert refused(machine.world, machine.host_ip, 8080) is None
            assert is_closed(guest, GATEWAY, 8000)


def test_k10_changed_rules_are_put_right(machine: Machine, network: NetworkManager) -> None:
    rules = machine.ruleset()
    machine.run("nft add rule inet abx_dev forward accept", check=False)
    machine.run("nft flush table inet abx_dev")
    wait_until(lambda: machine.ruleset() == rules)


def test_k10_rules_of_others_survive_our_repair(machine: Machine, network: NetworkManager) -> None:
    machine.run("nft add table inet theirs")
    machine.run("nft delete table inet abx_dev")
    wait_until(lambda: "table inet abx_dev" in machine.ruleset())
    assert "table inet theirs" in machine.ruleset()


def test_k10_foreign_drop_is_reported_and_not_overridden(machine: Machine, network: NetworkManager) -> None:
    guest = machine.guest(network)
    wait_for_echo(guest, machine.world_ip)
    machine.drop_forwarded("lockdown")
    assert not is_echoed(guest, machine.world_ip)
    wait_until(
        lambda: any("lockdown" in warning.message for warning in network.status().warnings), timeout=30
    )
    assert "policy drop" in machine.run("nft list table ip lockdown").stdout


def test_k9_deleted_guest_link_is_reported_and_costs_nothing(
    machine: Machine, network: NetworkManager
) -> None:
    for number in range(20):
        name = f"vm{number}"
        with network.attach_tap(name) as tap:
            machine.run(f"ip link del {tap.ifname}", check=False)
            machine.run(f"ip link set {tap.ifname} nomaster", check=False)
    wait_for_rest(network.pid)
    machine.guest(network, "next")

    def states() -> dict[str, str]:
        return {port.name: port.state for port in network.ports()}

    assert states()["next"] == "up"
    wait_until(lambda: set(states().values()) <= {"up", "gone", "down"})
    assert list(states().values()).count("up") == 1


def test_k9_guest_taken_out_of_its_bridge_comes_back(machine: Machine, network: NetworkManager) -> None:
    guest = machine.guest(network, "vm1")
    machine.run(f"ip link set {network.ports()[0].ifname} nomaster")
    wait_for_echo(guest, machine.world_ip)
    assert network.stats()["host"]["repairs"] == 1


def test_guests_that_come_and_go_are_no_damage(machine: Machine, network: NetworkManager) -> None:
    with machine.network(name="other") as other:
        for number in range(6):
            for of in (network, other):
                machine.guest(of, f"vm{number}")
                of.detach(f"vm{number}")
        machine.run("nft flush ruleset")
        wait_until(lambda: network.stats()["host"]["repairs"])
        for of in (network, other):
            assert of.stats()["host"]["repairs"] <= 2  # of the flush, which an audit may have found once more


def test_k10_busy_networks_take_no_change_of_each_others_for_damage(
    machine: Machine, network: NetworkManager
) -> None:
    with machine.network(name="other") as other:

        def come_and_go(on: NetworkManager, who: int) -> None:
            for number in range(25):
                on.attach_tap(f"vm{who}x{number}").close()

        threads = [
            threading.Thread(target=come_and_go, args=(on, who))
            for who, on in enumerate((network, other) * 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: not network.ports() and not other.ports())
        assert [on.stats()["host"]["repairs"] for on in (network, other)] == [0, 0]


def test_k9_port_whose_link_vanished_can_be_attached_again(machine: Machine, network: NetworkManager) -> None:
    guest = machine.guest(network, "vm1")
    guest.run("ip link del eth0")
    wait_until(lambda: [port.state for port in network.ports()] in ([], ["gone"]))
    with contextlib.suppress(PortNotFound):  # it may be forgotten already
        network.detach("vm1")
    again = machine.guest(network, "vm1")
    wait_for_echo(again, machine.world_ip)


def test_k9_renamed_downed_and_resized_links_do_not_disturb_others(
    machine: Machine, network: NetworkManager
) -> None:
    victim, other = machine.guest(network, "victim"), machine.guest(network, "other")
    ifname = next(port.ifname for port in network.ports() if port.name == "victim")
    for number in range(10):
        machine.run(f"ip link set {ifname} down")
        machine.run(f"ip link set {ifname} mtu {1300 + number}")
        machine.run(f"ip link set {ifname} up")
    for guest in (other, victim):
        wait_for_echo(guest, machine.world_ip)
    wait_for_rest(network.pid)
    assert network.state == "running"


def test_k9_lost_bridge_comes_back_with_its_guests(machine: Machine, network: NetworkManager) -> None:
    guest = machine.bare_guest(network, "vm1")
    udhcpc(guest)
    for _ in range(3):
        machine.run("ip link del abx-dev")
        wait_until(lambda: "abx-dev" in machine.links(), timeout=REPAIRS_S, message="the bridge is back")
        wait_until(lambda: is_echoed(guest, machine.world_ip), timeout=REPAIRS_S, message="it is online")
        assert udhcpc(guest)["ip"] == guest.ip
    assert dig(guest, GATEWAY, "vm1.dev.internal") == [guest.ip]
    wait_for_rest(network.pid)


@pytest.mark.parametrize(
    "change",
    ["ip addr flush dev abx-dev", "ip link set abx-dev down", "ip addr del 192.168.64.1/24 dev abx-dev"],
)
def test_k9_gateway_address_and_bridge_state_come_back(
    machine: Machine, network: NetworkManager, change: str
) -> None:
    guest = machine.guest(network)
    machine.run(change)
    wait_for_echo(guest, machine.world_ip)


def test_uplink_that_goes_and_comes_is_used_again(machine: Machine, network: NetworkManager) -> None:
    guest = machine.guest(network)
    wait_for_echo(guest, machine.world_ip)
    machine.run("ip link set up0 down")
    assert not is_echoed(guest, machine.world_ip)
    machine.run("ip link set up0 up")
    machine.run(f"ip route replace default via {machine.world_ip}")
    wait_for_echo(guest, machine.world_ip)
