"""Forwarding is on while a network needs it, and afterwards everything reads as before."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arcbox_net.errors import PermissionDenied
from arcbox_net.host.linux import sysctl
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as created:
        created.run("ip link add br9 type bridge")
        created.sysctl("net.ipv4.ip_forward", 0)
        created.sysctl("net.ipv4.conf.all.accept_redirects", 0)
        created.sysctl("net.ipv4.conf.br9.forwarding", 1)
        yield created


def values(host: Host) -> dict[str, str | None]:
    return host.call(lambda: {name: sysctl._value(name) for name in sysctl._all_that_the_switch_changes()})


def enable(
    host: Host,
    record: Path,
    network: str,
    *ifnames: str,
    live: list[str] | None = None,
    ipv6: bool = False,
) -> None:
    host.call(lambda: sysctl.enable_forwarding(network, ifnames, record, live=live, ipv6=ipv6))


def restore(host: Host, record: Path, network: str, live: list[str] | None = None) -> None:
    host.call(lambda: sysctl.restore_forwarding(network, record, live=live))


def test_the_last_network_restores_what_the_first_one_found(host: Host, tmp_path: Path) -> None:
    before = values(host)
    assert before["conf/br9/forwarding"] == "1" and before["conf/all/accept_redirects"] == "0"
    enable(host, tmp_path, "one")
    enable(host, tmp_path, "two")
    enable(host, tmp_path, "two")
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    restore(host, tmp_path, "one")
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    restore(host, tmp_path, "two")
    assert values(host) == before
    restore(host, tmp_path, "two")
    assert values(host) == before


def test_networks_of_two_namespaces_with_one_folder_do_not_mix_up_their_records(
    host: Host, tmp_path: Path
) -> None:
    with Host() as other:
        other.sysctl("net.ipv4.ip_forward", 0)
        enable(host, tmp_path, "one")
        enable(other, tmp_path, "two")
        restore(host, tmp_path, "one")
        assert host.sysctl("net.ipv4.ip_forward") == "0"
        assert other.sysctl("net.ipv4.ip_forward") == "1"
        restore(other, tmp_path, "two")
        assert other.sysctl("net.ipv4.ip_forward") == "0"


def test_forwarding_that_was_on_stays_on(host: Host, tmp_path: Path) -> None:
    host.sysctl("net.ipv4.ip_forward", 1)
    enable(host, tmp_path, "one")
    restore(host, tmp_path, "one")
    assert host.sysctl("net.ipv4.ip_forward") == "1"


def test_an_interface_that_was_switched_off_by_hand_is_put_back(host: Host, tmp_path: Path) -> None:
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv4.conf.up0.forwarding", 0)
    enable(host, tmp_path, "one", "up0", "missing0")
    assert host.sysctl("net.ipv4.conf.up0.forwarding") == "1"
    restore(host, tmp_path, "one")
    assert host.sysctl("net.ipv4.conf.up0.forwarding") == "0"
    assert host.sysctl("net.ipv4.ip_forward") == "1"


def test_k1_networks_that_died_without_a_word_do_not_count(host: Host, tmp_path: Path) -> None:
    before = values(host)
    enable(host, tmp_path, "killed")
    enable(host, tmp_path, "alive", live=["alive"])
    restore(host, tmp_path, "alive", live=[])
    assert values(host) == before


def test_k1_a_dead_network_that_comes_back_still_knows_the_first_values(host: Host, tmp_path: Path) -> None:
    before = values(host)
    enable(host, tmp_path, "one")
    enable(host, tmp_path, "one", live=[])
    restore(host, tmp_path, "one", live=[])
    assert values(host) == before


def crash(patched: pytest.MonkeyPatch, step: int) -> None:
    """The *step*-th write to the kernel or the record, and all after it, do not happen."""
    done = [0]

    def crashing(real: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: object) -> None:
            if done[0] == step:
                raise KeyboardInterrupt
            done[0] += 1
            real(*arguments)

        return write

    patched.setattr(sysctl, "_write", crashing(sysctl._write))
    patched.setattr(sysctl, "_store", crashing(sysctl._store))


@pytest.mark.parametrize("crash_at", range(5))
def test_k2_an_interrupted_restoration_is_finished_by_the_next(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    before = values(host)
    enable(host, tmp_path, "one")
    with monkeypatch.context() as patched:
        crash(patched, crash_at)
        with contextlib.suppress(KeyboardInterrupt):
            restore(host, tmp_path, "one")
    restore(host, tmp_path, "one")
    assert values(host) == before


@pytest.mark.parametrize("crash_at", range(4))
def test_k2_a_crash_between_two_writes_is_undone_by_the_next(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    host.sysctl("net.ipv4.conf.up0.forwarding", 0)
    before = values(host)
    with monkeypatch.context() as patched:
        crash(patched, crash_at)
        with contextlib.suppress(KeyboardInterrupt):
            enable(host, tmp_path, "one", "up0")
    restore(host, tmp_path, "one", live=[])
    assert values(host) == before


def test_who_switches_it_off_meanwhile_is_not_overruled(host: Host, tmp_path: Path) -> None:
    enable(host, tmp_path, "one")
    host.sysctl("net.ipv4.ip_forward", 0)
    after = values(host)
    restore(host, tmp_path, "one")
    assert values(host) == after


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"where": "another boot 1", "networks": ["x"], "touched": {}}']
)
def test_a_record_that_is_broken_or_of_another_boot_is_ignored(host: Host, tmp_path: Path, text: str) -> None:
    before = values(host)
    record = host.call(lambda: sysctl._record(tmp_path))
    record.write_text(text)
    enable(host, tmp_path, "one")
    assert json.loads(record.read_text())["networks"] == ["one"]
    restore(host, tmp_path, "one")
    assert values(host) == before


def test_a_read_only_proc_is_told_with_a_way_out(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refused)
        with pytest.raises(PermissionDenied, match=r"net\.ipv4\.ip_forward: Read-only") as caught:
            enable(host, tmp_path, "one")
    assert "container" in str(caught.value.fix)


def values6(host: Host) -> dict[str, str | None]:
    names = ("forwarding", "force_forwarding", "accept_ra")
    return host.call(
        lambda: {
            f"{entry}/{name}": sysctl._value(f"{sysctl.IPV6}/{entry}/{name}")
            for entry in sysctl._entries6()
            for name in names
        }
    )


@pytest.fixture(params=["force_forwarding", "older kernel"])
def older(request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel is one without force_forwarding (Linux 6.17), or is made to look like one."""
    has_force = host.call(lambda: sysctl._value(sysctl.FORCE6)) is not None
    if request.param == "force_forwarding":
        if not has_force:
            pytest.skip("this kernel has no force_forwarding")
        return False
    monkeypatch.setattr(sysctl, "FORCE6", f"{sysctl.IPV6}/all/is_not_there")
    return True


def test_ipv6_forwarding_leaves_the_host_its_router_advertisements(
    host: Host, tmp_path: Path, older: bool
) -> None:
    before = values6(host)
    assert before["up0/accept_ra"] == "1"
    enable(host, tmp_path, "one", ipv6=True)
    enable(host, tmp_path, "two", ipv6=True)
    during = values6(host)
    if older:
        assert (during["all/forwarding"], during["up0/forwarding"], during["up0/accept_ra"]) == (
            "1",
            "1",
            "2",
        )
    else:
        assert (during["all/force_forwarding"], during["up0/force_forwarding"]) == ("1", "1")
        assert (during["all/forwarding"], during["up0/forwarding"], during["up0/accept_ra"]) == (
            "0",
            "0",
            "1",
        )
        host.run("ip link add br7 type bridge")
        assert values6(host)["br7/force_forwarding"] == "1"
        host.run("ip link del br7")
    restore(host, tmp_path, "one")
    assert values6(host) == during
    restore(host, tmp_path, "two")
    assert values6(host) == before


def test_ipv6_forwarding_that_was_on_is_left_alone(host: Host, tmp_path: Path) -> None:
    host.sysctl("net.ipv6.conf.all.forwarding", 1)
    before = values6(host)
    enable(host, tmp_path, "one", ipv6=True)
    assert values6(host) == before
    restore(host, tmp_path, "one")
    assert values6(host) == before


def test_who_switches_ipv6_forwarding_off_meanwhile_is_not_overruled(
    host: Host, tmp_path: Path, older: bool
) -> None:
    enable(host, tmp_path, "one", ipv6=True)
    host.sysctl("net.ipv6.conf.all.forwarding" if older else "net.ipv6.conf.all.force_forwarding", 0)
    before = values6(host)
    restore(host, tmp_path, "one")
    assert values6(host) == before
    assert host.sysctl("net.ipv4.ip_forward") == "0"


def test_a_network_has_ipv6_unless_the_host_has_switched_it_off(host: Host) -> None:
    assert host.call(sysctl.has_ipv6)
    host.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    assert not host.call(sysctl.has_ipv6)


@pytest.mark.parametrize("name", ["icmp", "icmpv6"])
def test_rfc5508_req2_echo_mappings_live_a_minute_while_a_network_needs_it(
    host: Host, tmp_path: Path, name: str
) -> None:
    timeout = f"net.netfilter.nf_conntrack_{name}_timeout"
    host.run("nft add table inet t")
    host.run(["nft", "add chain inet t c { type filter hook input priority 0; }"])
    host.run(["nft", "add rule inet t c ct state new accept"])  # or there are no such settings yet
    host.sysctl(timeout, 30)
    enable(host, tmp_path, "one")
    assert host.sysctl(timeout) == "60"
    restore(host, tmp_path, "one")
    assert host.sysctl(timeout) == "30"
    host.sysctl(timeout, 90)
    enable(host, tmp_path, "one")
    assert host.sysctl(timeout) == "90"
    restore(host, tmp_path, "one")
    assert host.sysctl(timeout) == "90"
