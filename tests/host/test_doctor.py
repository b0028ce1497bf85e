"""What doctor says of machines that lack one thing each: a directory stands for the machine's files."""

from __future__ import annotations

import platform
import shlex
import socket
from pathlib import Path

import pytest

from arcbox_net.host.linux import doctor
from arcbox_net.host.linux.doctor import Check
from arcbox_net.host.linux.listeners import wildcard_listeners
from tests.host.firewall_lab import Lab
from tests.support.netns import Host
from tests.support.user import User

GOOD = {
    "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
    "proc/sys/net/ipv4/ip_forward": "1\n",
    "proc/sys/net/ipv4/ping_group_range": "0\t2147483647\n",
    "proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
    "proc/sys/net/netfilter/nf_conntrack_count": "100\n",
    "proc/sys/user/max_user_namespaces": "15000\n",
    "etc/resolv.conf": "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
    "proc/sys/net/ipv6/conf/all/disable_ipv6": "0\n",
    "proc/sys/net/ipv6/conf/default/disable_ipv6": "0\n",
    "proc/sys/net/ipv6/conf/all/forwarding": "0\n",
    "sys/module/bridge/initstate": "live\n",
}


def machine(root: Path, **changes: str | None) -> dict[str, Check]:
    """The checks of a good machine with *changes*: path with `__` for `/` and `_dot_` for `.`."""
    files: dict[str, str | None] = {**GOOD}
    for name, text in changes.items():
        files[name.replace("__", "/").replace("_dot_", ".")] = text
    for name, text in files.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return {check.name: check for check in doctor.checks(root=root)}


def test_good_machine_passes_what_its_files_tell(tmp_path: Path) -> None:
    found = machine(tmp_path)
    for name in ("privileges", "bridge", "ip_forward", "resolv.conf", "conntrack", "ports 53 and 67"):
        assert found[name].ok, found[name]
    assert found["resolv.conf"].detail == "192.0.2.1, 2001:db8::1"


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        pytest.param(
            {"etc__resolv_dot_conf": "search example\n"}, "resolv.conf", "nameserver", id="no-nameserver"
        ),
        pytest.param({"etc__resolv_dot_conf": None}, "resolv.conf", "nameserver", id="no-resolv.conf"),
        pytest.param({"sys__module__bridge__initstate": None}, "bridge", "modprobe bridge", id="no-bridge"),
        pytest.param(
            {"etc__sysctl_dot_d__10-hard_dot_conf": "net.ipv4.ip_forward=0\n"},
            "ip_forward",
            "99-zz",
            id="forbidden",
        ),
        pytest.param(
            {"proc__sys__net__netfilter__nf_conntrack_count": "262000\n"},
            "conntrack",
            "524288",
            id="conntrack-full",
        ),
        pytest.param(
            {"proc__sys__net__netfilter__nf_conntrack_max": "1000\n"},
            "conntrack",
            "262144",
            id="conntrack-small",
        ),
    ],
)
def test_what_is_missing_fails_with_the_command_that_helps(
    tmp_path: Path, changes: dict[str, str | None], name: str, told: str
) -> None:
    check = machine(tmp_path, **changes)[name]
    assert not check.ok
    assert check.fix is not None and told in check.fix


@pytest.mark.parametrize(
    ("changes", "name", "detail"),
    [
        pytest.param(
            {"proc__sys__net__ipv4__ip_forward": "0\n"}, "ip_forward", "switches it on", id="forward-off"
        ),
        pytest.param(
            {"proc__sys__user__max_user_namespaces": "0\n"}, "user namespaces", "off", id="userns-off"
        ),
        pytest.param(
            {"proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1\n"},
            "user namespaces",
            "AppArmor",
            id="apparmor",
        ),
        pytest.param(
            {"proc__sys__net__ipv4__ping_group_range": "1\t0\n"}, "ping without root", "off", id="no-ping"
        ),
        pytest.param(
            {
                "sys__module__bridge__initstate": None,
                f"lib__modules__{platform.release().replace('.', '_dot_')}__modules_dot_builtin": (
                    "kernel/net/bridge/bridge.ko\n"
                ),
            },
            "bridge",
            "built in",
            id="bridge-built-in",
        ),
    ],
)
def test_what_is_only_worth_knowing_does_not_fail(
    tmp_path: Path, changes: dict[str, str | None], name: str, detail: str
) -> None:
    check = machine(tmp_path, **changes)[name]
    assert check.ok and detail in check.detail


UDP_TABLE = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)


def test_server_on_every_address_is_named(tmp_path: Path) -> None:
    listener = (
        "   1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2\n"
    )
    (tmp_path / "proc/77/fd").mkdir(parents=True)
    (tmp_path / "proc/77/comm").write_text("dnsmasq\n")
    (tmp_path / "proc/77/fd/5").symlink_to("socket:[4711]")
    check = machine(tmp_path, proc__net__udp=UDP_TABLE + listener)["DNS port 53"]
    assert not check.ok
    assert "dnsmasq, pid 77" in check.detail
    assert check.fix is not None and "bind-dynamic" in check.fix


def test_server_on_one_address_does_not_matter(tmp_path: Path) -> None:
    listener = (
        "   1: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4711 2\n"
    )
    assert machine(tmp_path, proc__net__udp=UDP_TABLE + listener)["ports 53 and 67"].ok


def test_real_wildcard_listener_is_found() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        (holder,) = wildcard_listeners("tcp", sock.getsockname()[1])
    assert "pid" in holder


def test_every_check_of_this_machine_has_a_command_where_it_fails() -> None:
    for check in doctor.checks(live=()):
        assert check.detail
        assert check.ok or check.fix
        if check.fix:
            shlex.split(check.fix)


@pytest.mark.e2e
def test_leftovers_of_dead_networks_are_named_and_live_ones_are_not() -> None:
    with Host(world=False) as host:
        network = Lab(host, "dead-one")
        Lab(host, "alive", "192.168.65.0/24")
        host.run(f"ip link set {network.bridge} alias 'arcbox-net network=dead-one'")
        check = {c.name: c for c in host.call(lambda: doctor.checks(live=["alive"]))}["leftovers"]
        assert not check.ok
        assert check.fix == "arcbox-net down dead-one"


NO_ROOT = {"proc__self__status": "CapEff:\t0000000000000000\n"}


def test_user_without_privileges_is_told_what_works_and_not_what_only_root_can_mend(tmp_path: Path) -> None:
    found = machine(tmp_path, **NO_ROOT, proc__sys__net__ipv4__ip_forward="0\n")
    assert found["privileges"].ok and "masquerade need CAP_NET_ADMIN" in found["privileges"].detail
    assert found["user namespaces"].ok
    assert not {"ip_forward", "conntrack", "leftovers"} & set(found)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("proc__sys__user__max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces="),
        ("proc__sys__kernel__unprivileged_userns_clone", "0\n", "unprivileged_userns_clone=1"),
        ("proc__sys__kernel__apparmor_restrict_unprivileged_userns", "1\n", "apparmor_parser"),
    ],
)
def test_user_who_may_have_no_user_namespace_is_told_which_setting_it_is(
    tmp_path: Path, name: str, value: str, fix: str
) -> None:
    check = machine(tmp_path, **NO_ROOT, **{name: value})["user namespaces"]
    assert not check.ok
    assert name.rpartition("__")[2] in check.detail
    assert fix in (check.fix or "")


def test_first_host_port_of_an_ordinary_user_is_told(tmp_path: Path) -> None:
    found = machine(tmp_path, proc__sys__net__ipv4__ip_unprivileged_port_start="1024\n")
    assert "1024" in found["host ports without root"].detail
    assert "ip_unprivileged_port_start" in (found["host ports without root"].fix or "")


@pytest.mark.parametrize(
    ("pages", "ok", "told"),
    [
        ("0\n", True, "unlimited"),
        ("16384\n", True, "64 MiB for all programs of a user"),
        ("1024\n", False, "4 MiB for all programs of a user"),
        (None, True, "no limit known"),
    ],
)
def test_low_limit_of_a_users_pipes_is_told_with_the_setting(
    tmp_path: Path, pages: str | None, ok: bool, told: str
) -> None:
    check = machine(tmp_path, **NO_ROOT, **{"proc__sys__fs__pipe-user-pages-soft": pages})[
        "pipes without root"
    ]
    assert (check.ok, bool(check.fix)) == (ok, not ok) and told in check.detail
    assert ok or "sysctl -w fs.pipe-user-pages-soft=131072" in (check.fix or "")


@pytest.mark.e2e
def test_doctor_finds_out_whether_a_user_may_have_namespaces(tmp_path: Path) -> None:
    text = """
from arcbox_net.host.linux import doctor
check = next(check for check in doctor.checks() if check.name == "user namespaces")
print(check.ok, check.detail)
"""
    with Host() as host:
        user = User(host, tmp_path)
        assert user.python(text).stdout == "True available to every user\n"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"proc__sys__net__ipv6__conf__all__disable_ipv6": None}, "kernel has none"),
        ({"proc__sys__net__ipv6__conf__all__disable_ipv6": "1\n"}, "switched off"),
        ({"proc__sys__net__ipv6__conf__default__disable_ipv6": "1\n"}, "switched off"),
    ],
)
def test_a_machine_without_ipv6_is_told_that_guests_have_none(
    tmp_path: Path, changes: dict[str, str | None], told: str
) -> None:
    check = machine(tmp_path, **changes)["ipv6"]
    assert check.ok and told in check.detail and "IPv4 only" in check.detail


@pytest.mark.e2e
def test_doctor_says_whether_guests_reach_the_outside_by_ipv6(tmp_path: Path) -> None:
    with Host() as host:
        assert "no default route" in host.call(lambda: machine(tmp_path)["ipv6"].detail)
        host.run(f"ip -6 addr add 2001:db8:113::2/64 dev {host.uplink} nodad")
        host.run(f"ip -6 route add default via 2001:db8:113::1 dev {host.uplink}")
        assert host.call(lambda: machine(tmp_path)["ipv6"].detail).startswith("default route")
