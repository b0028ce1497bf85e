"""Whose a name is, when several want it and when the configuration changed its mind."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from arcbox_net.config import DnsConfig, NetConfig
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
