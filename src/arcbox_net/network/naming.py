"""Names of one network: those it answers itself, where each comes from, and the DNS service that tells them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arcbox_net.addresses import format_mac
from arcbox_net.config import NetConfig, NetworkMode, local_domain
from arcbox_net.config_values import check_domain, parse_endpoint
from arcbox_net.errors import ArcboxNetError, ConfigError, RecordNotFound
from arcbox_net.network.guest_port import Port
from arcbox_net.network.messages import DnsRecordInfo
from arcbox_net.recipes.site import Layout
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.settings import DnsSettings
from arcbox_net.services.placing import Placing, here

if TYPE_CHECKING:
    from arcbox_net.services.dns.service import Client, DnsService

REFUSALS_TOLD_EVERY_S = 10.0

log = logging.getLogger("arcbox_net.names")


class Naming:
    """Guests' names come and go here; `registered` are those that the API added in an earlier, killed run.

    Without *listens* guests are answered by `ask` alone, which somebody has to call.
    """

    def __init__(
        self,
        network: str,
        config: NetConfig,
        layout: Layout,
        registered: Mapping[str, Iterable[str]],
        place: Placing = here,
        *,
        listens: bool = True,
    ) -> None:
        self.domain = local_domain(config, network)
        gateway = tuple(str(address) for address in (layout.gateway, layout.gateway6) if address)
        self._network = network
        self._layout = layout
        self._names = LocalNames(self.domain, gateway, layout.subnet, layout.subnet6)
        for name, addresses in config.dns.records.items():
            self._names.put(name, list(addresses), "config")
        for name, known in registered.items():
            try:
                self._names.put(name, list(known), "api")
            except ArcboxNetError as error:  # the configuration says otherwise since
                log.warning("registered name of the earlier run is given up: %s", error)
        self._leased: dict[str, IPv4Address] = {}
        self._refusals = 0
        self._refusals_told_at = float("-inf")
        self._service: DnsService | None = None
        if config.has_dns and layout.address is not None:
            from arcbox_net.services.dns.service import DnsService

            self._service = DnsService(
                _settings(config, layout, self.domain, listens), self._names, place=place
            )

    async def start(self) -> None:
        """Answer from now on. Raises ServiceError."""
        if self._service is not None:
            await self._service.start()

    async def stop(self) -> None:
        if self._service is not None:
            await self._service.stop()

    def ask(self, packet: bytes, client: Client, guest: bytes) -> None:
        """Take a question of *guest*, a packed address, that came by no socket of ours."""
        if self._service is not None:
            self._service.datagram(packet, client, guest)

    def register(self, name: str, addresses: list[str]) -> DnsRecordInfo:
        """Answer *name* with *addresses*. Raises RecordExists for reserved names and other guests'."""
        check_domain("name", name)
        if not addresses:
            raise ConfigError("a record needs an address", field="addresses", value=name)
        self._names.put(name, addresses, "api")
        return DnsRecordInfo(name=name, addresses=addresses, source="api")

    def registered(self, name: str) -> list[str]:
        """The addresses that *name* was registered with; empty when it was not."""
        return self._names.addresses(name, "api")

    def deregister(self, name: str) -> None:
        """Raises RecordNotFound."""
        try:
            self._names.remove(name, "api")
        except (RecordNotFound, ConfigError):
            fix = f"arcbox-net dns ls {self._network}"
            raise RecordNotFound(f"no registered name {name!r}", fix=fix, name=name) from None

    def add_port(self, port: Port) -> None:
        """Raises RecordExists when the host name is reserved or another guest's."""
        addresses = [str(address) for address in (port.ip, port.ip6) if address is not None]
        if addresses:
            self._names.put(port.hostname, addresses, "port")

    def remove_port(self, port: Port) -> None:
        with contextlib.suppress(RecordNotFound):
            self._names.remove(port.hostname, "port")

    def lease_changed(
        self, hostname: str | None, ip: IPv4Address, active: bool, mac: bytes | None = None
    ) -> None:
        """A DHCP client's host name is only a wish: one that is reserved or taken is not registered.

        Nor does it go when a client goes that only wished for it. The name leads to the client's IPv6 address, too:
        that which its *mac* makes.
        """
        if hostname is None:
            return
        key = hostname.lower()
        if not active:
            if self._leased.get(key) == ip:
                del self._leased[key]
                self._names.remove(hostname, "lease")
            return
        try:
            ip6 = self._layout.guest_address6(format_mac(mac)) if mac else None
            self._names.put(hostname, [str(ip), *([str(ip6)] if ip6 else [])], "lease")
            self._leased[key] = ip
        except ArcboxNetError as error:
            self._tell_refusal(ip, error)

    def leased(self, hostname: str) -> IPv4Address | None:
        """Whose DHCP lease has that name. Of several clients that wish for it, the first."""
        return self._leased.get(hostname.lower())

    def relative(self, name: str) -> str:
        """One spelling for all of a name's: lower case, without the network's domain."""
        return name.rstrip(".").lower().removesuffix(f".{self.domain}")

    def _tell_refusal(self, ip: IPv4Address, error: ArcboxNetError) -> None:
        """A guest can ask for a name as often as it likes, and must not fill the log."""
        self._refusals += 1
        now = time.monotonic()
        if now - self._refusals_told_at >= REFUSALS_TOLD_EVERY_S:
            log.info("host name of %s: %s (%d such wishes so far)", ip, error, self._refusals)
            self._refusals_told_at = now

    def records(self) -> list[DnsRecordInfo]:
        return [
            DnsRecordInfo(name=name, addresses=[str(address) for address in addresses], source=source)
            for name, addresses, source in self._names.records()
        ]

    @property
    def is_served(self) -> bool:
        """Whether guests' questions are answered here."""
        return self._service is not None

    @property
    def upstreams(self) -> list[str]:
        return self._service.upstreams if self._service else []

    def stats(self) -> dict[str, int]:
        return self._service.stats() if self._service else {}


def _settings(config: NetConfig, layout: Layout, domain: str, listens: bool) -> DnsSettings:
    dns = config.dns
    addresses = (layout.gateway, layout.gateway6) if listens else ()
    return DnsSettings(
        listen=tuple((str(address), 53) for address in addresses if address),
        domain=domain,
        subnet=layout.subnet,
        upstreams=tuple(parse_endpoint("dns.upstreams", text, 53) for text in dns.upstreams),
        domain_upstreams={
            suffix: tuple(parse_endpoint("dns.domain_upstreams", text, 53) for text in texts)
            for suffix, texts in dns.domain_upstreams.items()
        },
        # A host-only network must not leak a query: nothing is asked upstream, whatever is configured.
        recursion=config.mode is not NetworkMode.HOST_ONLY,
        rebind_protection=dns.rebind_protection,
        rebind_allow=dns.rebind_allow,
        cache_entries_max=dns.cache_entries_max,
    )
