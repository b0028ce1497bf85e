"""Interfaces and networks of vmnet: what the framework is asked, what it answers, and every way it can refuse."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest

from arcbox_net import errors
from arcbox_net.ports.vmnet.options import VmnetForward, VmnetMode, VmnetOptions, VmnetReservation
from arcbox_net.ports.vmnet.status import VmnetStatus, raise_for
from tests.support.descriptors import open_descriptors
from tests.support.line import wait_for
from tests.support.vmnet import ROOT, Standin

SHARED = VmnetOptions(VmnetMode.SHARED)
GUEST = ipaddress.IPv4Address("192.168.64.2")
GUEST6 = ipaddress.IPv6Address("fd00::2")
WEB = VmnetForward("tcp", 8080, GUEST, 80)
REFUSALS = [s for s in VmnetStatus if s >= VmnetStatus.FAILURE]


def start(options: VmnetOptions = SHARED, network: Any = None) -> Any:
    from arcbox_net.ports.vmnet.interface import VmnetInterface

    return VmnetInterface(options, network)


def test_shared_mode_is_asked_for_as_documented(standin: Standin) -> None:
    options = VmnetOptions(
        VmnetMode.SHARED,
        subnet=ipaddress.IPv4Network("10.9.0.0/24"),
        nat66_prefix=ipaddress.IPv6Network("fd12:3456::/64"),
        mtu=9000,
        isolated=True,
        interface_id=uuid.UUID(int=7),
    )
    with start(options):
        expected = {
            "operation_mode": "1001",
            "start_address": "10.9.0.1",
            "end_address": "10.9.0.254",
            "subnet_mask": "255.255.255.0",
            "nat66_prefix": "fd12:3456::",
            "mtu": "9000",
            "enable_isolation": "true",
            "enable_tso": "true",
            "enable_virtio_header": "true",
            "enable_checksum_offload": "",
            "interface_id": str(uuid.UUID(int=7)),
            "shared_interface_name": "",
            "network_identifier": "",
        }
        assert {key: standin.asked(key) for key in expected} == expected


def test_bridged_and_host_mode_name_what_they_join(standin: Standin) -> None:
    with start(VmnetOptions(VmnetMode.BRIDGED, shared_interface="en0")):
        assert (standin.asked("operation_mode"), standin.asked("shared_interface_name")) == ("1002", "en0")
    with start(VmnetOptions(VmnetMode.HOST, network_identifier=uuid.UUID(int=9))):
        assert standin.asked("operation_mode") == "1000"
        assert standin.asked("network_identifier") == str(uuid.UUID(int=9))


def test_the_interface_tells_what_it_became(standin: Standin) -> None:
    with start(VmnetOptions(VmnetMode.SHARED, subnet=ipaddress.IPv4Network("10.9.0.0/24"))) as interface:
        facts = interface.facts
    assert facts.gateway == ipaddress.IPv4Interface("10.9.0.1/24")
    assert facts.end_address == ipaddress.IPv4Address("10.9.0.254")
    assert facts.nat66_prefix == ipaddress.IPv6Network("fd9b:5a14:ba57:e3d3::/64")
    assert (facts.mtu, facts.read_max_packets, facts.write_max_packets) == (1500, 256, 256)
    assert facts.virtio_headers and facts.tso
    assert facts.mac.startswith("02:00:00:00:00:")
    assert facts.interface_id is not None


def test_without_offloads_packets_are_bare(standin: Standin) -> None:
    with start(VmnetOptions(VmnetMode.SHARED, offloads=False)) as interface:
        assert not interface.facts.virtio_headers
        assert standin.asked("enable_tso") == standin.asked("enable_virtio_header") == ""


def test_checksums_alone_are_left_out_where_that_is_asked_for_and_a_port_refuses_that(
    standin: Standin,
) -> None:
    from arcbox_net.ports.vmnet.port import VmnetPort

    with start(VmnetOptions(VmnetMode.SHARED, offloads=False, checksums=True)) as interface:
        assert standin.asked("enable_checksum_offload") == "true"
        assert interface.facts.checksums and not interface.facts.virtio_headers
        with pytest.raises(errors.ConfigError, match="checksums"):
            VmnetPort(interface)
    with pytest.raises(errors.ConfigError, match="checksums"):
        VmnetOptions(VmnetMode.SHARED, checksums=True)


@pytest.mark.parametrize("status", REFUSALS, ids=lambda s: s.name)
def test_a_refused_start_says_why_and_leaves_nothing(standin: Standin, status: VmnetStatus) -> None:
    fds = open_descriptors()
    standin.fail("vmnet_start_interface", status)
    with pytest.raises(errors.ArcboxNetError) as caught:
        start()
    assert caught.value.fix
    assert caught.value.facts["status"] == status.name
    assert open_descriptors() == fds


def test_privileges_are_named_where_they_are_missing(standin: Standin) -> None:
    for status in VmnetStatus.INVALID_ACCESS, VmnetStatus.NOT_AUTHORIZED:
        standin.fail("vmnet_start_interface", status)
        with pytest.raises(errors.PermissionDenied, match=r"com\.apple\.vm\.networking"):
            start()


def test_a_busy_sharing_service_is_named(standin: Standin) -> None:
    standin.fail("vmnet_start_interface", VmnetStatus.SHARING_SERVICE_BUSY)
    with pytest.raises(errors.ServiceError, match="Internet Sharing"):
        start()


def test_a_callback_that_is_refused_stops_the_interface(standin: Standin) -> None:
    standin.fail("vmnet_interface_set_event_callback", VmnetStatus.FAILURE)
    with pytest.raises(errors.KernelError):
        start()
    assert standin.running == 0


def test_a_service_that_does_not_answer_is_given_up_and_may_answer_later(standin: Standin) -> None:
    standin.hold("vmnet_stop_interface")
    interface = start()
    with pytest.raises(errors.ServiceError, match="did not answer"):
        interface.stop()
    standin.reset()  # the handler is called now, of an interface that nobody has
    with start() as another:
        assert another.facts.mtu == 1500


def test_a_start_that_is_completed_after_it_was_given_up_is_stopped(standin: Standin) -> None:
    standin.hold("vmnet_start_interface")
    with pytest.raises(errors.ServiceError, match="did not answer"):
        start()
    assert standin.running == 1
    standin.reset()  # the handler is called now
    wait_for(lambda: standin.running == 0, "an interface that nobody has")


def test_a_stop_that_is_not_answered_after_a_refused_callback_is_told(standin: Standin) -> None:
    """A callback may come yet, so what it writes to stays open."""
    fds = open_descriptors()
    standin.fail("vmnet_interface_set_event_callback", VmnetStatus.FAILURE)
    standin.hold("vmnet_stop_interface")
    with pytest.raises(errors.ServiceError, match="did not answer"):
        start()
    assert open_descriptors() == fds + 1


def test_an_interface_is_not_stopped_under_a_call_of_another_thread(standin: Standin) -> None:
    running: list[int] = []

    class Rule(VmnetForward):
        """Looks who runs when the call begins, and when it ends."""

        @property
        def external_port(self) -> int:  # type: ignore[override]
            running.append(standin.running)
            return 8080

    interface = start()
    standin.hold("vmnet_interface_add_ip_port_forwarding_rule")

    def stop() -> None:
        wait_for(lambda: standin.held == 1, "a call that waits for its handler")
        interface.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(errors.ServiceError, match="did not answer"):
        interface.add_forward(Rule(*WEB))
    thread.join()
    assert standin.running == 0
    assert running == [running[0]] * 2
    with pytest.raises(errors.NotRunning):
        interface.add_forward(WEB)


def test_stopping_twice_is_fine_and_nothing_can_be_asked_afterwards(standin: Standin) -> None:
    interface = start()
    interface.stop()
    interface.stop()
    with pytest.raises(errors.NotRunning):
        interface.forwards()


def test_an_interface_that_nobody_refers_to_is_stopped(standin: Standin) -> None:
    interface = start()
    assert standin.running == 1
    del interface
    assert standin.running == 0


def test_forwards_are_added_listed_and_removed(standin: Standin) -> None:
    rules = [WEB, VmnetForward("udp", 5353, GUEST, 53), VmnetForward("tcp", 8080, GUEST6, 80)]
    with start() as interface:
        for rule in rules:
            interface.add_forward(rule)
        assert interface.forwards() == rules
        interface.remove_forward(rules[1])
        assert interface.forwards() == [rules[0], rules[2]]


def test_a_forward_that_is_there_and_one_that_is_not_are_refused(standin: Standin) -> None:
    with start() as interface:
        interface.add_forward(WEB)
        with pytest.raises(errors.ConfigError, match="tcp port 8080"):
            interface.add_forward(WEB)
        with pytest.raises(errors.ConfigError, match="tcp port 81"):
            interface.remove_forward(WEB._replace(external_port=81))
        assert interface.forwards() == [WEB]


@pytest.mark.parametrize(
    "function",
    [
        "vmnet_interface_add_ip_port_forwarding_rule",
        "vmnet_interface_remove_ip_port_forwarding_rule",
        "vmnet_interface_get_ip_port_forwarding_rules",
    ],
)
@pytest.mark.parametrize("status", REFUSALS, ids=lambda s: s.name)
def test_a_refused_forward_says_why(standin: Standin, function: str, status: VmnetStatus) -> None:
    with start() as interface:
        standin.fail(function, status, times=-1)
        call = {
            "add": lambda: interface.add_forward(WEB),
            "remove": lambda: interface.remove_forward(WEB),
            "get": interface.forwards,
        }[function.split("_")[2]]
        with pytest.raises(errors.ArcboxNetError) as caught:
            call()
        assert caught.value.facts["status"] == status.name


def test_a_network_is_made_of_what_it_is_asked(standin: Standin) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetNetwork

    options = VmnetOptions(
        VmnetMode.SHARED,
        subnet=ipaddress.IPv4Network("192.168.77.0/24"),
        nat66_prefix=ipaddress.IPv6Network("fd00:1::/64"),
        mtu=4000,
        interface_id=uuid.UUID(int=7),
    )
    network = VmnetNetwork(
        options,
        forwards=[WEB, VmnetForward("udp", 1000, GUEST6, 1001)],
        reservations=[VmnetReservation("02:00:00:00:00:0a", GUEST)],
        uplink="en0",
        dhcp=False,
    )
    assert standin.network() == [
        "mode 1001",
        "uplink en0",
        "subnet 192.168.77.1 255.255.255.0",
        "prefix fd00:1::/64",
        "mtu 4000",
        "no dhcp",
        "reserve 02:00:00:00:00:0a 192.168.64.2",
        "forward 6 8080 to 192.168.64.2 port 80",
        "forward 17 1000 to fd00::2 port 1001",
    ]
    with start(options, network) as interface:
        assert standin.asked("start_address") == ""  # it is the network's
        assert standin.asked("interface_id") == ""  # which has no word for it
        assert interface.facts.gateway == ipaddress.IPv4Interface(
            "192.168.77.1/24"
        )  # neither has the interface
        assert interface.facts.end_address == ipaddress.IPv4Address("192.168.77.254")
        assert interface.facts.nat66_prefix == options.nat66_prefix
        with pytest.raises(errors.KernelError):
            interface.add_forward(WEB)


@pytest.mark.parametrize(
    "function",
    [
        "vmnet_network_configuration_create",
        "vmnet_network_configuration_set_ipv4_subnet",
        "vmnet_network_configuration_set_mtu",
        "vmnet_network_configuration_set_external_interface",
        "vmnet_network_configuration_add_dhcp_reservation",
        "vmnet_network_configuration_add_port_forwarding_rule",
        "vmnet_network_create",
    ],
)
def test_a_network_that_is_refused_says_why(standin: Standin, function: str) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetNetwork

    standin.fail(function, VmnetStatus.NOT_AUTHORIZED)
    with pytest.raises(errors.PermissionDenied):
        VmnetNetwork(
            VmnetOptions(VmnetMode.SHARED, subnet=ipaddress.IPv4Network("192.168.77.0/24"), mtu=1500),
            forwards=[WEB],
            reservations=[VmnetReservation("02:00:00:00:00:0a", GUEST)],
            uplink="en0",
        )


def test_a_subnet_is_one_networks_for_as_long_as_it_or_its_interface_is_there(standin: Standin) -> None:
    from arcbox_net.ports.vmnet.interface import VmnetNetwork

    options = VmnetOptions(VmnetMode.SHARED, subnet=ipaddress.IPv4Network("192.168.77.0/24"))
    network = VmnetNetwork(options)
    with start(options, network):
        del network
        with pytest.raises(errors.KernelError) as caught:
            VmnetNetwork(options)
        assert caught.value.facts["status"] == VmnetStatus.FAILURE.name
    VmnetNetwork(options)


def test_interfaces_that_can_be_bridged_are_listed(standin: Standin) -> None:
    from arcbox_net.ports.vmnet.interface import bridgeable_interfaces

    assert bridgeable_interfaces() == ["en0", "en1", "bridge0"]
    standin.fail("vmnet_copy_shared_interface_list", VmnetStatus.FAILURE)
    assert bridgeable_interfaces() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": VmnetMode.SHARED, "mtu": 1279},
        {"mode": VmnetMode.SHARED, "mtu": 9001},
        {"mode": VmnetMode.SHARED, "shared_interface": "en0"},
        {"mode": VmnetMode.BRIDGED},
        {
            "mode": VmnetMode.BRIDGED,
            "shared_interface": "en0",
            "subnet": ipaddress.IPv4Network("10.0.0.0/24"),
        },
        {"mode": VmnetMode.SHARED, "subnet": ipaddress.IPv4Network("8.8.8.0/24")},
        {"mode": VmnetMode.SHARED, "subnet": ipaddress.IPv4Network("10.0.0.0/31")},
        {"mode": VmnetMode.SHARED, "subnet": ipaddress.IPv4Network("169.254.7.0/24")},
        {"mode": VmnetMode.SHARED, "nat66_prefix": ipaddress.IPv6Network("2001:db8::/64")},
        {"mode": VmnetMode.SHARED, "nat66_prefix": ipaddress.IPv6Network("fc00::/64")},
        {"mode": VmnetMode.SHARED, "nat66_prefix": ipaddress.IPv6Network("fd00::/48")},
        {"mode": VmnetMode.HOST, "nat66_prefix": ipaddress.IPv6Network("fd00::/64")},
        {"mode": VmnetMode.SHARED, "network_identifier": uuid.UUID(int=1)},
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigError):
        VmnetOptions(**wrong)


def test_names_that_are_too_long_are_refused(standin: Standin) -> None:
    with pytest.raises(errors.ConfigError, match="too long"):
        start(VmnetOptions(VmnetMode.BRIDGED, shared_interface="e" * 64))


def test_a_status_that_nobody_knows_is_told() -> None:
    with pytest.raises(errors.KernelError, match="1099"):
        raise_for(1099, "start", "an interface")


OLD = """
import ipaddress
from tests.support.line import wait_for
from tests.support.vmnet import Standin
standin = Standin(14)
from arcbox_net.errors import Unsupported
from arcbox_net.ports.vmnet.interface import VmnetInterface, VmnetNetwork
from arcbox_net.ports.vmnet.options import VmnetMode, VmnetOptions
options = VmnetOptions(VmnetMode.SHARED)
with VmnetInterface(options) as interface:
    facts = interface.facts
    assert not facts.virtio_headers and not facts.tso, facts
    assert (facts.read_max_packets, facts.write_max_packets) == (0, 0), facts
    assert standin.asked("enable_tso") == "", "super-frames cannot be told apart without headers"
try:
    VmnetNetwork(options)
except Unsupported as error:
    assert "macOS 26" in str(error)
    print("as expected")
"""


def test_an_older_macos_is_used_as_far_as_it_goes(library: Standin) -> None:
    done = subprocess.run([sys.executable, "-c", OLD], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "as expected\n", done.stderr
