"""The forward syntax: every spelling users know, every wrong one named, and when two rules collide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.errors import ConfigError
from arcbox_net.rules import LOOPBACK, ForwardRule, parse_forward

SPELLINGS = [
    # spec, (protocol, host_ip, host_port, host_port_end, guest, guest_port, guest_port_end)
    ("8080:80", ("tcp", LOOPBACK, 8080, 8080, None, 80, 80)),
    ("8080", ("tcp", LOOPBACK, 8080, 8080, None, 8080, 8080)),
    ("8080:80/udp", ("udp", LOOPBACK, 8080, 8080, None, 80, 80)),
    ("8080:80/TCP", ("tcp", LOOPBACK, 8080, 8080, None, 80, 80)),
    ("0.0.0.0:8080:80", ("tcp", "0.0.0.0", 8080, 8080, None, 80, 80)),
    ("192.0.2.1:8080:80", ("tcp", "192.0.2.1", 8080, 8080, None, 80, 80)),
    ("8080:vm1:80", ("tcp", LOOPBACK, 8080, 8080, "vm1", 80, 80)),
    ("0.0.0.0:8080:192.168.64.9:80", ("tcp", "0.0.0.0", 8080, 8080, "192.168.64.9", 80, 80)),
    ("[::1]:8080:vm1:80", ("tcp", "::1", 8080, 8080, "vm1", 80, 80)),
    ("[::]:8080:80/udp", ("udp", "::", 8080, 8080, None, 80, 80)),
    ("[0:0:0:0:0:0:0:1]:1:2", ("tcp", "::1", 1, 1, None, 2, 2)),
    ("7000-7010:9000-9010", ("tcp", LOOPBACK, 7000, 7010, None, 9000, 9010)),
    ("1-65535:1-65535", ("tcp", LOOPBACK, 1, 65535, None, 1, 65535)),
    (" 8080:80 ", ("tcp", LOOPBACK, 8080, 8080, None, 80, 80)),
    ("7000-7001:web.dev:80-81/udp", ("udp", LOOPBACK, 7000, 7001, "web.dev", 80, 81)),
]

WRONG = [
    "",
    ":",
    "/tcp",
    "http",
    "8080:",
    ":80",
    "8080::80",
    "0:80",
    "8080:0",
    "65536:80",
    "8080:99999",
    "100000:80",
    "-1:80",
    "8080:80/sctp",
    "8080:80/",
    "8080:80/tcp/udp",
    "90-80:90-80",
    "80-90:80-89",
    "80-90:80",
    "80-:80",
    "256.0.0.1:80:80",
    "::1:80:80",
    "[::1:80:80",
    "[::1]80:80",
    "[]:80:80",
    "1.2.3.4:5:6:7:8",
    "eth0:80:80",
    "8080:-vm:80",
    "8080:vm 1:80",
    "8080:vm1;rm:80",
    "８０:80",
    "8080:80\n9090:90",
    "8080:80\x00",
]


@pytest.mark.parametrize(("spec", "expected"), SPELLINGS)
def test_each_spelling_means_what_docker_and_podman_users_expect(spec: str, expected: tuple) -> None:
    assert parse_forward(spec) == ForwardRule(*expected)


@pytest.mark.parametrize("spec", WRONG)
def test_a_wrong_spec_is_refused_with_the_part_that_is_wrong(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_forward(spec)
    assert str(caught.value).startswith("forward: ")
    assert caught.value.field
    assert str(caught.value).count("forward") == 1


def test_h4_the_host_side_is_loopback_unless_an_address_is_given() -> None:
    assert parse_forward("8080:80").is_loopback
    assert not parse_forward("0.0.0.0:8080:80").is_loopback


def test_every_pair_of_a_range_is_listed_in_order() -> None:
    assert parse_forward("7000-7002:80-82").pairs() == [(7000, 80), (7001, 81), (7002, 82)]


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("8080:80", "8080:81", True),
        ("8080:80", "8081:80", False),
        ("8080:80/tcp", "8080:80/udp", False),
        ("0.0.0.0:8080:80", "8080:80", True),
        ("192.0.2.1:8080:80", "192.0.2.2:8080:80", False),
        ("[::]:8080:80", "0.0.0.0:8080:80", False),
        ("[::]:8080:80", "[::1]:8080:80", True),
        ("8000-8100:1-101", "8100-8200:1-101", True),
        ("8000-8100:1-101", "8101-8200:1-100", False),
    ],
)
def test_two_rules_overlap_when_one_packet_could_match_both(one: str, other: str, collide: bool) -> None:
    first, second = parse_forward(one), parse_forward(other)
    assert first.overlaps(second) is collide
    assert second.overlaps(first) is collide


l4_ports = st.integers(1, 65535)
guests = (
    st.none()
    | st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
    | st.ip_addresses().map(str)
)


@st.composite
def rules(draw: st.DrawFn) -> ForwardRule:
    size = draw(st.integers(0, 200))
    host, guest = draw(st.integers(1, 65535 - size)), draw(st.integers(1, 65535 - size))
    return ForwardRule(
        protocol=draw(st.sampled_from(["tcp", "udp"])),
        host_ip=str(draw(st.ip_addresses())),
        host_port=host,
        host_port_end=host + size,
        guest=draw(guests),
        guest_port=guest,
        guest_port_end=guest + size,
    )


@given(rules())
def test_the_text_of_a_rule_parses_back_to_the_rule(rule: ForwardRule) -> None:
    assert parse_forward(str(rule)) == rule


@given(rules(), rules())
def test_overlap_agrees_with_comparing_every_port(one: ForwardRule, other: ForwardRule) -> None:
    same_port = bool({host for host, _ in one.pairs()} & {host for host, _ in other.pairs()})
    if one.overlaps(other):
        assert same_port
        assert one.protocol == other.protocol
    elif same_port and one.protocol == other.protocol:
        assert one.host_ip != other.host_ip


@given(st.text(max_size=40) | st.from_regex(r"[0-9:.\-/\[\]a-z]{0,30}", fullmatch=True))
def test_any_text_is_a_rule_or_a_config_error(text: str) -> None:
    try:
        rule = parse_forward(text)
    except ConfigError:
        return
    assert 1 <= rule.host_port <= rule.host_port_end <= 65535
    assert rule.size == rule.guest_port_end - rule.guest_port + 1
