"""K18: another version of arcbox-net takes a network over, and one that is too old for it says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import arcbox_net
from arcbox_net import paths
from tests.support.echo import wait_for_echo
from tests.support.machine import CLI, Machine, kill9, udhcpc

pytestmark = [pytest.mark.fault]
PACKAGE = Path(arcbox_net.__file__).parent
RESERVED = ("02:00:00:00:00:aa", "192.168.64.77")


class Later:
    """The next version of the package: this one, with one more migration of its state."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine = machine
        self._path = {"PYTHONPATH": str(directory)}
        shutil.copytree(PACKAGE, directory / PACKAGE.name, copy_function=os.symlink)
        state = directory / PACKAGE.name / "network" / "state.py"
        text = state.read_text().replace(
            "SCHEMA_VERSION = ", 'MIGRATIONS += (("CREATE TABLE later (key TEXT)",),)\nSCHEMA_VERSION = '
        )
        state.unlink()
        state.write_text(text)

    def cli(self, words: str) -> subprocess.CompletedProcess[str]:
        return self._machine.run([str(CLI), *words.split()], env=self._path)


def leased(machine: Machine) -> set[tuple[Any, ...]]:
    return {(lease["ip"], lease["mac"], lease["state"]) for lease in machine.cli_json("lease ls dev")}


def test_k18_the_next_version_takes_a_live_network_over_and_the_way_back_is_refused_without_loss(
    machine: Machine, tmp_path: Path
) -> None:
    later = Later(machine, tmp_path / "later")
    guest = machine.namespace("guest")
    machine.cli("up dev")
    machine.cli(f"attach dev vm1 --netns {guest.path} --no-configure")
    machine.cli("lease", "reserve", "dev", *RESERVED)
    lease = udhcpc(guest)
    before = leased(machine)
    assert "vm1" in later.cli("show dev").stdout  # a new command line, the old network process

    kill9(machine.network_pids()[0])
    later.cli("up dev")
    assert leased(machine) == before  # and the other way round
    assert udhcpc(guest)["ip"] == lease["ip"]
    wait_for_echo(guest, machine.world_ip)
    later.cli("down dev")

    kept = paths.state_file("dev").read_bytes()
    refused = machine.cli("up dev", check=False)
    assert refused.returncode == 1
    assert "was written by a newer arcbox-net" in refused.stderr and "use the newer version" in refused.stderr
    assert machine.ours() == {"links": [], "tables": []}
    assert paths.state_file("dev").read_bytes() == kept
    later.cli("up dev")
    assert [(lease["mac"], lease["ip"]) for lease in machine.cli_json("lease ls dev")] == [RESERVED]
    later.cli("down dev")
