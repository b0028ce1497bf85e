"""`arcbox-net show`: everything about one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arcbox_net.cli import common, output

if TYPE_CHECKING:
    from arcbox_net.network.messages import EngineInfo, ForwardInfo, NetworkStatus, PortInfo


@click.command("show")
@common.network_argument
@common.json_option
def command(network: str, as_json: bool) -> None:
    """Show network NAME: addresses, services, guests, forwards, and what stands in its way."""
    status = common.connect(network).status()
    if as_json:
        output.print_json(status)
        return
    click.echo(output.style(status.name, bold=True) + f"  {status.state}")
    output.facts(_summary(status), indent=2)
    if status.ports:
        click.echo()
        ports_table(status.ports)
        for port in status.ports:
            _report_drops(port)
    if status.engine is not None and status.engine.drops:
        click.echo(f"  engine: packets dropped: {_drops_text(status.engine.drops)}")
    if status.forwards:
        click.echo()
        forwards_table(status.forwards)
    for warning in status.warnings:
        output.warn(warning.message, warning.fix)


def _summary(status: NetworkStatus) -> list[tuple[str, object]]:
    return [
        ("mode", f"{status.mode}, egress {status.egress}"),
        ("subnet", status.subnet),
        ("gateway", status.gateway),
        ("ipv6", _ipv6_text(status)),
        ("engine", _engine_text(status.engine)),
        ("bridge", status.bridge),
        ("mtu", status.mtu),
        (
            "dhcp",
            f"{output.count_text(status.leases, 'lease')}, {status.available_ips} free"
            if status.dhcp
            else "off",
        ),
        ("dns", _dns_text(status)),
        ("host access", ", ".join(status.host_access)),
        ("owner", status.owner),
        ("process", f"{status.pid}, up {output.duration_text(status.uptime_s)}"),
        ("log", status.log),
    ]


def _ipv6_text(status: NetworkStatus) -> str:
    if status.subnet6 is None:
        return "off"
    if status.egress == "none":
        return f"{status.subnet6}, among guests"
    owner = "the engine" if status.egress == "engine" else "this host"
    return f"{status.subnet6}, " + (
        "guests reach the outside" if status.ipv6_egress else f"no way out, as {owner} has none"
    )


def _engine_text(engine: EngineInfo | None) -> str | None:
    if engine is None:
        return None
    uplink = engine.uplink if engine.uplink_state == "up" else f"{engine.uplink} ({engine.uplink_state})"
    next_hops = " and ".join(engine.next_hops) or "nowhere"
    counted = ", ".join(
        output.count_text(count, thing)
        for count, thing in (
            (engine.flows, "flow"),
            (engine.mappings, "mapping"),
            (engine.guests, "guest"),
            (engine.translated, "translated packet"),
        )
    )
    return f"{' and '.join(engine.external)} on {uplink}, by {next_hops}; {counted}"


def _dns_text(status: NetworkStatus) -> str:
    if not status.dns:
        return "off"
    upstreams = f", upstreams {', '.join(status.upstreams)}" if status.upstreams else ""
    return (status.domain or "on") + upstreams


def ports_table(ports: list[PortInfo]) -> None:
    output.table(
        ("port", "kind", "state", "address", "mac", "interface", "sent", "received", "ipv6 address"),
        [
            (
                port.name,
                port.kind,
                port.state,
                port.ip,
                port.mac,
                port.ifname,
                output.bytes_text(port.tx_bytes),
                output.bytes_text(port.rx_bytes),
                port.ip6,
            )
            for port in ports
        ],
        right=(6, 7),
    )


def _report_drops(port: PortInfo) -> None:
    if port.trouble:
        click.echo(f"  {port.name}, socket {port.socket}: {port.trouble}")
    if port.drops:
        click.echo(f"  {port.name}: frames dropped: {_drops_text(port.drops)}")


def _drops_text(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))


def forwards_table(forwards: list[ForwardInfo]) -> None:
    output.table(
        ("forward", "guest", "path", "client address", "state"),
        [
            (
                forward.rule,
                forward.guest_ip or forward.guest,
                forward.path,
                forward.client_address,
                forward.state,
            )
            for forward in forwards
        ],
    )
