"""A QEMU guest at our socket ports, beside QEMU's own user network, passt and a TAP: TCP, round trips, CPU.

    python -m bench.ports.qemu --passt PATH        as root; in network namespaces of its own

Every contender has a host, a world and a guest of its own (QEMU emulates, without KVM). All guests are booted first;
within a round each test runs on all of them. TCP is iperf3 between guest and world; a round trip is a ping of the
world, or of what answers in its name. CPU is all that the machine spent, the guest's emulation included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from arcbox_net import DnsConfig, NetConfig, NetworkManager
from arcbox_net.manager import SocketAttachment
from bench.common import (
    Round,
    environment,
    interleave,
    machine_cpu_s,
    median_cell,
    median_of,
    quiet_check,
    show,
    table,
    write_result,
)
from tests.support.guest import NIC, Guest, tap_fd, vhost_user
from tests.support.netns import Host, wait_until
from tests.support.user import User

ROUNDS = 5
SECONDS = 2
PINGS = 100
IPERF_PORT = 5201
HTTP_PORT = 8000
LARGE_MTU = 65520
PASST_UID = 65534
TESTS = {"up": [], "down": ["-R"]}
STREAM, DGRAM, VHOST_USER, TAP, USER, PASST = "stream", "dgram", "vhost-user", "tap", "user", "passt"
Setup = Callable[[Host, Path], "AbstractContextManager[Guest]"]


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--passt", default=shutil.which("passt"), help="the program to compare with")
    options.add_argument("--contenders", help="only these, by their names and commas")
    chosen = options.parse_args()
    setups = contenders(chosen.passt)
    if chosen.contenders:
        setups = {name: setups[name] for name in chosen.contenders.split(",")}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        guests = {name: stack.enter_context(booted(setup, folder)) for name, setup in setups.items()}
        quiet = quiet_check()
        measures = {name: lambda guest=guest: measured(guest) for name, guest in guests.items()}
        rounds = interleave(measures, chosen.rounds)
    payload = {"environment": environment("qemu-system-x86_64", "iperf3"), "quiet": quiet, "rounds": rounds}
    show(payload, tables(rounds))
    write_result("ports.qemu", payload)
    return 0


def contenders(passt: str | None) -> dict[str, Setup]:
    found: dict[str, Setup] = {
        STREAM: at_socket(NetworkManager.attach_stream, stream, 1500),
        f"{STREAM} mtu {LARGE_MTU}": at_socket(NetworkManager.attach_stream, stream, LARGE_MTU),
        f"{STREAM} rootless mtu {LARGE_MTU}": at_rootless_stream,
        DGRAM: at_socket(NetworkManager.attach_dgram, dgram, 1500),
        VHOST_USER: at_socket(NetworkManager.attach_vhost_user, shared_memory, 1500),
        TAP: at_tap,
        USER: at_user,
    }
    if passt:
        found[PASST] = at_passt(passt, LARGE_MTU)
        found[f"{PASST} mtu 1500"] = at_passt(passt, 1500)
    else:
        print("# without passt: apt-get install passt, or --passt PATH", file=sys.stderr)
    return found


@contextlib.contextmanager
def booted(setup: Setup, folder: Path) -> Iterator[Guest]:
    """A guest that has an address and iperf3, with a server in its world."""
    with Host() as host, contextlib.ExitStack() as stack:
        host.sysctl("net.ipv4.ping_group_range", "0 2147483647")
        host.sysctl("net.unix.max_dgram_qlen", 512)  # as systemd has it; 10 in a new namespace
        own = Path(tempfile.mkdtemp(dir=folder))
        own.chmod(0o777)
        server = host.world.popen(["iperf3", "-s", "-p", str(IPERF_PORT)], stdout=subprocess.DEVNULL)
        stack.callback(ended, server)
        guest = stack.enter_context(setup(host, own))
        guest.lease()
        install_iperf3(host, guest, own)
        yield guest


def at_socket(
    attach: Callable[[NetworkManager, Path], SocketAttachment],
    arguments: Callable[[SocketAttachment], list[str]],
    mtu: int,
) -> Setup:
    @contextlib.contextmanager
    def make(host: Host, folder: Path) -> Iterator[Guest]:
        with network(host, mtu) as manager:
            port = attach(manager, folder / "port.sock")
            with Guest(arguments(port), prefix=host.argv([])) as guest:
                yield guest

    return make


def stream(port: SocketAttachment) -> list[str]:
    return stream_card(port.socket, port.mtu, port.mac)


def dgram(port: SocketAttachment) -> list[str]:
    own = f"local.type=unix,local.path={port.socket}.guest"
    netdev = f"dgram,id=n,{own},remote.type=unix,remote.path={port.socket}"
    return ["-netdev", netdev, "-device", f"{NIC},netdev=n,mac={port.mac},host_mtu={port.mtu}"]


def shared_memory(port: SocketAttachment) -> list[str]:
    return vhost_user(port.socket, port.mac)


def stream_card(path: object, mtu: int, mac: str | None = None) -> list[str]:
    device = f"{NIC},netdev=n,host_mtu={mtu}" + (f",mac={mac}" if mac else "")
    return ["-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={path}", "-device", device]


@contextlib.contextmanager
def at_rootless_stream(host: Host, folder: Path) -> Iterator[Guest]:
    """A network of an ordinary user, which ends the guest's connections as passt does."""
    user = User(host, folder)
    user.cli("up", "dev", "--mtu", str(LARGE_MTU))
    try:
        path = f"{user.runtime}/port.sock"
        port = user.cli_json(f"attach dev vm1 --stream {path}")
        with Guest(stream_card(path, LARGE_MTU, port["mac"]), prefix=user.argv([])) as guest:
            yield guest
    finally:
        user.cli("down", "dev", check=False)


@contextlib.contextmanager
def at_tap(host: Host, folder: Path) -> Iterator[Guest]:
    with (
        network(host, 1500) as manager,
        manager.attach_tap() as tap,
        Guest(tap_fd(tap.fd, tap.mac), prefix=host.argv([]), fds=[tap.fd]) as guest,
    ):
        yield guest


@contextlib.contextmanager
def at_user(host: Host, folder: Path) -> Iterator[Guest]:
    with Guest(["-netdev", "user,id=n", "-device", f"{NIC},netdev=n"], prefix=host.argv([])) as guest:
        yield guest


def at_passt(program: str, mtu: int) -> Setup:
    @contextlib.contextmanager
    def make(host: Host, folder: Path) -> Iterator[Guest]:
        path = folder / "passt.sock"
        words = [program, "-f", "-4", "-s", str(path), "-t", "none", "-u", "none", "--no-map-gw"]
        words += ["--runas", str(PASST_UID), "-m", str(mtu)]
        tool = host.popen(words, stderr=subprocess.DEVNULL)
        try:
            wait_until(path.exists)
            with Guest(stream_card(path, mtu), prefix=host.argv([])) as guest:
                yield guest
        finally:
            ended(tool)

    return make


@contextlib.contextmanager
def network(host: Host, mtu: int) -> Iterator[NetworkManager]:
    manager = NetworkManager(NetConfig(mtu=mtu, dns=DnsConfig(upstreams=(host.world_ip,))))
    host.call(manager.start)
    try:
        yield manager
    finally:
        manager.stop()


def install_iperf3(host: Host, guest: Guest, folder: Path) -> None:
    """Load the machine's iperf3 and its libraries into the guest, whose image has nothing but busybox."""
    program = shutil.which("iperf3")
    assert program is not None, "apt-get install iperf3"
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [program, *re.findall(r"(/\S+) \(0x", linked)]
    for path in paths:
        shutil.copy(path, folder)
    server = host.world.popen(
        [sys.executable, "-m", "http.server", str(HTTP_PORT), "--directory", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: f":{HTTP_PORT} " in host.world.run("ss -Hltn").stdout)
        guest.run("mkdir -p /lib64 /iperf")
        for path in paths:
            name = os.path.basename(path)
            place = f"/lib64/{name}" if name.startswith("ld-linux") else f"/iperf/{name}"
            guest.run(f"wget -q -O {place} http://{host.world_ip}:{HTTP_PORT}/{name} && chmod 755 {place}")
    finally:
        ended(server)


def measured(guest: Guest) -> Round:
    found: Round = {}
    for name, options in TESTS.items():
        words = ["/iperf/iperf3", "-J", "-c", Host.world_ip, "-t", str(SECONDS), *options]
        before = machine_cpu_s()
        answer = json.loads(guest.run(f"LD_LIBRARY_PATH=/iperf {' '.join(words)}"))
        received = answer["end"]["sum_received"]
        found[f"{name}_gbit_s"] = received["bits_per_second"] / 1e9
        found[f"{name}_cpu_s_per_gb"] = (machine_cpu_s() - before) / (received["bytes"] / 1e9)
    printed = guest.run(f"ping -q -c {PINGS} -i 0.01 {Host.world_ip}")
    match = re.search(r"min/avg/max = [\d.]+/([\d.]+)/", printed)
    assert match is not None, printed
    found["rtt_us"] = float(match.group(1)) * 1000
    return found


def tables(rounds: dict[str, list[Round]]) -> str:
    keys = [f"{name}_{unit}" for name in TESTS for unit in ("gbit_s", "cpu_s_per_gb")] + ["rtt_us"]
    rows = [[name, *(median_cell(each, key) for key in keys)] for name, each in rounds.items()]
    text = table(["guest's network", *keys], rows)
    for test in TESTS:
        speed = {name: median_of(each, f"{test}_gbit_s") for name, each in rounds.items()}
        others = [name for name in speed if name.startswith((USER, PASST, TAP))]
        for ours in (name for name in speed if name.startswith((STREAM, VHOST_USER))):
            shares = ", ".join(f"{speed[ours] / speed[other]:.2f}x {other}" for other in others)
            text += f"\n\n{test}: {ours} is {shares}"
    return text


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
