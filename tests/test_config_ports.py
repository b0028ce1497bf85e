"""Ports in a network's configuration: what each kind needs, and what no two may share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcbox_net.config import NetConfig
from arcbox_net.config_mapping import config_from_mapping, config_to_mapping
from arcbox_net.config_ports import PAIRS_MAX, QUEUES_MAX, UID_MAX, PortConfig
from arcbox_net.errors import ConfigError

SOCKET = "/run/vm1.sock"
STREAM = {"name": "vm1", "kind": "stream", "socket": SOCKET}
TAP = {"name": "vm2", "kind": "tap"}


@pytest.mark.parametrize(
    "body",
    [
        TAP | {"queues": QUEUES_MAX, "owner_uid": UID_MAX - 1},
        STREAM | {"mac": "02:00:00:00:00:01", "ip": "10.7.0.2", "hostname": "web", "connect": True},
        STREAM | {"kind": "dgram", "remote": "/run/vm1.guest"},
        STREAM | {"kind": "vhost-user", "queues": PAIRS_MAX},
    ],
    ids=lambda body: body["kind"],
)
def test_a_port_of_each_kind_survives_json(body: dict[str, Any]) -> None:
    config = config_from_mapping({"subnet": "10.7.0.0/24", "ports": [body]})
    (port,) = config.ports
    assert {field: getattr(port, field) for field in body} == body
    assert config_from_mapping(json.loads(json.dumps(config_to_mapping(config)))) == config


def test_a_mac_is_kept_as_it_is_compared() -> None:
    assert PortConfig("vm1", "tap", mac="02-00-00-00-00-AB").mac == "02:00:00:00:00:ab"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "tap"}, "ports.name"),
        ({"name": "vm1"}, "ports.kind"),
        ({"name": "vm 1", "kind": "tap"}, "ports.name"),
        (TAP | {"kind": "netns"}, "ports.kind"),
        (TAP | {"socket": SOCKET}, "ports.socket"),
        (STREAM | {"socket": None}, "ports.socket"),
        (STREAM | {"socket": "vm1.sock"}, "ports.socket"),
        (STREAM | {"socket": "/" + "a" * 107}, "ports.socket"),
        (STREAM | {"remote": "/run/a"}, "ports.remote"),
        (STREAM | {"kind": "dgram", "remote": SOCKET}, "ports.remote"),
        (STREAM | {"queues": 2}, "ports.queues"),
        (STREAM | {"kind": "dgram", "connect": True}, "ports.connect"),
        (STREAM | {"kind": "vhost-user", "queues": PAIRS_MAX + 1}, "queues"),
        (TAP | {"queues": QUEUES_MAX + 1}, "queues"),
        (TAP | {"queues": 0}, "queues"),
        (TAP | {"queues": "2"}, "ports.queues"),
        (TAP | {"connect": 1}, "ports.connect"),
        (TAP | {"owner_uid": UID_MAX}, "owner_uid"),
        (TAP | {"mac": "01:00:00:00:00:01"}, "mac"),
        (TAP | {"ip": "10.7.0"}, "ports.ip"),
        (TAP | {"ip": "10.7.0.1"}, "ports.ip"),
        (TAP | {"ip": "10.8.0.2"}, "ports.ip"),
        (TAP | {"hostname": "a b"}, "ports.hostname"),
        (TAP | {"sock": SOCKET}, "ports.sock"),
        ("vm1", "ports"),
    ],
)
def test_a_wrong_port_is_refused_by_its_field(body: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"subnet": "10.7.0.0/24", "ports": [body]})
    assert str(caught.value.field).removeprefix("network.") == field


@pytest.mark.parametrize("field", ["name", "mac", "ip", "socket"])
def test_two_ports_that_share_something_are_refused(field: str) -> None:
    given = STREAM | {"mac": "02:00:00:00:00:01", "ip": "192.168.64.9"}
    other = {"name": "vm9", "kind": "stream", "socket": "/run/vm9.sock"} | {field: given[field]}
    with pytest.raises(ConfigError) as caught:
        NetConfig(ports=(PortConfig(**given), PortConfig(**other)))
    assert caught.value.field == f"ports.{field}"
