"""Names of one network: those it answers itself, where each comes from, and the DNS service that tells them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from arcbox_net.config import NetConfig, NetworkMode, check_domain, local_domain, parse_endpoint
from arcbox_net.errors import ArcboxNetError, ConfigError, RecordNotFound
from arcbox_net.network.messages import DnsRecordInfo
from arcbox_net.network.ports import Port
from arcbox_net.recipes.site import Layout
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.service import DnsService
from arcbox_net.services.dns.settings import DnsSettings

log = logging.getLogger("arcbox_net.names")


class Naming:
    """Guests' names come and go here; `registered` are those that the API added in an earlier, killed run."""

    def __init__(
        self, network: str, config: NetConfig, layout: Layout, registered: Mapping[str, Iterable[str]]
    ) -> None:
        self.domain = local_domain(config, network)
        gateway = (str(layout.gateway),) if layout.gateway else ()
        self._network = network
        self._names = LocalNames(self.domain, gateway, layout.subnet)
        for name, addresses in config.dns.records.items():
            self._names.put(name, list(addresses), "config")
        for name, known in registered.items():
            self._names.put(name, list(known), "api")
        self._service: DnsService | None = None
        if config.has_dns and layout.address is not None:
            self._service = DnsService(_settings(config, layout, self.domain), self._names)

    async def start(self) -> None:
        """Answer from now on. Raises ServiceError."""
        if self._service is not None:
            await self._service.start()

    async def stop(self) -> None:
        if self._service is not None:
            await self._service.stop()

    def register(self, name: str, addresses: list[str]) -> DnsRecordInfo:
        """Answer *name* with *addresses*. Raises RecordExists for reserved names and other guests'."""
        check_domain("name", name)
        if not addresses:
            raise ConfigError("a record needs an address", field="addresses", value=name)
        self._names.put(name, addresses, "api")
        return DnsRecordInfo(name=name, addresses=addresses, source="api")

    def deregister(self, name: str) -> None:
        """Raises RecordNotFound."""
        try:
            self._names.remove(name, "api")
        except (RecordNotFound, ConfigError):
            fix = f"arcbox-net dns ls {self._network}"
            raise RecordNotFound(f"no registered name {name!r}", fix=fix, name=name) from None

    def add_port(self, port: Port) -> None:
        """Raises RecordExists when the host name is reserved or another guest's."""
        if port.ip is not None:
            self._names.put(port.hostname, [str(port.ip)], "port")

    def remove_port(self, port: Port) -> None:
        with contextlib.suppress(RecordNotFound):
            self._names.remove(port.hostname, "port")

    def lease_changed(self, hostname: str | None, ip: IPv4Address, active: bool) -> None:
        """A DHCP client's host name is only a wish: one that is reserved or taken is not registered."""
        if hostname is None:
            return
        try:
            if active:
                self._names.put(hostname, [str(ip)], "lease")
            else:
                self._names.remove(hostname, "lease")
        except ArcboxNetError as error:
            log.info("host name of %s: %s", ip, error)

    def records(self) -> list[DnsRecordInfo]:
        return [
            DnsRecordInfo(name=name, addresses=[str(address) for address in addresses], source=source)
            for name, addresses, source in self._names.records()
        ]

    @property
    def upstreams(self) -> list[str]:
        return self._service.upstreams if self._service else []

    def stats(self) -> dict[str, int]:
        return self._service.stats() if self._service else {}


def _settings(config: NetConfig, layout: Layout, domain: str) -> DnsSettings:
    dns = config.dns
    return DnsSettings(
        listen=((str(layout.gateway), 53),),
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
