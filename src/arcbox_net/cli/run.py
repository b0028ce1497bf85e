"""`arcbox-net run`: a command as a guest, in a network namespace of its own or as a VM with a TAP."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from arcbox_net.cli import common, output
from arcbox_net.cli.network_options import build_config, network_options
from arcbox_net.errors import ArcboxNetError, ConfigError
from arcbox_net.rules import ForwardRule

if TYPE_CHECKING:
    from arcbox_net.cli.monitor import Nic
    from arcbox_net.manager import NetworkManager

PRIVATE_ONLY = (
    "file",
    "mode",
    "subnet",
    "egress",
    "uplink",
    "external_ip",
    "mtu",
    "bridge",
    "nic",
    "isolated",
    "host_access",
    "dns",
    "workers",
)


@click.command("run", cls=common.WithCommand)
@click.argument("network", metavar="[NAME]", type=common.NetworkName(), required=False)
@network_options
@click.option(
    "--name", "port", metavar="PORT", help="The guest's name, also in DNS. Default: one is made up."
)
@click.option("--mac", metavar="MAC", help="The guest's MAC address.")
@click.option("--ip", metavar="ADDRESS", help="The guest's address. Default: the next free one.")
@click.option(
    "--via",
    type=click.Choice(("tap", "stream", "dgram", "vhost-user")),
    help="How a VM monitor gets its card. Default: the fastest that it and the network have.",
)
@click.option(
    "--dhcp", is_flag=True, help="Ask for the address by DHCP, from inside. Default in bridge mode."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    network: str | None,
    port: str | None,
    mac: str | None,
    ip: str | None,
    via: str | None,
    dhcp: bool,
    queues: int | None,
    forwards: tuple[ForwardRule, ...],
    **options: Any,
) -> None:
    """Run CMD as a guest of network NAME, or of a private network that ends with it.

    \b
    arcbox-net run -- curl https://example.org
    arcbox-net run dev -p 8080:80 -- python3 -m http.server 80
    arcbox-net run --mode host-only -- bash
    arcbox-net run dev -- qemu-system-x86_64 -m 1G -nographic disk.img
    arcbox-net run dev -- firecracker --config-file vm.json

    CMD gets a network namespace with an eth0, and an /etc/resolv.conf that names the network's DNS. Its
    signals and its exit status pass through (127: not found). The files it sees are the host's, and it runs
    as you: without root it has every power over its own namespace and none over the network's.

    A VM monitor stays in the host's namespace and gets a TAP instead. For qemu-system-*, "-netdev
    tap,id=abx0,fd=…" and a virtio "-device" are added; for another card give your own -device with
    netdev=abx0. For cloud-hypervisor, "--net fd=…" is added. firecracker opens a TAP by its name, and runs
    where the TAP is (see enter): with --config-file the interface is added to a copy of the file, else it is
    printed for your API call.
    vfkit and krunkit get "--device virtio-net,unixSocketPath=…" at a socket of the network.
    With --via, the card is on a unix socket of the network: stream and dgram copy frames, vhost-user shares the
    guest's memory (for QEMU, "-object memory-backend-memfd,share=on" of the size of -m is added).
    """
    words = common.command_words(ctx, "arcbox-net run -- curl example.org")
    if network is not None:
        given = next((name for name in PRIVATE_ONLY if options[name]), None)
        if given is not None:
            raise click.UsageError(
                f"--{given.replace('_', '-')} describes a new network, but '{network}' names a running one",
                ctx,
            )
        config = None
    else:
        config = build_config(None, queues=queues, **options)
    common.check_guest(mac, ip, port)
    from arcbox_net.cli.foreground import end_like, signals_held
    from arcbox_net.cli.monitor import monitor_of

    kind = monitor_of(words)
    if kind is None:
        common.require_guests("netns", "a command as a guest")
    from arcbox_net.manager import NetworkManager

    with contextlib.ExitStack() as ending:
        if config is None:
            assert network is not None
            manager = common.connect(network)
        else:
            manager = NetworkManager(config)
            with output.progress("starting a network"):
                ending.enter_context(manager)
        guest = _Guest(manager, port, mac, ip, forwards)
        if via is not None and kind is None:
            raise click.UsageError(f"--via {via} is for VM monitors, such as qemu-system-x86_64", ctx)
        with signals_held(), contextlib.ExitStack() as stack:
            if kind is not None:
                status = _run_monitor(stack, guest, kind, words, queues, via)
            else:
                status = _run_command(stack, guest, words, dhcp)
    ctx.exit(end_like(status))


class _Guest:
    """The one guest of this run: what was asked for it, and how it leaves."""

    def __init__(
        self,
        manager: NetworkManager,
        port: str | None,
        mac: str | None,
        ip: str | None,
        forwards: Sequence[ForwardRule],
    ) -> None:
        self.manager = manager
        self.port = port
        self.mac = mac
        self.ip = ip
        self._forwards = forwards

    @contextlib.contextmanager
    def attached(self, attach: Callable[[], Any]) -> Iterator[Any]:
        """The attachment that *attach* makes, with the forwards of `-p`; all of it goes at the end."""
        attachment = attach()
        name = attachment.port
        exposed: list[str] = []
        try:
            for rule in self._forwards:
                import dataclasses

                mine = rule if rule.guest is not None else dataclasses.replace(rule, guest=name)
                exposed.append(self.manager.expose(mine).rule)
            yield attachment
        finally:
            for spec in exposed:
                with contextlib.suppress(ArcboxNetError):
                    self.manager.unexpose(spec)
            with contextlib.suppress(ArcboxNetError):
                self.manager.detach(name)


def _run_command(stack: contextlib.ExitStack, guest: _Guest, words: list[str], dhcp: bool) -> int:
    from arcbox_net.cli.foreground import wait_for
    from arcbox_net.host.linux import user_namespace
    from arcbox_net.host.linux.guest_process import GuestProcess

    network = guest.manager.status()
    dhcp = dhcp or network.subnet is None
    if not user_namespace.is_private(network.pid):
        common.require_admin("run")
    process = GuestProcess.fork(lambda order: _become(words, order), network_pid=network.pid)
    try:
        stack.enter_context(
            guest.attached(
                lambda: guest.manager.attach_netns(
                    process.pid, name=guest.port, mac=guest.mac, ip=guest.ip, configure=not dhcp
                )
            )
        )
        process.release({"resolv_conf": common.resolv_conf(network), "dhcp": dhcp})
    except BaseException:
        process.kill()
        raise
    return wait_for(process.pid)


def _become(words: list[str], order: dict[str, Any]) -> int:
    """In the guest's namespaces: an address if it has none, the resolver, then the command."""
    from arcbox_net.host.linux import guest_mounts, guest_process

    text = order["resolv_conf"]
    if order["dhcp"]:
        from arcbox_net.cli.guest_dhcp import configure

        lease = configure("eth0")
        text = common.resolv_conf_text(lease.dns, lease.domain) if lease.dns else text
    for missed in guest_mounts.dress(text):
        output.note(missed)
    guest_process.execute(words)


def _run_monitor(
    stack: contextlib.ExitStack,
    guest: _Guest,
    kind: str,
    words: list[str],
    queues: int | None,
    via: str | None,
) -> int:
    from arcbox_net.cli import monitor
    from arcbox_net.host.platform import platform

    own_mac = monitor.wanted_mac(words)
    if own_mac is not None and guest.mac is not None and own_mac.lower() != guest.mac.lower():
        raise ConfigError(
            f"--mac {guest.mac} and the command's mac={own_mac} differ", field="mac", value=guest.mac
        )
    by_name = kind == monitor.FIRECRACKER
    via = monitor.choose_via(kind, via, platform().PORT_KINDS)
    if via != "tap":
        nic = _attach_socket(stack, guest, kind, words, queues, via, own_mac)
        words = monitor.with_nic(kind, words, nic)
        return _execute(words, (), None)
    tap = stack.enter_context(
        guest.attached(
            lambda: guest.manager.attach_tap(
                guest.port,
                mac=own_mac or guest.mac,
                ip=guest.ip,
                queues=1 if by_name else queues,
                persist=by_name,
            )
        )
    )
    if by_name:
        words = _firecracker(stack, words, tap.ifname, tap.mac)
        fds: tuple[int, ...] = ()
    else:
        fds = tuple(tap.fds)
        words = monitor.with_nic(kind, words, monitor.Nic(mac=tap.mac, mtu=tap.mtu, fds=fds))

    return _execute(words, fds, guest.manager.status().pid if by_name else None)


def _attach_socket(
    stack: contextlib.ExitStack,
    guest: _Guest,
    kind: str,
    words: list[str],
    queues: int | None,
    via: str,
    own_mac: str | None,
) -> Nic:
    """A port at a socket in a directory that is this run's own."""
    import tempfile

    from arcbox_net.cli.monitor import QEMU, Nic
    from arcbox_net.cli.monitor_sockets import qemu_version

    folder = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="arcbox-net-", ignore_cleanup_errors=True)
    )
    path, own = os.path.join(folder, "net.sock"), os.path.join(folder, "guest.sock")
    options: dict[str, Any] = {
        "name": guest.port,
        "mac": own_mac or guest.mac,
        "ip": guest.ip,
        "holder": os.getpid(),
    }
    if via == "dgram" and kind == QEMU:  # the others say where they are
        options["remote"] = own
    elif via == "vhost-user":
        options["queues"] = queues
    attach = getattr(guest.manager, "attach_" + via.replace("-", "_"))
    port = stack.enter_context(guest.attached(lambda: attach(path, **options)))
    version = qemu_version(words[0]) if kind == QEMU else None
    return Nic(port.mac, port.mtu, via=via, socket=path, guest_socket=own, queues=port.queues, qemu=version)


def _execute(words: list[str], fds: Sequence[int], network_pid: int | None) -> int:
    """Run the monitor with those descriptors, where the network of that process is if one is named."""
    from arcbox_net.cli.foreground import wait_for
    from arcbox_net.host.platform import platform

    return wait_for(platform().start_monitor(words, fds, network_pid))


def _firecracker(stack: contextlib.ExitStack, words: list[str], ifname: str, mac: str) -> list[str]:
    import json
    import tempfile

    from arcbox_net.cli.monitor import firecracker_config

    if "--config-file" not in words[:-1]:
        output.note(
            "tell firecracker: PUT /network-interfaces/abx0 "
            f'{{"iface_id": "abx0", "host_dev_name": "{ifname}", "guest_mac": "{mac}"}}'
        )
        return words
    at = words.index("--config-file") + 1
    try:
        with open(words[at]) as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--config-file {words[at]}: {error}", field="config-file", value=words[at]
        ) from None
    copy = stack.enter_context(
        tempfile.NamedTemporaryFile("w", prefix="arcbox-net-", suffix=".json")  # noqa: SIM115
    )
    json.dump(firecracker_config(document, ifname, mac), copy)
    copy.flush()
    return [*words[:at], copy.name, *words[at + 1 :]]
