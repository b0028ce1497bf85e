"""Names and aliases of kernel objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.host.plan import alias, bridge_ifname, parse_alias, port_ifname, port_prefix

network_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
port_names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(network_names, st.none() | port_names)
def test_an_alias_tells_network_and_port(network: str, port: str | None) -> None:
    assert parse_alias(alias(network, port)) == (network, port)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "uplink to rack 4",
        "arcbox-net",
        "arcbox-net 1 2",
        "arcbox-netnetwork=x",
        "xarcbox-net network=a",
    ],
)
def test_another_programs_alias_is_not_ours(text: str | None) -> None:
    assert parse_alias(text) is None


@given(network_names, st.integers(0, 9999))
def test_interface_names_fit_and_a_port_is_never_a_bridge(network: str, index: int) -> None:
    bridge, port = bridge_ifname(network), port_ifname(network, index)
    assert len(bridge.encode()) <= 15 and len(port.encode()) <= 15
    assert bridge != port and port.startswith(port_prefix(network))


@given(network_names, network_names)
def test_two_networks_have_two_bridges(one: str, other: str) -> None:
    assert (bridge_ifname(one) == bridge_ifname(other)) == (one == other)
