"""Other people's firewalls: found where they stop guests, with the command that helps, and left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net.host.linux import foreign
from arcbox_net.host.linux.foreign import ForeignDrop, foreign_drops
from tests.host.firewall_lab import Lab, ask, ping, server, silent
from tests.support.netns import Host

# What `nft list ruleset` shows on hosts with these tools, cut down to what decides. iptables-nft makes such tables.
DOCKER = """
table ip filter {
    chain DOCKER-USER { return; }
    chain DOCKER-FORWARD { iifname "docker0" accept; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
        counter jump DOCKER-FORWARD
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
    }
}
"""
UFW = """
table ip filter {
    chain ufw-before-input { iifname "lo" counter accept; ct state related,established counter accept; }
    chain ufw-before-forward { ct state related,established counter accept; }
    chain INPUT { type filter hook input priority filter; policy drop; counter jump ufw-before-input; }
    chain FORWARD { type filter hook forward priority filter; policy drop; counter jump ufw-before-forward; }
    chain OUTPUT { type filter hook output priority filter; policy accept; }
}
"""
FIREWALLD = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        iifname "lo" accept
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        iifname "lo" accept
        iifname "trusted0" accept
        reject with icmpx admin-prohibited
    }
}
"""
HARMLESS = """
table inet admin {
    chain forward { type filter hook forward priority filter; policy accept; tcp dport 25 drop; }
    chain early { type filter hook prerouting priority raw; policy accept; ct state invalid counter drop; }
}
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def drops_of(host: Host, bridge: str | None = "abx-lab") -> list[ForeignDrop]:
    return host.call(lambda: foreign_drops(bridge))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("ruleset", "owner", "chains"),
    [
        pytest.param(DOCKER, "docker", ["FORWARD"], id="docker"),
        pytest.param(UFW, "ufw", ["FORWARD", "INPUT"], id="ufw"),
        pytest.param(FIREWALLD, "firewalld", ["filter_FORWARD", "filter_INPUT"], id="firewalld"),
    ],
)
def test_drop_of_a_foreign_firewall_is_real_found_and_its_fix_works(
    host: Host, ruleset: str, owner: str, chains: list[str]
) -> None:
    network = Lab(host)
    guest = network.guest()
    assert ping(guest.ns, host.world_ip)
    host.run("nft -f -", stdin=ruleset)
    with server(host.world, 80):
        assert ask(guest.ns, host.world_ip, 80, timeout=0.4) is None
        found = drops_of(host)
        assert sorted(drop.message.split()[2] for drop in found) == chains
        assert all(drop.message.startswith(owner) for drop in found)
        for drop in found:
            tell(host, drop)
        assert drops_of(host) == []
        assert ask(guest.ns, host.world_ip, 80)
    assert ping(guest.ns, network.gateway)


def tell(host: Host, drop: ForeignDrop) -> None:
    """Do what the fix does, with nft: this host has neither iptables nor ufw nor firewalld."""
    words = drop.message.split()
    family, table, chain = words[5], words[6], words[2]
    for side in ("iifname", "oifname") if "FORWARD" in chain else ("iifname",):
        host.run(["nft", f'insert rule {family} {table} {chain} {side} "abx-lab" accept'])


@pytest.mark.e2e
def test_fix_for_plain_nftables_can_be_run_as_it_is(host: Host) -> None:
    network = Lab(host)
    guest = network.guest()
    host.run(
        "nft -f -",
        stdin="table inet admin { chain mine { type filter hook forward priority 0; policy drop; }; }",
    )
    assert silent(guest.ns, host.world_ip, 80)
    (drop,) = drops_of(host)
    host.run(["sh", "-c", drop.fix])
    assert drops_of(host) == []
    assert ping(guest.ns, host.world_ip)


@pytest.mark.e2e
def test_drop_for_ipv6_counts_where_guests_have_a_way_out_by_ipv6(host: Host) -> None:
    host.run(
        "nft -f -", stdin=DOCKER.replace("table ip ", "table ip6 ").replace("ip saddr 172.17.0.0/16 ", "")
    )
    assert drops_of(host) == []
    (drop,) = host.call(lambda: foreign_drops("abx-lab", ipv6=True))
    assert drop.message.startswith("docker: chain FORWARD of table ip6 filter drops on forward: ")
    assert "the outside by IPv6" in drop.message
    assert drop.fix.startswith("ip6tables -I DOCKER-USER -i abx-lab -j ACCEPT")


@pytest.mark.e2e
def test_rule_for_every_bridge_of_ours_counts(host: Host) -> None:
    host.run("nft -f -", stdin=DOCKER)
    (drop,) = drops_of(host, None)
    assert (
        drop.fix == "iptables -I DOCKER-USER -i abx-+ -j ACCEPT && iptables -I DOCKER-USER -o abx-+ -j ACCEPT"
    )
    host.run(["nft", 'insert rule ip filter DOCKER-USER iifname "abx-*" accept'])
    assert drops_of(host, None) == []
    assert drops_of(host, "abx-lab") == []
    assert len(drops_of(host, "br0")) == 1


@pytest.mark.e2e
def test_nothing_is_found_among_harmless_rules_and_our_own(host: Host) -> None:
    network = Lab(host, isolated=True)
    host.run("nft -f -", stdin=HARMLESS)
    assert drops_of(host) == []
    network.close()


@pytest.mark.e2e
def test_foreign_tables_are_as_they_were_after_ours_are_gone(host: Host) -> None:
    host.run("nft -f -", stdin=DOCKER + FIREWALLD)
    before = host.run("nft -s list ruleset").stdout
    network = Lab(host)
    network.guest()
    network.close()
    assert host.run("nft -s list ruleset").stdout == before


LEGACY = """-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
"""


def test_legacy_iptables_drop_policy_is_found() -> None:
    (drop,) = foreign.legacy_drops(LEGACY, "abx-lab")
    assert "docker" in drop.message and drop.fix.startswith(
        "iptables-legacy -I DOCKER-USER -i abx-lab -j ACCEPT"
    )


def test_legacy_iptables_with_a_rule_for_the_bridge_is_fine() -> None:
    assert list(foreign.legacy_drops(LEGACY + "-A DOCKER-USER -i abx-lab -j ACCEPT\n", "abx-lab")) == []


def test_a_legacy_tool_that_does_not_run_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tables").write_text("filter\n")
    (tmp_path / "iptables-legacy").write_text("not a program")
    (tmp_path / "iptables-legacy").chmod(0o755)
    monkeypatch.setattr(foreign, "LEGACY_TABLES", tmp_path / "tables")
    monkeypatch.setattr(foreign, "list_chains", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert foreign_drops() == []
