"""Whose a name is, when several want it and when the configuration changed its mind."""

import dataclasses
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.config_dns import DnsConfig
from arcbox_net.network.naming import Naming
from arcbox_net.recipes.site import Layout

GATEWAY = IPv4Interface("192.168.64.1/24")
LAYOUT = Layout("nat", "masquerade", "abx-dev", GATEWAY, GATEWAY.ip, True)
FIRST, SECOND = IPv4Address("192.168.64.9"), IPv4Address("192.168.64.5")


def naming(config=None, registered=None):
    return Naming("dev", config or NetConfig(), LAYOUT, registered or {})


def records(of):
    return {record.name: (record.addresses, record.source) for record in of.records()}


def test_d20_guest_that_wishes_for_anothers_name_neither_takes_nor_ends_it():
    names = naming()
    names.lease_changed("web", FIRST, True)
    names.lease_changed("WEB", SECOND, True)
    names.lease_changed("WEB", SECOND, False)
    assert records(names)["web.dev.internal"] == ([str(FIRST)], "lease")
    assert names.leased("Web") == FIRST


def test_name_of_a_guest_that_went_is_free():
    names = naming()
    names.lease_changed("web", FIRST, True)
    names.lease_changed("web", FIRST, False)
    assert names.leased("web") is None
    names.lease_changed("web", SECOND, True)
    assert names.leased("web") == SECOND


def test_guest_that_asks_for_reserved_names_forever_does_not_fill_the_log(caplog):
    caplog.set_level("INFO")
    names = naming()
    for number in range(1000):
        names.lease_changed(("localhost", "wpad", "gateway")[number % 3], SECOND, True)
    assert len(caplog.records) == 1


def test_name_registered_in_a_killed_run_gives_way_to_the_configuration():
    config = NetConfig(dns=DnsConfig(records={"web": ("10.0.0.9",)}))
    names = naming(config, {"web": ["10.0.0.5"], "db": ["10.0.0.6"], "wpad": ["10.0.0.7"]})
    assert records(names)["web.dev.internal"] == (["10.0.0.9"], "config")
    assert records(names)["db.dev.internal"] == (["10.0.0.6"], "api")


@pytest.mark.parametrize("spelling", ["web", "WEB", "web.dev.internal", "Web.Dev.Internal."])
def test_a_name_has_one_spelling_on_the_disk(spelling):
    assert naming().relative(spelling) == "web"


def test_a_dhcp_clients_name_leads_to_the_address_that_its_mac_makes():
    layout = dataclasses.replace(LAYOUT, address6=IPv6Interface("fd12:3456:789a::1/64"))
    names = Naming("dev", NetConfig(), layout, {})
    names.lease_changed("web", FIRST, True, bytes.fromhex("020000000001"))
    assert records(names)["web.dev.internal"] == ([str(FIRST), "fd12:3456:789a::ff:fe00:1"], "lease")
    assert records(names)["gateway.dev.internal"][0] == ["192.168.64.1", "fd12:3456:789a::1"]
    names.lease_changed("web", FIRST, False, bytes.fromhex("020000000001"))
    assert "web.dev.internal" not in records(names)


def test_a_layout_survives_being_written_down_with_and_without_ipv6():
    layout = dataclasses.replace(LAYOUT, address6=IPv6Interface("fd12:3456:789a::1/64"))
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(LAYOUT.to_json()) == LAYOUT
    older = LAYOUT.to_json()
    del older["address6"]
    assert Layout.from_json(older) == LAYOUT
