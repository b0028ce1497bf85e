"""Ports that a network's file names: there when `up` is done, and again after a kill."""

from __future__ import annotations

from pathlib import Path

from tests.support.machine import Machine, kill9
from tests.support.plugged import PluggedGuest
from tests.support.rootless import Rootless

GATEWAY = "10.7.0.1"


def write(folder: Path, *, second: str = "02:00:00:00:00:02") -> Path:
    file = folder / "networks.toml"
    file.write_text(f"""
[networks.dev]
subnet = "10.7.0.0/24"
ports = [
    {{ name = "vm1", kind = "stream", socket = "{folder}/vm1.sock", mac = "02:00:00:00:00:01", ip = "10.7.0.50" }},
    {{ name = "vm2", kind = "tap", queues = 2, mac = "{second}" }},
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
        guest.run(f"curl -sS --max-time 20 http://{world.world_ip}/")
        (pid,) = world.network_pids()
        kill9(pid)
        world.cli(up)
        again = {port["name"]: port for port in world.cli_json("show dev")["ports"]}
        assert {n: (p["mac"], p["ip"]) for n, p in again.items()} == {
            n: (p["mac"], p["ip"]) for n, p in ports.items()
        }
        guest.plug()
        guest.run(f"curl -sS --max-time 20 http://{world.world_ip}/")
    (pid,) = world.network_pids()
    kill9(pid)
    world.cli(f"up dev -f {write(tmp_path, second='02:00:00:00:00:03')}")
    changed = {port["name"]: port["mac"] for port in world.cli_json("show dev")["ports"]}
    assert changed["vm2"] == "02:00:00:00:00:03" and set(changed) == set(ports)
    world.cli("down dev")
    assert world.ours() == {"links": [], "tables": []}


def test_a_network_whose_port_cannot_be_attached_does_not_start(machine: Machine, tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text().replace(f"{tmp_path}/vm3.sock", f"{tmp_path}/none/vm3.sock"))
    done = machine.cli(f"up dev -f {file}", check=False)
    assert done.returncode != 0 and "vm3" in done.stderr
    assert machine.ours() == {"links": [], "tables": []}


def test_an_ordinary_users_network_has_its_ports_too(site: Rootless) -> None:
    site.up("-f", str(write(site.user.home)))
    assert [port["name"] for port in site.user.cli_json("show dev")["ports"]] == ["vm1", "vm2", "vm3", "vm4"]
    assert site.inside("ip -j link show type tun").stdout.count("abx-") >= 2
