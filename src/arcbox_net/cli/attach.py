"""`arcbox-net attach`: put a guest that something else starts onto a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from arcbox_net import paths
from arcbox_net.cli import common, output
from arcbox_net.config_ports import QUEUES_MAX
from arcbox_net.config_values import check_ifname

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
    "--connect", is_flag=True, help="--stream, --vhost-user: SOCK is the guest's; connect there, not listen."
)
@click.option(
    "--remote", metavar="SOCK", help="--dgram: the guest's own socket. Default: whoever sends first."
)
@click.option(
    "--queues",
    type=click.IntRange(1, QUEUES_MAX),
    help="--tap, --vhost-user: queue pairs. Default: the network's.",
)
@click.option(
    "--owner",
    "owner_uid",
    metavar="UID",
    type=int,
    help="--tap, sockets: the user who may open it, besides you.",
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
    connect: bool,
    remote: str | None,
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
    arcbox-net attach dev vm2 --stream /run/vm2.sock
    arcbox-net attach dev vm3 --dgram /run/vm3.sock
    arcbox-net attach dev vm4 --vhost-user /run/vm4.sock --queues 2

    With a socket, what starts the VM need not know of the network, and has no privilege: it connects, may end and
    come back. The port stays until `detach`.
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
    kind = asked[0]
    if owner_uid is not None and netns:
        raise click.UsageError("--owner goes with --tap and with sockets")
    if queues is not None and kind not in ("--tap", "--vhost-user"):
        raise click.UsageError("--queues goes with --tap and --vhost-user")
    if connect and kind not in ("--stream", "--vhost-user"):
        raise click.UsageError("--connect goes with --stream and --vhost-user")
    if remote is not None and kind != "--dgram":
        raise click.UsageError("--remote goes with --dgram")
    common.check_guest(mac, ip, hostname)
    check_ifname("ifname", ifname)
    manager = common.connect(network)
    guest: dict[str, Any] = {"mac": mac, "ip": ip, "hostname": hostname}
    if tap:
        manager.attach_tap(port, **guest, queues=queues, persist=True, owner_uid=owner_uid)
    elif netns:
        target = int(netns) if netns.isdigit() else netns
        manager.attach_netns(target, name=port, **guest, ifname=ifname, configure=not no_configure)
    elif stream:
        manager.attach_stream(stream, name=port, **guest, connect=connect, owner_uid=owner_uid)
    elif dgram:
        manager.attach_dgram(dgram, name=port, **guest, remote=remote, owner_uid=owner_uid)
    elif vhost_user:
        manager.attach_vhost_user(
            vhost_user, name=port, **guest, connect=connect, queues=queues, owner_uid=owner_uid
        )
    info = next(item for item in manager.ports() if item.name == port)
    if as_json:
        output.print_json(info)
    else:
        _report(manager, info)


def _report(manager: NetworkManager, info: PortInfo) -> None:
    network = manager.name
    click.echo(f"{output.style(info.name, bold=True)} is attached to {network}")
    facts = [("mac", info.mac), ("address", info.ip), ("namespace", info.netns), ("socket", info.socket)]
    if info.socket is None:
        facts.insert(0, ("interface", info.ifname))
    output.facts(facts, indent=2)
    if info.socket is not None:
        _report_socket(info)
        return
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


def _report_socket(info: PortInfo) -> None:
    """What a stranger types to start a guest there."""
    from arcbox_net.cli.monitor import NETDEV, Nic
    from arcbox_net.cli.monitor_sockets import qemu_netdev

    click.echo(f"  the guest {'listens' if info.connects else 'connects'} there, for example")
    own = info.remote or f"{info.socket}.guest"
    nic = Nic(info.mac, info.mtu, via=info.kind, socket=info.socket, guest_socket=own, queues=info.queues)
    flags = qemu_netdev(["qemu", "-m", "1G"], nic, NETDEV)
    if info.connects:
        flags = [flag.replace("server=off", "server=on") for flag in flags]
        flags[1] += ",server=on,wait=off" if info.kind == "vhost-user" else ""
    several = ",mq=on" if info.queues > 1 else ""
    several += ",vectors=0" if info.kind == "vhost-user" else ""
    lines = [f"{name} {value}" for name, value in zip(flags[::2], flags[1::2], strict=True)]
    lines.append(f"-device virtio-net-pci,netdev={NETDEV},mac={info.mac},host_mtu={info.mtu}{several}")
    for line in ("qemu-system-x86_64 -m 1G … \\", *(f"  {line} \\" for line in lines[:-1]), f"  {lines[-1]}"):
        click.echo(f"    {line}")
    if info.kind == "vhost-user":
        click.echo(
            "    (vectors=0 keeps QEMU before 10 from a crash where there is no KVM; elsewhere leave it out)"
        )
    if info.kind == "dgram" and info.remote is None:  # these choose a path of their own
        click.echo(f"    vfkit … --device virtio-net,unixSocketPath={info.socket},mac={info.mac}")
        click.echo(f"    krunkit … --device virtio-net,type=unixgram,path={info.socket},mac={info.mac}")
