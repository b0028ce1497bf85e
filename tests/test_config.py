"""Configuration: defaults, every wrong value named, and the TOML and JSON forms round-trip."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.config import (
    WORKERS_MAX,
    Egress,
    HostAccess,
    NetConfig,
    NetworkMode,
    gateway_of,
    local_domain,
    parse_host_access,
    pool_of,
)
from arcbox_net.config_dhcp import DhcpConfig, Reservation
from arcbox_net.config_dns import DnsConfig
from arcbox_net.config_mapping import config_from_mapping, config_to_mapping, load_networks
from arcbox_net.config_ports import PortConfig
from arcbox_net.config_values import check_network_name, check_port_name, parse_endpoint
from arcbox_net.errors import ConfigError
from arcbox_net.rules import parse_forward


def test_the_constructor_that_users_know_still_works() -> None:
    config = NetConfig(mode=NetworkMode.NAT, mac=None, mtu=1500, bridge=None, multiqueue=False, num_queues=1)
    assert config == NetConfig()
    assert config.default_subnet() == ipaddress.IPv4Network("192.168.64.0/24")


def test_defaults_are_those_of_each_mode() -> None:
    host_only = NetConfig(mode=NetworkMode.HOST_ONLY)
    bridge = NetConfig(mode=NetworkMode.BRIDGE, bridge="br0")
    assert str(host_only.default_subnet()) == "10.0.0.0/24"
    assert [NetConfig().has_dhcp, host_only.has_dns, bridge.has_dhcp, bridge.has_dns] == [
        True,
        True,
        False,
        False,
    ]
    assert NetConfig(dhcp=DhcpConfig(enabled=False)).has_dhcp is False


ENGINE = {"egress": Egress.ENGINE, "uplink": "eth0", "external_ip": "203.0.113.9"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"external_ip": "203.0.113.9/24"},
        {"uplink": "tap:lan0"},
        {"external_ip6": "2001:db8::9", "next_hop": "203.0.113.1", "next_hop6": "fe80::1"},
        {"filtering": "endpoint-independent"},
    ],
)
def test_the_engine_has_an_uplink_and_an_address_there(options: dict[str, Any]) -> None:
    config = NetConfig(**ENGINE | options)
    assert config_from_mapping(config_to_mapping(config)) == config


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"egress": Egress.ENGINE}, "uplink"),
        ({"egress": Egress.ENGINE, "uplink": "eth0"}, "external_ip"),
        ({"egress": Egress.ENGINE, "uplink": "eth 0", "external_ip": "203.0.113.9"}, "uplink"),
        ({"egress": Egress.ENGINE, "uplink": "eth0", "external_ip": "2001:db8::1"}, "external_ip"),
        (
            {"egress": Egress.ENGINE, "uplink": "eth0", "external_ip": "203.0.113.9", "anti_spoof": False},
            "anti_spoof",
        ),
        ({"uplink": "eth0"}, "uplink"),
        ({"external_ip": "203.0.113.9"}, "external_ip"),
        ({"external_ip6": "2001:db8::9"}, "external_ip6"),
        ({"filtering": "endpoint-independent"}, "filtering"),
        ({**ENGINE, "uplink": "tap:"}, "uplink"),
        ({**ENGINE, "external_ip6": "203.0.113.9"}, "external_ip6"),
        ({**ENGINE, "external_ip6": "2001:db8::9", "subnet6": "none"}, "external_ip6"),
        ({**ENGINE, "next_hop": "203.0.113.1/24"}, "next_hop"),
        ({**ENGINE, "next_hop6": "203.0.113.1"}, "next_hop6"),
        ({**ENGINE, "external_ip": "127.0.0.5"}, "external_ip"),
        ({**ENGINE, "external_ip": "224.0.0.5/24"}, "external_ip"),
        ({**ENGINE, "external_ip": "255.255.255.255/24"}, "external_ip"),
        ({**ENGINE, "external_ip6": "::"}, "external_ip6"),
        ({**ENGINE, "next_hop": "0.0.0.0"}, "next_hop"),
        ({**ENGINE, "filtering": "none"}, "filtering"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetConfig(**options)
    assert caught.value.field == field


def test_workers_are_counted_and_kept() -> None:
    assert config_from_mapping({}).workers is None
    config = NetConfig(workers=WORKERS_MAX)
    assert config_from_mapping(config_to_mapping(config)) == config
    for wrong in (0, WORKERS_MAX + 1):
        with pytest.raises(ConfigError):
            NetConfig(workers=wrong)
    with pytest.raises(ConfigError):
        config_from_mapping({"workers": "2"})


def test_the_gateway_is_the_first_address_and_the_pool_is_the_rest() -> None:
    config = NetConfig(subnet="10.9.0.0/29")
    subnet = config.default_subnet()
    assert str(gateway_of(config, subnet)) == "10.9.0.1"
    assert tuple(map(str, pool_of(config, subnet))) == ("10.9.0.2", "10.9.0.6")


def test_a_chosen_gateway_and_pool_are_kept() -> None:
    config = NetConfig(
        subnet="10.9.0.0/24", gateway="10.9.0.254", dhcp=DhcpConfig(pool=("10.9.0.100", "10.9.0.199"))
    )
    subnet = config.default_subnet()
    assert str(gateway_of(config, subnet)) == "10.9.0.254"
    assert tuple(map(str, pool_of(config, subnet))) == ("10.9.0.100", "10.9.0.199")


def test_the_local_domain_is_the_networks_name_or_the_configured_one() -> None:
    assert local_domain(NetConfig(), "dev") == "dev.internal"
    assert local_domain(NetConfig(dns=DnsConfig(domain="Corp.Example.")), "dev") == "corp.example"


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "nat"}, "mode"),
    ({"mac": "01:00:5e:00:00:01"}, "mac"),
    ({"mtu": 575}, "mtu"),
    ({"mtu": 65536}, "mtu"),
    ({"mtu": "1500"}, "mtu"),
    ({"num_queues": 0}, "num_queues"),
    ({"num_queues": 17, "multiqueue": True}, "num_queues"),
    ({"num_queues": 2}, "num_queues"),
    ({"name": "Dev"}, "name"),
    ({"name": "-dev"}, "name"),
    ({"name": "../etc"}, "name"),
    ({"name": "a" * 33}, "name"),
    ({"bridge": "br0"}, "bridge"),
    ({"nic": "eth1"}, "nic"),
    ({"mode": NetworkMode.BRIDGE}, "bridge"),
    ({"mode": NetworkMode.BRIDGE, "bridge": "br0", "nic": "eth1"}, "bridge"),
    ({"mode": NetworkMode.BRIDGE, "bridge": "a-name-of-16-byt"}, "bridge"),
    ({"mode": NetworkMode.BRIDGE, "bridge": "br/0"}, "bridge"),
    ({"mode": NetworkMode.BRIDGE, "nic": ".."}, "nic"),
    ({"subnet": "192.168.64.1/24"}, "subnet"),
    ({"subnet": "8.8.8.0/24"}, "subnet"),
    ({"gateway": "192.168.64.1"}, "gateway"),
    ({"subnet": "10.9.0.0/24", "gateway": "10.9.1.1"}, "gateway"),
    ({"subnet": "10.9.0.0/24", "gateway": "10.9.0.255"}, "gateway"),
    ({"subnet": "10.9.0.0/24", "gateway": "x"}, "gateway"),
    ({"subnet": "10.9.0.0/24", "dhcp": DhcpConfig(pool=("10.9.1.2", "10.9.1.9"))}, "dhcp.pool"),
    ({"subnet": "10.9.0.0/24", "dhcp": DhcpConfig(pool=("10.9.0.9", "10.9.0.2"))}, "dhcp.pool"),
    ({"forwards": (parse_forward("8080:80"), parse_forward("0.0.0.0:8080:81"))}, "forwards"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=[str(fields) for fields, _ in BAD_FIELDS])
def test_a_wrong_value_is_refused_and_its_field_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetConfig(**fields)
    assert caught.value.field == named
    assert caught.value.message


@pytest.mark.parametrize(
    "build",
    [
        lambda: DhcpConfig(lease_s=119),
        lambda: DhcpConfig(lease_s=7200, max_lease_s=3600),
        lambda: DhcpConfig(match="hostname"),
        lambda: DhcpConfig(addresses_per_port_max=0),
        lambda: DhcpConfig(options={0: "x"}),
        lambda: DhcpConfig(options={255: "x"}),
        lambda: DhcpConfig(options={60: "0xabc"}),
        lambda: DhcpConfig(options={60: ""}),
        lambda: DhcpConfig(options={60: "x" * 256}),
        lambda: DhcpConfig(search=("no spaces",)),
        lambda: DhcpConfig(routes=(("10.0.0.1/8", "10.0.0.1"),)),
        lambda: DhcpConfig(routes=(("10.0.0.0/8", "router"),)),
        lambda: Reservation(mac="x", ip="10.0.0.2"),
        lambda: Reservation(mac="02:00:00:00:00:01", ip="10.0.0.256"),
        lambda: Reservation(mac="02:00:00:00:00:01", ip="10.0.0.2", hostname="a_b"),
        lambda: DnsConfig(upstreams=("resolver.example",)),
        lambda: DnsConfig(upstreams=("1.1.1.1:0",)),
        lambda: DnsConfig(upstreams=("1.1.1.1:65536",)),
        lambda: DnsConfig(upstreams=("1.1.1",)),
        lambda: DnsConfig(domain_upstreams={"corp": ()}),
        lambda: DnsConfig(domain_upstreams={"a..b": ("1.1.1.1",)}),
        lambda: DnsConfig(records={"printer": ("not-an-address",)}),
        lambda: DnsConfig(records={"a" * 254: ("1.1.1.1",)}),
        lambda: DnsConfig(domain="-"),
        lambda: DnsConfig(rebind_allow=("*.x",)),
        lambda: DnsConfig(cache_entries_max=-1),
        lambda: HostAccess("sctp", 80),
        lambda: HostAccess("tcp", 0),
        lambda: parse_host_access("http"),
        lambda: parse_host_access("80/icmp"),
        lambda: parse_host_access("65536"),
        lambda: parse_host_access("-1"),
        lambda: check_port_name("a.b"),
        lambda: check_port_name("x" * 64),
        lambda: check_network_name(""),
    ],
)
def test_a_wrong_value_of_a_part_is_a_config_error(build: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.field


@pytest.mark.parametrize(
    "subnet6",
    [
        "fd00::/48",
        "fd00::/65",
        "fd00::1/64",
        "2001:db8::/64",
        "fe80::/64",
        "fc00::/64",
        "10.0.0.0/24",
        "off",
        "",
    ],
)
def test_subnet6_is_a_ula_slash_64_or_a_word(subnet6: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetConfig(subnet6=subnet6)
    assert caught.value.field == "subnet6"


@pytest.mark.parametrize("options", [{"mtu": 1279}, {"mode": NetworkMode.BRIDGE, "bridge": "br0"}])
def test_subnet6_where_there_can_be_no_ipv6_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        NetConfig(subnet6="fd00::/64", **options)
    assert caught.value.field == "subnet6"


def test_ipv6_is_on_unless_switched_off_or_impossible() -> None:
    assert NetConfig().has_ipv6 and NetConfig(mtu=1280).has_ipv6 and NetConfig(subnet6="fd00::/64").has_ipv6
    assert NetConfig(mode=NetworkMode.HOST_ONLY).has_ipv6
    assert not NetConfig(subnet6="none").has_ipv6
    assert not NetConfig(mtu=1279).has_ipv6
    assert not NetConfig(mode=NetworkMode.BRIDGE, bridge="br0").has_ipv6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.1.1.1", ("1.1.1.1", 53)),
        ("1.1.1.1:5353", ("1.1.1.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[2001:db8::1]:853", ("2001:db8::1", 853)),
        ("fe80::1%eth0", ("fe80::1%eth0", 53)),
        ("[fe80::1%eth0]:5353", ("fe80::1%eth0", 5353)),
    ],
)
def test_an_endpoint_is_an_address_and_maybe_a_port_number(text: str, expected: tuple[str, int]) -> None:
    assert parse_endpoint("dns.upstreams", text, 53) == expected


FULL: dict[str, Any] = {
    "mode": "nat",
    "name": "dev",
    "subnet": "10.7.0.0/24",
    "subnet6": "fd12:3456:789a::/64",
    "gateway": "10.7.0.254",
    "mtu": 9000,
    "egress": "masquerade",
    "multiqueue": True,
    "num_queues": 4,
    "isolated": True,
    "host_access": [5432, "53/udp"],
    "forwards": ["8080:80", "0.0.0.0:2222:vm1:22"],
    "dhcp": {
        "pool": ["10.7.0.10", "10.7.0.99"],
        "lease_s": 600,
        "options": {"42": "0x0a070001", "66": "tftp.example"},
        "search": ["corp.example"],
        "routes": [["10.8.0.0/16", "10.7.0.1"]],
        "reservations": [{"mac": "02:00:00:00:00:01", "ip": "10.7.0.5", "hostname": "vm1"}],
    },
    "dns": {
        "upstreams": ["1.1.1.1", "[2606:4700::1111]:53"],
        "domain_upstreams": {"corp.example": "10.1.1.1"},
        "records": {"printer": ["10.7.0.200"]},
        "domain": "dev.example",
        "rebind_protection": True,
    },
}


def test_a_full_configuration_is_read_as_written() -> None:
    config = config_from_mapping(FULL)
    assert config.egress is Egress.MASQUERADE
    assert config.host_access == (HostAccess("tcp", 5432), HostAccess("udp", 53))
    assert [str(item) for item in config.forwards] == ["127.0.0.1:8080:80/tcp", "0.0.0.0:2222:vm1:22/tcp"]
    assert config.dhcp.option_payload(42) == bytes([10, 7, 0, 1])
    assert config.dhcp.option_payload(66) == b"tftp.example"
    assert config.dns.domain_upstreams == {"corp.example": ("10.1.1.1",)}
    assert config.dhcp.reservations[0].hostname == "vm1"


BAD_MAPPINGS: list[tuple[dict[str, Any], str]] = [
    ({"modes": "nat"}, "network.modes"),
    ({"mode": "nay"}, "network.mode"),
    ({"mode": 1}, "network.mode"),
    ({"egress": "wire"}, "network.egress"),
    ({"mtu": "1500"}, "mtu"),
    ({"mtu": True}, "mtu"),
    ({"mtu": 1500.0}, "mtu"),
    ({"num_queues": None}, "num_queues"),
    ({"multiqueue": 1}, "multiqueue"),
    ({"isolated": "yes"}, "isolated"),
    ({"subnet": 10}, "subnet"),
    ({"bridge": ["br0"]}, "bridge"),
    ({"forwards": "8080:80"}, "network.forwards"),
    ({"forwards": [8080]}, "network.forwards"),
    ({"forwards": ["8080:eighty"]}, "forward"),
    ({"host_access": ["x"]}, "host_access"),
    ({"host_access": {"a": 1}}, "host_access"),
    ({"dhcp": 1}, "network.dhcp"),
    ({"dhcp": {"lease": 600}}, "network.dhcp.lease"),
    ({"dhcp": {"lease_s": "1h"}}, "dhcp.lease_s"),
    ({"dhcp": {"enabled": "yes"}}, "dhcp.enabled"),
    ({"dhcp": {"match": 3}}, "dhcp.match"),
    ({"dhcp": {"pool": ["10.0.0.2"]}}, "network.dhcp.pool"),
    ({"dhcp": {"pool": "10.0.0.2-10.0.0.9"}}, "network.dhcp.pool"),
    ({"dhcp": {"pool": ["10.0.0.2", "x"]}, "subnet": "10.0.0.0/24"}, "dhcp.pool"),
    ({"dhcp": {"options": [1, 2]}}, "network.dhcp.options"),
    ({"dhcp": {"options": {"ntp": "x"}}}, "network.dhcp.options"),
    ({"dhcp": {"options": {"²": "x"}}}, "network.dhcp.options"),
    ({"host_access": ["9" * 5000]}, "host_access"),
    ({"dhcp": {"search": "example"}}, "network.dhcp.search"),
    ({"dhcp": {"routes": ["10.0.0.0/8"]}}, "network.dhcp.routes"),
    ({"dhcp": {"routes": [["10.0.0.0/8"]]}}, "network.dhcp.routes"),
    ({"dhcp": {"routes": 7}}, "network.dhcp.routes"),
    ({"dhcp": {"reservations": {"mac": "x"}}}, "network.dhcp.reservations"),
    ({"dhcp": {"reservations": 5}}, "network.dhcp.reservations"),
    ({"dhcp": {"reservations": [{"ip": "10.0.0.2"}]}}, "network.dhcp.reservations.mac"),
    (
        {"dhcp": {"reservations": [{"mac": "02:00:00:00:00:01", "ip": "10.0.0.2", "hostname": 5}]}},
        "reservations.hostname",
    ),
    ({"dhcp": {"options": {66: ["x"]}}}, "dhcp.options"),
    ({"dhcp": {"pool": ["10.0.0.2", "x"]}}, "dhcp.pool"),
    ({"dhcp": {"reservations": [{"mac": 1, "ip": "10.0.0.2"}]}}, "reservations.mac"),
    ({"workers": "many"}, "workers"),
    ({"dns": {"upstream": ["1.1.1.1"]}}, "network.dns.upstream"),
    ({"dns": {"upstreams": "1.1.1.1"}}, "network.dns.upstreams"),
    ({"dns": {"records": ["a"]}}, "network.dns.records"),
    ({"dns": {"records": {"a": 1}}}, "network.dns.records.a"),
    ({"dns": {"cache_entries_max": "many"}}, "dns.cache_entries_max"),
    ({"dns": {"rebind_protection": 1}}, "dns.rebind_protection"),
    ({"dns": {"domain": 7}}, "dns.domain"),
]


@pytest.mark.parametrize(("body", "named"), BAD_MAPPINGS, ids=[str(body) for body, _ in BAD_MAPPINGS])
def test_a_wrong_key_or_type_in_a_file_or_body_is_named(body: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(body)
    assert caught.value.field == named


WRONG: list[Any] = ["x", -1, 3.5, True, b"x", [1], {"a": 1}, ("a", "b"), object()]


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (NetConfig, {}),
        (DhcpConfig, {}),
        (DnsConfig, {}),
        (Reservation, {"mac": "02:00:00:00:00:01", "ip": "10.0.0.2"}),
        (HostAccess, {"protocol": "tcp", "host_port": 80}),
        (PortConfig, {"name": "vm1", "kind": "tap"}),
    ],
)
def test_a_value_of_any_wrong_type_is_an_error_that_names_its_field(
    kind: Any, needed: dict[str, Any]
) -> None:
    for field in dataclasses.fields(kind):
        for value in WRONG:
            with contextlib.suppress(ConfigError):
                kind(**{**needed, field.name: value})
        with pytest.raises(ConfigError, match=field.name):
            kind(**{**needed, field.name: object()})


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'subnet'"):
        config_from_mapping({"subent": "auto"})


modes = st.sampled_from([NetworkMode.NAT, NetworkMode.HOST_ONLY])
names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)


@st.composite
def configs(draw: st.DrawFn) -> NetConfig:
    queues = draw(st.integers(1, 16))
    return NetConfig(
        mode=draw(modes),
        mtu=draw(st.integers(576, 65535)),
        multiqueue=queues > 1 or draw(st.booleans()),
        num_queues=queues,
        name=draw(st.none() | names),
        subnet=draw(st.sampled_from(["auto", "10.7.0.0/24", "172.16.0.0/12", "192.168.9.0/29"])),
        egress=draw(st.sampled_from([egress for egress in Egress if egress is not Egress.ENGINE])),
        isolated=draw(st.booleans()),
        anti_spoof=draw(st.booleans()),
        host_access=tuple(
            draw(
                st.lists(
                    st.builds(HostAccess, st.sampled_from(["tcp", "udp"]), st.integers(1, 65535)), max_size=3
                )
            )
        ),
        forwards=draw(
            st.sampled_from([(), (parse_forward("8080:80"), parse_forward("[::1]:8080:vm:81/udp"))])
        ),
        dhcp=DhcpConfig(
            enabled=draw(st.none() | st.booleans()),
            lease_s=draw(st.integers(120, 604800)),
            options=draw(
                st.dictionaries(st.integers(1, 254), st.just("0x00ff") | st.just("text"), max_size=3)
            ),
            search=draw(st.sampled_from([(), ("a.example", "b")])),
            routes=draw(st.sampled_from([(), (("10.0.0.0/8", "10.7.0.1"),)])),
            reservations=draw(st.sampled_from([(), (Reservation("02:00:00:00:00:01", "10.7.0.5", "vm1"),)])),
        ),
        dns=DnsConfig(
            upstreams=draw(st.sampled_from([(), ("1.1.1.1", "[::1]:5353")])),
            domain_upstreams=draw(st.sampled_from([{}, {"corp": ("10.0.0.1",)}])),
            records=draw(st.sampled_from([{}, {"printer": ("10.7.0.9", "fd00::9")}])),
            rebind_protection=draw(st.booleans()),
        ),
    )


@given(configs())
def test_a_configuration_survives_json(config: NetConfig) -> None:
    body = json.loads(json.dumps(config_to_mapping(config)))
    assert config_from_mapping(body) == config


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = [field.name for field in dataclasses.fields(NetConfig)]
parts = st.dictionaries(
    st.sampled_from([field.name for cls in (DhcpConfig, DnsConfig) for field in dataclasses.fields(cls)]),
    json_values,
    max_size=3,
)


@given(st.dictionaries(st.sampled_from(fields), json_values | parts, max_size=4))
def test_any_json_body_is_a_configuration_or_a_config_error(body: dict[str, Any]) -> None:
    try:
        config = config_from_mapping(body)
    except ConfigError as error:
        assert error.message
        json.dumps(error.to_json())
        return
    assert config_from_mapping(json.loads(json.dumps(config_to_mapping(config)))) == config


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "networks.toml"
    file.write_text(text)
    return file


def test_a_toml_file_describes_networks_by_name(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [networks.dev]
        subnet = "10.7.0.0/24"
        forwards = ["8080:80"]
        [networks.dev.dhcp]
        lease_s = 600
        options = { 42 = "0x0a070001" }
        [networks.lab]
        mode = "host-only"
        """,
    )
    networks = load_networks(file)
    assert list(networks) == ["dev", "lab"]
    assert networks["dev"].name == "dev"
    assert networks["dev"].dhcp.options == {42: "0x0a070001"}
    assert networks["lab"].mode is NetworkMode.HOST_ONLY


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no [networks.NAME] table"),
        ("networks = 3", "no [networks.NAME] table"),
        ("networks = {}", "no [networks.NAME] table"),
        ("[network.dev]", "unknown table 'network'"),
        ("[networks]\ndev = 1", "networks.dev is not a table"),
        ("[networks.Dev]", "network name 'Dev'"),
        ("[networks.dev", "networks.toml"),
        ("[networks.dev]\nmtu = 100", "mtu 100"),
        ("[networks.dev]\nmtu = '1500'", "networks.dev.mtu"),
        ("[networks.dev]\nsubnett = 'auto'", "did you mean 'subnet'"),
        ("[networks.dev]\nsubnet = '8.8.8.0/24'", "not a private range"),
        ("[networks.dev.dns]\nrecords = { a = ['x'] }", "'x' is not an address"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_networks(write(tmp_path, text))
    assert words in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_networks(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary"):
        load_networks(binary)
