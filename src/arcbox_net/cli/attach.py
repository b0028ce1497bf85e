"""`arcbox-net attach`: put a guest that something else starts onto a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arcbox_net import paths
from arcbox_net.cli import common, output
from arcbox_net.config import QUEUES_MAX, check_ifname
from arcbox_net.errors import Unsupported

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager
    from arcbox_net.network.messages import PortInfo


@click.command("attach")
@common.network_argument
@click.argument("port", type=common.PortName())
@click.option(
    "--tap",
    is_flag=True,
    help="A TAP interface that a VM monitor opens by its name, or takes as an fd (exec-tap).",
)
@click.option(
    "--netns", metavar="PATH", help="A network namespace: /run/netns/X, /proc/PID/ns/net, or a PID."
)
@click.option("--stream", metavar="SOCK", help="A unix stream socket (QEMU, socket_vmnet framing).")
@click.option("--dgram", metavar="SOCK", help="A unix datagram socket (vfkit, libkrun, QEMU).")
@click.option("--vhost-user", metavar="SOCK", help="A vhost-user socket (guest memory).")
@click.option("--mac", metavar="MAC", help="The guest's MAC address. Default: one made from the names.")
@click.option("--ip", metavar="ADDRESS", help="The guest's address. Default: the next free one.")
@click.option("--hostname", metavar="HOST", help="The guest's name in DNS. Default: PORT.")
@click.option(
    "--queues", type=click.IntRange(1, QUEUES_MAX), help="--tap: queue pairs. Default: the network's."
)
@click.option(
    "--owner",
    "owner_uid",
    metavar="UID",
    type=int,
    help="--tap: the user who may open it. Default: root only.",
)
@click.option("--ifname", default="eth0", show_default=True, help="--netns: the interface's name inside.")
@click.option(
    "--no-configure", is_flag=True, help="--netns: leave address and route to a DHCP client inside."
)
@common.json_option
def command(
    network: str,
    port: str,
    tap: bool,
    netns: str | None,
    stream: str | None,
    dgram: str | None,
    vhost_user: str | None,
    mac: str | None,
    ip: str | None,
    hostname: str | None,
    queues: int | None,
    owner_uid: int | None,
    ifname: str,
    no_configure: bool,
    as_json: bool,
) -> None:
    """Add guest port PORT to network NAME.

    \b
    arcbox-net attach dev vm1 --tap --owner 1000
    arcbox-net attach dev web --netns /run/netns/web
    """
    kinds = [
        ("--tap", tap),
        ("--netns", netns),
        ("--stream", stream),
        ("--dgram", dgram),
        ("--vhost-user", vhost_user),
    ]
    asked = [flag for flag, value in kinds if value]
    if len(asked) != 1:
        raise click.UsageError(f"give one of {', '.join(flag for flag, _ in kinds)}")
    if asked[0] not in ("--tap", "--netns"):
        raise Unsupported(
            f"attach {asked[0]}: not in this version",
            fix="attach with --tap or --netns",
            feature=f"attach {asked[0]}",
        )
    if not tap and (queues is not None or owner_uid is not None):
        raise click.UsageError("--queues and --owner go with --tap")
    common.check_guest(mac, ip, hostname)
    check_ifname("ifname", ifname)
    manager = common.connect(network)
    if tap:
        manager.attach_tap(
            port, mac=mac, ip=ip, hostname=hostname, queues=queues, persist=True, owner_uid=owner_uid
        )
    else:
        assert netns is not None
        target = int(netns) if netns.isdigit() else netns
        manager.attach_netns(
            target, name=port, mac=mac, ip=ip, hostname=hostname, ifname=ifname, configure=not no_configure
        )
    info = next(item for item in manager.ports() if item.name == port)
    if as_json:
        output.print_json(info)
    else:
        _report(manager, info)


def _report(manager: NetworkManager, info: PortInfo) -> None:
    network = manager.name
    click.echo(f"{output.style(info.name, bold=True)} is attached to {network}")
    output.facts(
        [("interface", info.ifname), ("mac", info.mac), ("address", info.ip), ("namespace", info.netns)],
        indent=2,
    )
    if info.kind != "tap":
        return
    from arcbox_net.host.linux import user_namespace

    is_private = user_namespace.is_elsewhere(manager.status().pid)
    click.echo("  open it by its name, " + ("where it is" if is_private else "for example"))
    within = f"arcbox-net enter {network} -- " if is_private else ""
    queues = f",queues={info.queues}" if info.queues > 1 else ""
    vectors = f",mq=on,vectors={2 * info.queues + 2}" if info.queues > 1 else ""
    card = f"-device virtio-net-pci,netdev=n0,mac={info.mac}{vectors}"
    for line in (
        f"{within}firecracker …",
        f'  {{"iface_id": "eth0", "host_dev_name": "{info.ifname}", "guest_mac": "{info.mac}"}}',
        f"{within}qemu-system-x86_64 … \\",
        f"  -netdev tap,id=n0,ifname={info.ifname},script=no,downscript=no{queues} {card}",
    ):
        click.echo(f"    {line}")
    click.echo("  or as a file descriptor, without any privilege")
    several = "fds={fds}" if info.queues > 1 else "fd={fd}"
    for line in (
        f"arcbox-net exec-tap {network} {info.name} -- qemu-system-x86_64 … -netdev tap,id=n0,{several} {card}",
        f'Python: NetworkManager.connect("{network}").open_tap("{info.name}").fd',
        f'other:  send {{"op": "open-tap", "name": "{info.name}"}} to {paths.fd_socket(network)} (SOCK_SEQPACKET)',
    ):
        click.echo(f"    {line}")
