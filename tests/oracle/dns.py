"""DNS as dnspython understands it: queries and answers, and a forwarder core with a scripted upstream."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from arcbox_net.services.dns.actions import Action, Ask, Cancel, Reply
from arcbox_net.services.dns.cache import AnswerCache
from arcbox_net.services.dns.forwarder import Forwarder
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.settings import DnsSettings

DOMAIN = "net1.internal"
SUBNET = IPv4Network("192.168.64.0/24")
GATEWAY = "192.168.64.1"
GUEST = bytes([192, 168, 64, 5])
SOA = "example.com. 60 IN SOA ns.example.com. root.example.com. 1 2 3 4 30"
A_RECORD = "@ 60 IN A 198.51.100.7"
THREE = (("192.0.2.1", 53), ("192.0.2.2", 53), ("192.0.2.3", 53))

Script = Callable[[Ask], bytes | None]


def question(name: str, qtype: str = "A", **options: object) -> bytes:
    """A client's query. Options are those of `dns.message.make_query`, and `flags`."""
    flags = options.pop("flags", None)
    message = dns.message.make_query(name, qtype, **options)  # type: ignore[arg-type]
    if flags is not None:
        message.flags = flags  # type: ignore[assignment]
    return message.to_wire()


def response(
    query: bytes,
    answer: Sequence[str] = (),
    authority: Sequence[str] = (),
    additional: Sequence[str] = (),
    *,
    rcode: str = "NOERROR",
    flags: int = 0,
    options: Callable[[dns.message.Message], None] | None = None,
) -> bytes:
    """An upstream's answer to *query*: records in zone file form; a leading `@` is the asked name."""
    asked = dns.message.from_wire(query)
    reply = dns.message.make_response(asked, recursion_available=True)
    reply.flags |= flags
    reply.set_rcode(dns.rcode.from_text(rcode))
    name = asked.question[0].name.to_text()
    for section, texts in (
        (reply.answer, answer),
        (reply.authority, authority),
        (reply.additional, additional),
    ):
        for text in texts:
            words = text.replace("@", name, 1).split(None, 4) if text.startswith("@") else text.split(None, 4)
            section.append(dns.rrset.from_text(words[0], int(words[1]), words[2], words[3], words[4]))
    if options is not None:
        options(reply)
    return reply.to_wire(max_size=65535)


def message(packet: bytes) -> dns.message.Message:
    return dns.message.from_wire(packet)


def texts(section: Sequence[dns.rrset.RRset]) -> list[str]:
    """Records as `name ttl class type rdata`, one each."""
    return [line for rrset in section for line in rrset.to_text().splitlines()]


def answering(*answer: str, **options: object) -> Script:
    """An upstream that gives the same answer to everything."""
    return lambda ask: response(ask.packet, answer, **options)  # type: ignore[arg-type]


class Core:
    """A `Forwarder` with a real cache, a clock that tests turn, and chance from a seed."""

    def __init__(self, names: LocalNames | None = None, **settings: object) -> None:
        settings.setdefault("upstreams", (("192.0.2.1", 53),))
        self.settings = DnsSettings(
            listen=((GATEWAY, 53),),
            domain=DOMAIN,
            subnet=SUBNET,
            **settings,  # type: ignore[arg-type]
        )
        self.names = names or LocalNames(DOMAIN, [GATEWAY], SUBNET)
        self.cache = AnswerCache(
            self.settings.cache_entries_max,
            self.settings.cache_bytes_max,
            bytes(16),
            self.settings.serve_stale,
        )
        chance = random.Random(1)
        self.forwarder = Forwarder(self.settings, self.names, self.cache, chance.randbytes)
        self.now = 1000.0

    @property
    def counts(self) -> dict[str, int]:
        return self.forwarder.counts

    def query(
        self, packet: bytes, client: object = "client", *, guest: bytes = GUEST, stream: bool = False
    ) -> list[Action]:
        return without_probe(self.forwarder.query(packet, client, guest, stream, self.now))

    def resolve(self, packet: bytes, script: Script | None = None, **options: object) -> bytes:
        """The reply to *packet* when upstreams answer by *script*; time passes while they are silent."""
        client = object()
        found, self.asks = self.play(self.query(packet, client, **options), script, client)  # type: ignore[arg-type]
        (mine,) = (reply for reply in found if reply.client is client)
        return mine.packet

    def play(
        self, actions: list[Action], script: Script | None = None, until: object = None
    ) -> tuple[list[Reply], list[Ask]]:
        """Carry out *actions* and what follows, until the client *until* or everyone has a reply."""
        replies: list[Reply] = []
        asks: list[Ask] = []
        queue = list(actions)
        while True:
            while queue:
                action = queue.pop(0)
                if isinstance(action, Reply):
                    replies.append(action)
                elif isinstance(action, Ask):
                    asks.append(action)
                    packet = script(action) if script else None
                    if packet is not None:
                        queue += self.forwarder.upstream_packet(action.attempt, packet, self.now)
            if not self.forwarder.in_flight or any(reply.client is until for reply in replies):
                return replies, asks
            alarm = self.forwarder.next_alarm()
            assert alarm is not None, "a lookup waits for nothing"
            self.now = max(self.now, alarm)
            queue += self.forwarder.alarm(self.now)

    def deliver(self, attempt: int, packet: bytes) -> list[Action]:
        return self.forwarder.upstream_packet(attempt, packet, self.now)


def without_probe(actions: list[Action]) -> list[Action]:
    """*actions* without the loop probe that goes with the first query to an upstream."""
    return [a for a in actions if not (isinstance(a, Ask) and b"arcbox-loop" in a.packet)]


def asks(actions: Sequence[Action]) -> list[Ask]:
    return [a for a in actions if isinstance(a, Ask)]


def replies(actions: Sequence[Action]) -> list[Reply]:
    return [a for a in actions if isinstance(a, Reply)]


def cancels(actions: Sequence[Action]) -> list[int]:
    return [a.attempt for a in actions if isinstance(a, Cancel)]
