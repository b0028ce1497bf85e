"""What is asked wrongly is refused with status 2 and changes nothing; what fails ends with 1 and a fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from arcbox_net.cli.main import VERBS

Run = Callable[..., Result]

WRONG: list[tuple[tuple[str, ...], str]] = [
    (("upp", "dev"), "did you mean 'up'?"),
    (("frobnicate",), "commands are up, down"),
    (("up",), "Missing argument 'NAME'"),
    (("up", "Dev"), "network name 'Dev'"),
    (("up", "../etc"), "network name '../etc'"),
    (("up", "lab", "--mode", "none"), "'none' is not one of"),
    (("up", "lab", "--mode", "bridge"), "needs a bridge or a nic"),
    (("up", "lab", "--mode", "nat", "--bridge", "br0"), "needs mode bridge"),
    (("up", "lab", "--bridge", "br0", "--nic", "eth1"), "not both"),
    (("up", "lab", "--subnet", "192.168.64.1/24"), "host bits"),
    (("up", "lab", "--subnet", "8.8.8.0/24"), "not a private range"),
    (("up", "lab", "--egress", "wire"), "'wire' is not one of"),
    (("up", "lab", "--mtu", "100"), "mtu 100: expected 576"),
    (("up", "lab", "--mtu", "big"), "'big' is not a valid integer"),
    (("up", "lab", "--queues", "99"), "num_queues 99"),
    (("up", "lab", "-p", "8080:eighty"), "'eighty' is not a port number or range"),
    (("up", "lab", "-p", "8080:80", "-p", "0.0.0.0:8080:81"), "overlap"),
    (("up", "lab", "--host-access", "http"), "host_access 'http'"),
    (("up", "lab", "--dns", "resolver"), "dns.upstreams 'resolver'"),
    (("up", "lab", "-f", "/nonexistent.toml"), "No such file"),
    (("down",), "give a NAME, or --all"),
    (("down", "dev", "--all"), "not both"),
    (("run",), "put it after --"),
    (("run", "dev"), "put it after --"),
    (("run", "dev", "--"), "put it after --"),
    (("run", "dev", "--subnet", "10.0.0.0/24", "--", "true"), "describes a new network"),
    (("run", "--mtu", "1", "--", "true"), "mtu 1"),
    (("run", "dev", "--mac", "x", "--", "true"), "'x' is not a MAC address"),
    (("run", "dev", "--ip", "300.0.0.1", "--", "true"), "not an IPv4 address"),
    (("run", "dev", "--name", "a.b", "--", "true"), "name 'a.b'"),
    (("attach", "dev"), "Missing argument 'PORT'"),
    (("attach", "dev", "vm1"), "give one of --tap"),
    (("attach", "dev", "vm1", "--tap", "--netns", "x"), "give one of --tap"),
    (("attach", "dev", "vm_1", "--tap"), "port 'vm_1'"),
    (("attach", "dev", "vm1", "--tap", "--mac", "ff:ff:ff:ff:ff:ff"), "multicast or zero"),
    (("attach", "dev", "vm1", "--tap", "--ip", "fd00::1"), "not an IPv4 address"),
    (("attach", "dev", "vm1", "--tap", "--queues", "0"), "0 is not in the range 1<=x<=16"),
    (("attach", "dev", "vm1", "--netns", "x", "--owner", "5"), "goes with --tap"),
    (("attach", "dev", "vm1", "--stream", "x", "--dgram", "y"), "give one of --tap"),
    (("attach", "dev", "vm1", "--stream", "x", "--queues", "2"), "--queues goes with"),
    (("attach", "dev", "vm1", "--dgram", "x", "--connect"), "--connect goes with"),
    (("attach", "dev", "vm1", "--stream", "x", "--remote", "y"), "--remote goes with --dgram"),
    (("run", "dev", "--via", "stream", "--", "curl", "x"), "--via stream is for VM monitors"),
    (("attach", "dev", "vm1", "--netns", "x", "--ifname", "a-name-too-long-"), "not an interface name"),
    (("exec-tap", "dev", "vm1"), "put it after --"),
    (("exec-tap", "dev", "vm1", "--", "qemu"), "does not say where the descriptor goes"),
    (("exec-tap", "dev", "vm1", "--mac", "x", "--", "qemu", "{fd}"), "'x' is not a MAC address"),
    (
        ("exec-tap", "dev", "vm1", "--ip", "192.168.64.9", "--", "qemu", "{fd}"),
        "attached with ip 192.168.64.2",
    ),
    (("exec-tap", "dev", "vm1", "--queues", "2", "--", "qemu", "{fd}"), "attached with queues 1, not 2"),
    (("enter",), "Missing argument 'NAME'"),
    (("flows",), "Missing argument 'NAME'"),
    (("forward",), "Forward host ports"),
    (("forward", "add", "dev"), "Missing argument 'SPEC…'"),
    (("forward", "add", "dev", "80:80:80:80:80"), "expected [host_ip:]"),
    (("forward", "add", "dev", "0:80"), "1 to 65535"),
    (("forward", "add", "dev", "8080:80", "80-70:1-2"), "ends at or after its start"),
    (("forward", "rm", "dev", "x"), "expected [host_ip:]"),
    (("lease", "reserve", "dev", "x", "192.168.64.9"), "not a MAC address"),
    (("lease", "reserve", "dev", "02:00:00:00:00:01", "x"), "not an IPv4 address"),
    (("lease", "reserve", "dev", "02:00:00:00:00:01", "10.0.0.2", "--hostname", "a b"), "name 'a b'"),
    (("lease", "release", "dev", "x"), "not an IPv4 address"),
    (("dns", "add", "dev", "bad name", "1.2.3.4"), "not a domain name"),
    (("dns", "add", "dev", "printer"), "Missing argument 'ADDRESS…'"),
    (("dns", "add", "dev", "printer", "1.2.3"), "'1.2.3' is not an address"),
    (("completion", "tcsh"), "'tcsh' is not one of"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_request_says_why_ends_with_2_and_changes_nothing(
    arcbox_net: Run, manager, words: tuple[str, ...], said: str
) -> None:
    result = arcbox_net(*words)
    assert said in result.output
    assert result.exit_code == 2
    assert manager.asked == []


FAILING: list[tuple[tuple[str, ...], str]] = [
    (("up", "dev"), "network dev runs already (pid 7)"),
    (("show", "gone"), "fix: start it: arcbox-net up gone"),
    (("forward", "ls", "gone"), "network gone is not running"),
    (("flows", "gone"), "network gone is not running"),
    (("enter", "gone"), "network gone is not running"),
    (("exec-tap", "gone", "vm1", "--", "qemu", "{fd}"), "network gone is not running"),
    (("lease", "ls", "gone"), "network gone is not running"),
    (("dns", "ls", "gone"), "network gone is not running"),
    (("detach", "dev", "vm9"), "fix: ports are vm1"),
    (("attach", "gone", "vm1", "--tap"), "network gone is not running"),
    (("attach", "gone", "vm1", "--stream", "/tmp/s"), "network gone is not running"),
]


@pytest.mark.parametrize(("words", "said"), FAILING, ids=[" ".join(words) for words, _ in FAILING])
def test_what_cannot_be_done_says_why_and_ends_with_1(
    arcbox_net: Run, manager, words: tuple[str, ...], said: str
) -> None:
    result = arcbox_net(*words)
    assert said in result.output
    assert result.exit_code == 1
    assert manager.asked == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no [networks.NAME] table"),
        ("[networks.lab]\nmtu = 'big'", "networks.lab.mtu"),
        ("[networks.lab]\nsubnett = 'auto'", "fix: did you mean 'subnet'?"),
        ("[networks.lab]\nforwards = ['x:y']", "expected [host_ip:]"),
        ("[networks.lab]\nmode = 'bridge'", "needs a bridge or a nic"),
        ("[networks.lab.dhcp]\nlease_s = 1", "dhcp.lease_s 1"),
        ("[networks.other]", "fix: it describes other"),
        ("[networks.lab", "networks.toml"),
    ],
)
def test_a_wrong_toml_file_says_why_ends_with_2_and_changes_nothing(
    arcbox_net: Run, manager, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "networks.toml"
    file.write_text(text)
    result = arcbox_net("up", "lab", "-f", str(file))
    assert said in result.output
    assert result.exit_code == 2
    assert manager.asked == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(arcbox_net: Run, verb: str) -> None:
    result = arcbox_net(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: arcbox-net {verb}" in result.output
    assert result.output.count("\n") > 5


def test_the_version_is_that_of_the_package(arcbox_net: Run) -> None:
    from arcbox_net import __version__

    assert arcbox_net("--version").output == f"arcbox-net {__version__}\n"


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete ")]
)
def test_a_completion_script_is_printed(arcbox_net: Run, shell: str, word: str) -> None:
    result = arcbox_net("completion", shell)
    assert result.exit_code == 0
    assert word in result.output
    assert "_ARCBOX_NET_COMPLETE" in result.output


@pytest.mark.parametrize("words", [("run", "dev", "--", "true")])
def test_without_privilege_the_command_to_type_is_said(
    arcbox_net: Run, manager, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("arcbox_net.cli.common._has_capability", lambda number: False)
    monkeypatch.setattr("sys.argv", ["arcbox-net", *words])
    result = arcbox_net(*words)
    assert result.exit_code == 1
    assert f"fix: sudo arcbox-net {' '.join(words)}\n" in result.output
    assert manager.asked == []
