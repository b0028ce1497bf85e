"""IPv6 of one network: router advertisements to guests, and in them a default route while the host has one."""

from __future__ import annotations

from arcbox_net.addresses import bridge_mac, parse_mac
from arcbox_net.config import Egress, NetConfig
from arcbox_net.host.linux.egress6 import Ipv6Egress
from arcbox_net.host.plan import GATEWAY_LINK_LOCAL
from arcbox_net.recipes.site import Layout
from arcbox_net.services.placing import Placing, here
from arcbox_net.services.ra.server import RaSettings
from arcbox_net.services.ra.shell import RaService


class Ipv6:
    """Made for every network; one without IPv6 addresses has nothing running here."""

    def __init__(
        self, network: str, config: NetConfig, layout: Layout, domain: str, place: Placing = here
    ) -> None:
        self._settings = _settings(network, config, layout, domain)
        self._bridge = layout.bridge
        # By the host's routes; the engine has its own.
        self._is_routed = layout.router is not None and layout.egress != Egress.ENGINE.value
        self._leaves_by_engine = False
        self._place = place
        self._egress = Ipv6Egress(self._egress_changed)
        self._service: RaService | None = None

    @property
    def has_egress(self) -> bool:
        """Whether guests have a way out by IPv6 now."""
        return self._settings is not None and (
            self._leaves_by_engine or (self._is_routed and self._egress.available)
        )

    async def start(self) -> None:
        """Advertise from now on. Raises ServiceError. The caller is outside, where the host's routes are."""
        if self._settings is None:
            return
        if self._is_routed:
            self._egress.start()
        self._service = RaService(
            self._settings,
            ifname=self._bridge,
            address=GATEWAY_LINK_LOCAL.ip,
            default_router=self.has_egress,
            place=self._place,
        )
        await self._service.start()

    async def stop(self) -> None:
        self._egress.stop()
        if self._service is not None:
            await self._service.stop()

    async def rebind(self) -> None:
        """Serve again on a bridge that was deleted and made anew."""
        if self._service is not None:
            await self._service.rebind()

    def set_engine_egress(self, available: bool) -> None:
        """Whether the NAT engine has a way out by IPv6 now."""
        if available != self._leaves_by_engine:
            self._leaves_by_engine = available
            self._egress_changed(available)

    def bridge_came_up(self) -> None:
        """The first guest is on the bridge: from now on it hears what is sent to all."""
        if self._service is not None:
            self._service.link_came_up()

    def stats(self) -> dict[str, int]:
        return self._service.stats() if self._service else {}

    def _egress_changed(self, available: bool) -> None:
        if self._service is not None:
            self._service.set_default_router(available)


def _settings(network: str, config: NetConfig, layout: Layout, domain: str) -> RaSettings | None:
    if layout.subnet6 is None or layout.gateway6 is None:
        return None
    return RaSettings(
        subnet=layout.subnet6,
        mac=parse_mac(bridge_mac(network)),
        mtu=config.mtu,
        dns=(layout.gateway6,) if config.has_dns else (),
        search=(config.dhcp.search or (domain,)) if config.has_dns else (),
    )
