"""What a NAT engine may be told, each limit and one past it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arcbox_net import NatEngineConfig
from arcbox_net.dataplane import _testing_mapping, nat_config
from arcbox_net.errors import ConfigError

CONFIG = NatEngineConfig("203.0.113.1")


def test_defaults_are_those_of_the_documents() -> None:
    assert (CONFIG.udp_timeout_s, CONFIG.icmp_timeout_s, CONFIG.port_hold_s) == (300, 60, 120)
    assert (CONFIG.tcp_established_timeout_s, CONFIG.tcp_partial_timeout_s) == (7440, 240)
    assert (CONFIG.conntrack_size, CONFIG.flows_per_guest, CONFIG.port_range) == (
        131_072,
        16_384,
        (49152, 65535),
    )
    assert CONFIG.filtering == "address-and-port-dependent"
    assert str(CONFIG.gateway_address) == "192.168.64.1"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"external_ip": "203.0.113"}, "external_ip"),
        ({"external_ip": []}, "external_ip"),
        ({"external_ip": ["203.0.113.1", "203.0.113.1"]}, "external_ip"),
        ({"external_ip": "192.168.64.9"}, "external_ip"),
        ({"external_ip": "224.0.0.1"}, "external_ip"),
        ({"external_ip": "255.255.255.255"}, "external_ip"),
        ({"inside": "192.168.64.5/24"}, "inside"),
        ({"inside": "192.168.64.0/31"}, "inside"),
        ({"gateway": "192.168.65.1"}, "gateway"),
        ({"gateway": "192.168.64.255"}, "gateway"),
        ({"port_range": (0, 10)}, "port_range"),
        ({"port_range": (10, 65536)}, "port_range"),
        ({"port_range": [(10, 20), (20, 30)]}, "port_range"),
        ({"port_range": "80"}, "port_range"),
        ({"filtering": "full-cone"}, "filtering"),
        ({"unsolicited_syn": "reset"}, "unsolicited_syn"),
        ({"exhausted": "3/2"}, "exhausted"),
        ({"l3_offset": 18}, "l3_offset"),
        ({"conntrack_size": 0}, "conntrack_size"),
        ({"fast_cache_size": 100}, "fast_cache_size"),
        ({"ports_per_guest": 0}, "ports_per_guest"),
        ({"mtu": 67}, "mtu"),
        ({"uplink_mtu": 65536}, "uplink_mtu"),
        ({"untranslated": ["10.0.0.1/8"]}, "untranslated"),
        ({"udp_port_timeouts_s": {53: 9}}, "udp_port_timeouts_s"),
        ({"udp_port_timeouts_s": {0: 30}}, "udp_port_timeouts_s"),
        ({"seed": b"short"}, "seed"),
    ],
    ids=str,
)
def test_error_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(CONFIG, **changes)
    assert raised.value.facts["field"] == field


@pytest.mark.parametrize(("name", "floor_s"), nat_config.TIMEOUT_FLOORS_S.items())
def test_n18_no_timer_is_below_its_floor_unless_unsafe(name: str, floor_s: int) -> None:
    changes: dict[str, Any] = {name: floor_s}
    replace(CONFIG, **changes)
    changes[name] -= 1
    with pytest.raises(ConfigError, match=name):
        replace(CONFIG, **changes)
    replace(CONFIG, unsafe=True, **changes)


def test_limits_of_lists_are_reached_and_not_passed() -> None:
    addresses = [f"203.0.113.{i}" for i in range(1, nat_config.EXTERNAL_ADDRESSES_MAX + 1)]
    prefixes = [f"10.{i}.0.0/16" for i in range(nat_config.UNTRANSLATED_MAX)]
    timeouts = dict.fromkeys(range(1, nat_config.PORT_TIMEOUTS_MAX + 1), 30)
    NatEngineConfig(addresses, untranslated=prefixes, udp_port_timeouts_s=timeouts)
    for changes in (
        {"external_ip": [*addresses, "203.0.113.200"]},
        {"port_range": [(1000 + i, 1000 + i) for i in range(nat_config.PORT_RANGES_MAX + 1)]},
        {"untranslated": [*prefixes, "11.0.0.0/8"]},
        {"udp_port_timeouts_s": timeouts | {60000: 30}},
    ):
        with pytest.raises(ConfigError):
            replace(CONFIG, **changes)


def test_limits_of_lists_are_those_of_the_tables() -> None:
    assert nat_config.EXTERNAL_ADDRESSES_MAX == _testing_mapping.EXTERNALS_MAX
    assert nat_config.PORT_RANGES_MAX == _testing_mapping.RANGES_MAX


def test_each_address_may_have_ranges_of_its_own() -> None:
    config = NatEngineConfig({"203.0.113.1": (1024, 2000), "203.0.113.2": [(1, 5), (7, 9)]})
    assert [(str(address), ranges) for address, ranges in config.externals()] == [
        ("203.0.113.1", [(1024, 2000)]),
        ("203.0.113.2", [(1, 5), (7, 9)]),
    ]
