"""Ports that a network's file names: there when `up` is done, and again after a kill."""

from __future__ import annotations

from pathlib import Path

from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, kill9
from tests.support.plugged import PluggedGuest
from tests.support.rootless import Rootless

GATEWAY = "10.7.0.1"
NOBODY = 65534


def write(folder: Path, *, second: str = "02:00:00:00:00:02", owner_uid: int | None = None) -> Path:
    owner = "" if owner_uid is None else f", owner_uid = {owner_uid}"
    file = folder / "networks.toml"
    file.write_text(f"""
[networks.dev]
subnet = "10.7.0.0/24"
ports = [
    {{ name = "vm1", kind = "stream", socket = "{folder}/vm1.sock", mac = "02:00:00:00:00:01", ip = "10.7.0.50" }},
    {{ name = "vm2", kind = "tap", queues = 2, mac = "{second}"{owner} }},
    {{ name = "vm3", kind = "dgram", socket = "{folder}/vm3.sock" }},
    {{ name = "vm4", kind = "vhost-user", socket = "{folder}/vm4.sock", queues = 2, hostname = "db" }},
]
""")
    return file


def test_ports_of_the_file_are_there_when_up_is_done_and_as_they_were_after_a_kill(
    world: Machine, tmp_path: Path
) -> None:
    up = f"up dev -f {write(tmp_path)}"
    world.cli(up)
    ports = {port["name"]: port for port in world.cli_json("show dev")["ports"]}
    assert {name: port["kind"] for name, port in ports.items()} == {
        "vm1": "stream",
        "vm2": "tap",
        "vm3": "dgram",
        "vm4": "vhost-user",
    }
    assert (ports["vm1"]["mac"], ports["vm1"]["ip"]) == ("02:00:00:00:00:01", "10.7.0.50")
    assert [ports[name]["queues"] for name in ports] == [1, 2, 1, 2]
    assert "db" in [record["name"].partition(".")[0] for record in world.cli_json("dns ls dev")]
    with PluggedGuest("vm1", ports["vm1"], GATEWAY) as guest:
        guest.plug()
        wait_for_echo(guest, world.world_ip)
        guest.run(f"curl -sS --max-time 30 http://{world.world_ip}/")
        (pid,) = world.network_pids()
        kill9(pid)
        world.cli(up)
        again = {port["name"]: port for port in world.cli_json("show dev")["ports"]}
        assert {n: (p["mac"], p["ip"]) for n, p in again.items()} == {
            n: (p["mac"], p["ip"]) for n, p in ports.items()
        }
        guest.plug()
        wait_for_echo(guest, world.world_ip)
        guest.run(f"curl -sS --max-time 30 http://{world.world_ip}/")
    (pid,) = world.network_pids()
    kill9(pid)
    file = write(tmp_path, second="02:00:00:00:00:03", owner_uid=NOBODY)
    world.cli(f"up dev -f {file}")
    changed = {port["name"]: port for port in world.cli_json("show dev")["ports"]}
    assert changed["vm2"]["mac"] == "02:00:00:00:00:03" and set(changed) == set(ports)
    assert owner_of(world, changed["vm2"]["ifname"]) == "nobody"
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def owner_of(machine: Machine, ifname: str) -> str:
    (tap,) = machine.json(f"ip -d -j link show {ifname}")
    return str(tap["linkinfo"]["info_data"]["user"])


def test_a_changed_owner_is_applied_after_a_kill(machine: Machine, tmp_path: Path) -> None:
    for uid, name in ((0, "root"), (NOBODY, "nobody"), (NOBODY, "nobody")):
        machine.cli(f"up dev -f {write(tmp_path, owner_uid=uid)}")
        ports = {port["name"]: port["ifname"] for port in machine.cli_json("show dev")["ports"]}
        assert owner_of(machine, ports["vm2"]) == name
        kill9(machine.network_pids()[0])


def test_a_network_whose_port_cannot_be_attached_does_not_start(machine: Machine, tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text().replace(f"{tmp_path}/vm3.sock", f"{tmp_path}/none/vm3.sock"))
    done = machine.cli(f"up dev -f {file}", check=False)
    assert done.returncode != 0 and "vm3" in done.stderr
    assert machine.ours() == {"links": [], "tables": []}


def test_an_ordinary_user_cannot_give_a_tap_to_somebody_else(site: Rootless) -> None:
    done = site.user.cli(f"up dev -f {write(site.user.home, owner_uid=NOBODY)}", check=False)
    assert done.returncode == 2
    assert "owner_uid 65534" in done.stderr and "leave owner_uid out" in done.stderr


def test_an_ordinary_users_network_has_its_ports_too(site: Rootless) -> None:
    site.up("-f", str(write(site.user.home)))
    assert [port["name"] for port in site.user.cli_json("show dev")["ports"]] == ["vm1", "vm2", "vm3", "vm4"]
    assert site.inside("ip -j link show type tun").stdout.count("abx-") >= 2
