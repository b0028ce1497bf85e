"""What a DHCPv4 server answers (RFC 2131): a client's message and the time in, lease changes and a reply out.

`leases` decides who has which address, `replies` and `messages` are what goes over the wire, `shell` does the
I/O. The rules here: a reply that depends on a change may leave only when the change is durable; if it cannot be,
`not_durable` says what is left to tell. What is not answered is counted under its DropReason. Nothing a guest
sends raises.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping

from arcbox_net.services.dhcp.hostnames import sanitise_hostname
from arcbox_net.services.dhcp.leases import Client, LeaseTable, Offer
from arcbox_net.services.dhcp.messages import (
    ACK,
    DECLINE,
    DISCOVER,
    INFORM,
    LEASE_S_INFINITE,
    NAK,
    OFFER,
    OPT_CLIENT_ID,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_REQUESTED_IP,
    OPT_SERVER_ID,
    RELEASE,
    REQUEST,
    DropReason,
    Message,
    parse,
)
from arcbox_net.services.dhcp.rate import RateLimit
from arcbox_net.services.dhcp.records import Clock, LeaseChange
from arcbox_net.services.dhcp.replies import Replies, Reply
from arcbox_net.services.dhcp.settings import DhcpSettings

LEASE_S_FLOOR = 120
MESSAGE_BYTES_MAX = 2048  # of a request; no client comes near


@dataclasses.dataclass(slots=True)
class Decision:
    """What one datagram leads to. With `changes`, `reply` waits until they are durable.

    `probe`: an address in the reply that had another owner; ask on the wire before it is offered.
    """

    changes: tuple[LeaseChange, ...] = ()
    reply: Reply | None = None
    drop: DropReason | None = None
    message: Message | None = None
    client: Client | None = None
    mac: bytes = b""
    probe: int = 0


class DhcpServer:
    """One network's server. Single-threaded; `table` is shared with the program's own allocations."""

    def __init__(self, settings: DhcpSettings, table: LeaseTable) -> None:
        self._settings = settings
        self._table = table
        self._server_id = int(settings.gateway)
        self._network = int(settings.subnet.network_address)
        self._netmask = int(settings.subnet.netmask)
        self._by_mac = settings.match == "mac"
        self._rate = RateLimit(settings.requests_per_s)
        self._replies = Replies(settings)
        self.received: collections.Counter[int] = collections.Counter()
        self.sent: collections.Counter[int] = collections.Counter()
        self.drops: collections.Counter[DropReason] = collections.Counter()
        self._handlers: Mapping[int, Callable[[Message, Client, bytes, Clock], Decision]] = {
            DISCOVER: self._discover,
            REQUEST: self._request,
            DECLINE: self._decline,
            RELEASE: self._release,
            INFORM: self._inform,
        }

    def handle(self, payload: bytes, source_mac: bytes, port: str | None, now: Clock) -> Decision:
        """What to do with a datagram to port 67 that came from *source_mac* behind guest *port*."""
        if not self._rate.take(port if port is not None else source_mac, now.mono):
            return self.dropped(DropReason.RATE)
        if len(payload) > MESSAGE_BYTES_MAX:
            return self.dropped(DropReason.LONG)
        message = parse(payload)
        if isinstance(message, DropReason):
            return self.dropped(message)
        bad = self._origin(message, source_mac, port)
        if bad is not None:
            return self.dropped(bad)
        self.received[message.kind] += 1
        client = Client(
            self._identity(message, port), message.chaddr, message.options.get(OPT_CLIENT_ID), port
        )
        decision = self._handlers[message.kind](message, client, source_mac, now)
        if decision.drop is not None:
            self.drops[decision.drop] += 1
        return decision

    def not_durable(self, decision: Decision, now: Clock) -> Reply | None:
        """The reply when the disk refused the changes of *decision* (and the table has taken them back).

        A client that renews is told what is left of its durable lease, a new one nothing.
        """
        self.drops[DropReason.NOT_DURABLE] += 1
        if decision.reply is None or decision.message is None or decision.client is None:
            return None
        change = decision.changes[0]
        lease = self._table.durable(int(change.ip))
        if lease is None or lease.mac != decision.client.mac or lease.identity != decision.client.identity:
            return None
        left = int(lease.expires_s(now) or 0) if lease.is_bound(now) else 0
        if left <= 0:
            return None
        return self._replies.answer(decision.message, decision.mac, ACK, int(change.ip), left, lease)

    def answered(self, reply: Reply) -> None:
        """Count a reply that was sent."""
        self.sent[reply.kind] += 1

    def dropped(self, reason: DropReason) -> Decision:
        self.drops[reason] += 1
        return Decision(drop=reason)

    def conflict(self, decision: Decision, now: Clock) -> tuple[LeaseChange, ...]:
        """A probe found another machine on the address that *decision* offers: put it away."""
        if decision.client is None:
            return ()
        change = self._table.conflict(decision.client, decision.probe, now)
        return () if change is None else (change,)

    def stats(self) -> dict[str, int]:
        names = {
            DISCOVER: "discover",
            REQUEST: "request",
            DECLINE: "decline",
            RELEASE: "release",
            INFORM: "inform",
        }
        found = {f"rx_{name}": self.received[kind] for kind, name in names.items()}
        found |= {
            f"tx_{name}": self.sent[kind] for kind, name in ((OFFER, "offer"), (ACK, "ack"), (NAK, "nak"))
        }
        return found | {f"drop_{reason.value}": count for reason, count in sorted(self.drops.items())}

    # Who asks

    def _origin(self, message: Message, source_mac: bytes, port: str | None) -> DropReason | None:
        """A guest speaks for its own MAC only. A relay is believed where no guest port is behind it."""
        if message.giaddr == 0:
            return None if message.chaddr == source_mac else DropReason.SPOOFED
        if port is not None or message.giaddr & self._netmask != self._network:
            return DropReason.RELAYED
        return None

    def _identity(self, message: Message, port: str | None) -> bytes:
        """RFC 4361: the client-id if there is one, else hardware type and address.

        Behind a guest port the port's name is part of it, so that no guest can send another's client-id.
        """
        own = None if self._by_mac else message.options.get(OPT_CLIENT_ID)
        if own is None:
            own = b"\x01" + message.chaddr
        return own if port is None else port.encode() + b"\0" + own

    # What is answered

    def _discover(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        self._table.expire_offers(now)
        offer = self._table.offer(client, message.address(OPT_REQUESTED_IP), now)
        if not isinstance(offer, Offer):
            return Decision(drop=offer)
        reply = self._replies.answer(message, mac, OFFER, offer.ip, self._lease_s(message))
        return Decision(reply=reply, message=message, client=client, probe=offer.ip if offer.reused else 0)

    def _request(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        requested = message.address(OPT_REQUESTED_IP)
        server_id = message.options.get(OPT_SERVER_ID)
        if server_id is not None:
            if message.address(OPT_SERVER_ID) != self._server_id:
                self._table.withdraw(client)
                return Decision(drop=DropReason.OTHER_SERVER)
            ip = requested or message.ciaddr
            return self._grant(message, client, mac, ip, now)
        if message.ciaddr:  # renewing (unicast) or rebinding (broadcast)
            return self._grant(message, client, mac, message.ciaddr, now)
        if not requested:
            return Decision(drop=DropReason.BAD_ADDRESS)
        # INIT-REBOOT, RFC 2131 section 4.3.2: a wrong net is refused, an unknown client not answered.
        if requested & self._netmask == self._network and self._table.address_of(client) is None:
            return Decision(drop=DropReason.UNKNOWN_CLIENT)
        return self._grant(message, client, mac, requested, now)

    def _grant(self, message: Message, client: Client, mac: bytes, ip: int, now: Clock) -> Decision:
        """ACK with *ip* once that is durable, or NAK."""
        if not ip:
            return Decision(drop=DropReason.BAD_ADDRESS)
        lease_s = self._lease_s(message)
        hostname = sanitise_hostname(message.options.get(OPT_HOSTNAME))
        fresh = self._table.fresh(client, ip, lease_s, hostname, now)
        if fresh is not None:
            return Decision(reply=self._replies.answer(message, mac, ACK, ip, lease_s, fresh))
        change = self._table.bind(client, ip, lease_s, hostname, now)
        if change is DropReason.PORT_LIMIT:
            return Decision(drop=change)
        if isinstance(change, DropReason):
            return Decision(reply=self._replies.nak(message, mac), message=message, client=client)
        reply = self._replies.answer(message, mac, ACK, ip, lease_s, change.lease)
        return Decision((change,), reply, None, message, client, mac)

    def _decline(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        if message.address(OPT_SERVER_ID) not in (0, self._server_id):
            return Decision(drop=DropReason.OTHER_SERVER)
        ip = message.address(OPT_REQUESTED_IP)
        change = self._table.decline_by(client, ip, now)
        if change is None:
            own = ip and self._table.address_of(client) == ip
            return Decision(drop=DropReason.DECLINED if own else DropReason.BAD_ADDRESS)
        return Decision((change,))

    def _release(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        if message.address(OPT_SERVER_ID) not in (0, self._server_id):
            return Decision(drop=DropReason.OTHER_SERVER)
        change = self._table.release_by(client, message.ciaddr, now)
        return Decision(drop=DropReason.BAD_ADDRESS) if change is None else Decision((change,))

    def _inform(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        """Options only: no lease, no address (RFC 2131 section 4.3.5)."""
        if message.ciaddr & self._netmask != self._network:
            return Decision(drop=DropReason.BAD_ADDRESS)
        return Decision(
            reply=self._replies.answer(message, mac, ACK, 0, None), message=message, client=client
        )

    def _lease_s(self, message: Message) -> int:
        asked = message.options.get(OPT_LEASE_S)
        if asked is None:
            return self._settings.lease_s
        wanted = int.from_bytes(asked, "big")
        if wanted == LEASE_S_INFINITE:
            return self._settings.max_lease_s
        return min(max(wanted, LEASE_S_FLOOR), self._settings.max_lease_s)
