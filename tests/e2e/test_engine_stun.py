"""RFC 4787 as a guest sees it: mapping and filtering of egress engine, found out by probes from inside."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from arcbox_net import NetworkManager
from arcbox_net.config_engine import FILTERING
from tests.support.machine import Machine
from tests.support.netns import wait_until
from tests.support.stun import ENDPOINT_INDEPENDENT, PORTS, discover, stun_server

EXTERNAL = "203.0.113.9"
OTHER = "198.51.100.7"  # the second address that the server has
SERVERS = (Machine.world_ip, OTHER)

each_filtering = pytest.mark.parametrize("filtering", FILTERING)


def up(machine: Machine, filtering: str) -> NetworkManager:
    machine.world.run(f"ip addr add {OTHER}/32 dev lo")
    engine = f"--egress engine --uplink {machine.uplink} --external-ip {EXTERNAL}"
    machine.cli(f"up dev {engine} --filtering {filtering} --workers 2")
    return NetworkManager.connect("dev")


@each_filtering
def test_a_guest_finds_the_mapping_and_filtering_that_were_configured(
    machine: Machine, filtering: str
) -> None:
    guest = machine.guest(up(machine, filtering))
    with stun_server(machine.world, SERVERS):
        assert discover(guest, SERVERS) == (ENDPOINT_INDEPENDENT, filtering)
    machine.cli("down dev")


@pytest.mark.skipif(
    shutil.which("turnserver") is None or shutil.which("turnutils_natdiscovery") is None,
    reason="needs coturn (Debian package coturn)",
)
@each_filtering
def test_coturns_natdiscovery_finds_them_too(machine: Machine, filtering: str) -> None:
    guest = machine.guest(up(machine, filtering))
    listening = [word for address in SERVERS for word in ("-L", address)]
    numbers = ["-p", str(PORTS[0]), "--alt-listening-port", str(PORTS[1])]
    alone = ["--no-tls", "--no-dtls", "--no-cli", "-n", "--log-file", "stdout"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with machine.world.popen(["turnserver", "-S", *listening, *numbers, *alone], **quiet) as server:
        wait_until(lambda: f":{PORTS[1]}" in machine.world.run("ss -Hlun").stdout)
        words = ["turnutils_natdiscovery", "-m", "-f", "-p", str(PORTS[0]), SERVERS[0]]
        found = ("endpoint independent mapping!", f"{filtering.replace('-', ' ')} filtering!")

        def is_found() -> bool:
            said = guest.run(words, check=False).stdout.lower()
            return all(f"nat with {one}" in said for one in found)

        wait_until(is_found, message=str(found))
        server.terminate()
    machine.cli("down dev")
