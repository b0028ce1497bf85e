"""A small DHCPv4 client: what to send and what an answer means (sans-IO), and a blocking shell to get one lease.

It serves the demonstration and the tests. It asks for an address and does not configure any interface.
"""

from __future__ import annotations

import dataclasses
import enum
import select
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from arcbox_net.errors import ServiceError
from arcbox_net.services.dhcp.frames import FRAME_BYTES_MAX
from arcbox_net.services.dhcp.messages import (
    ACK,
    BOOTREPLY,
    BOOTREQUEST,
    BROADCAST_FLAG,
    CLIENT_PORT,
    DISCOVER,
    NAK,
    OFFER,
    OPT_BROADCAST,
    OPT_CLIENT_ID,
    OPT_DNS,
    OPT_DOMAIN,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_MASK,
    OPT_MTU,
    OPT_PARAMETERS,
    OPT_REQUESTED_IP,
    OPT_ROUTER,
    OPT_ROUTES,
    OPT_SEARCH,
    OPT_SERVER_ID,
    OPT_T1,
    OPT_T2,
    OPT_TYPE,
    RELEASE,
    REQUEST,
    SERVER_PORT,
    DropReason,
    Message,
    build,
    decode_routes,
    decode_search,
    encode_option,
    encode_u32,
    parse,
)
from arcbox_net.services.dhcp.sockets import open_frames
from arcbox_net.services.udp_frames import Datagram, unwrap, wrap

if TYPE_CHECKING:
    from random import Random

SERVER_MESSAGES = frozenset((OFFER, ACK, NAK))
PARAMETERS = bytes(
    (OPT_MASK, OPT_ROUTES, OPT_ROUTER, OPT_DNS, OPT_HOSTNAME, OPT_DOMAIN, OPT_MTU, OPT_BROADCAST, OPT_SEARCH)
)
FIRST_RETRY_S = 1.0
RETRY_S_MAX = 16.0
_BROADCAST_IP = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseOffer:
    """What a server gave: the address and what belongs to it. `prefix` is the subnet's length in bits."""

    ip: IPv4Address
    prefix: int
    router: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    domain: str | None
    mtu: int | None
    lease_s: int
    server: IPv4Address
    hostname: str | None = None
    search: tuple[str, ...] = ()
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    t1_s: int = 0
    t2_s: int = 0


class ClientState(enum.Enum):
    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    REBOOTING = "rebooting"
    BOUND = "bound"
    RENEWING = "renewing"


class DhcpClient:
    """One client's exchange. Methods return the UDP payload to send; `receive` also takes what the server says.

    `lease` is what it has, in the states BOUND and RENEWING. The caller repeats the last payload (`retry`).
    """

    def __init__(
        self,
        mac: bytes,
        rng: Random,
        *,
        client_id: bytes | None = None,
        hostname: str | None = None,
        broadcast: bool = False,
    ) -> None:
        self.mac = mac
        self.state = ClientState.INIT
        self.lease: LeaseOffer | None = None
        self._rng = rng
        self._xid = 0
        self._identity = b"" if client_id is None else encode_option(OPT_CLIENT_ID, client_id)
        self._hostname = b"" if hostname is None else encode_option(OPT_HOSTNAME, hostname.encode("ascii"))
        self._flags = BROADCAST_FLAG if broadcast else 0
        self._sent = b""

    def discover(self, wanted: IPv4Address | None = None) -> bytes:
        """Look for a server."""
        self.lease = None
        self.state = ClientState.SELECTING
        self._xid = self._rng.getrandbits(32)
        return self._say(DISCOVER, encode_u32(OPT_REQUESTED_IP, int(wanted)) if wanted else b"")

    def reboot(self, ip: IPv4Address) -> bytes:
        """Ask whether an address from an earlier life is still ours (INIT-REBOOT)."""
        self.lease = None
        self.state = ClientState.REBOOTING
        self._xid = self._rng.getrandbits(32)
        return self._say(REQUEST, encode_u32(OPT_REQUESTED_IP, int(ip)))

    def renew(self) -> bytes:
        """Ask for more time, from the address we have."""
        if self.lease is None:
            raise ValueError("renew() without a lease")
        self.state = ClientState.RENEWING
        self._xid = self._rng.getrandbits(32)
        return self._say(REQUEST, b"", ciaddr=int(self.lease.ip))

    def release(self) -> bytes:
        """Give the address back; no answer comes."""
        if self.lease is None:
            raise ValueError("release() without a lease")
        lease, self.lease, self.state = self.lease, None, ClientState.INIT
        self._xid = self._rng.getrandbits(32)
        return self._say(RELEASE, encode_u32(OPT_SERVER_ID, int(lease.server)), ciaddr=int(lease.ip))

    def retry(self) -> bytes:
        """The last payload again: the same transaction."""
        return self._sent

    def receive(self, payload: bytes) -> bytes | None:
        """Take a server's message. Returns what to send next, None for nothing; look at `state`."""
        message = parse(payload, kinds=SERVER_MESSAGES, op=BOOTREPLY)
        if isinstance(message, DropReason) or message.xid != self._xid or message.chaddr != self.mac:
            return None
        if OPT_SERVER_ID not in message.options:
            return None
        if message.kind == OFFER and self.state is ClientState.SELECTING:
            self.state = ClientState.REQUESTING
            return self._say(
                REQUEST,
                encode_u32(OPT_REQUESTED_IP, message.yiaddr)
                + encode_u32(OPT_SERVER_ID, message.address(OPT_SERVER_ID)),
            )
        if self.state not in (ClientState.REQUESTING, ClientState.RENEWING, ClientState.REBOOTING):
            return None
        if message.kind == ACK:
            self.lease = _lease_of(message)
            self.state = ClientState.BOUND
        elif message.kind == NAK:
            self.lease = None
            self.state = ClientState.INIT
        return None

    def _say(self, kind: int, options: bytes, *, ciaddr: int = 0) -> bytes:
        parameters = b"" if kind == RELEASE else encode_option(OPT_PARAMETERS, PARAMETERS) + self._hostname
        self._sent = build(
            encode_option(OPT_TYPE, bytes((kind,))) + self._identity + options + parameters,
            op=BOOTREQUEST,
            xid=self._xid,
            chaddr=self.mac,
            flags=self._flags,
            ciaddr=ciaddr,
        )
        return self._sent


def _lease_of(message: Message) -> LeaseOffer:
    options = message.options
    mask = options.get(OPT_MASK, b"\xff\xff\xff\xff")
    routers = _addresses(options.get(OPT_ROUTER))
    routes = tuple(decode_routes(options.get(OPT_ROUTES, b"")))
    default = next((router for to, router in routes if to.prefixlen == 0), None)
    domain = options.get(OPT_DOMAIN)
    hostname = options.get(OPT_HOSTNAME)
    lease_s = int.from_bytes(options.get(OPT_LEASE_S, b""), "big")
    return LeaseOffer(
        ip=IPv4Address(message.yiaddr or message.ciaddr),
        prefix=int.from_bytes(mask, "big").bit_count(),
        router=default if routes else (routers[0] if routers else None),
        dns=_addresses(options.get(OPT_DNS)),
        domain=None if domain is None else domain.decode("ascii", "replace").rstrip("\0"),
        mtu=int.from_bytes(options[OPT_MTU], "big") if len(options.get(OPT_MTU, b"")) == 2 else None,
        lease_s=lease_s,
        server=IPv4Address(message.address(OPT_SERVER_ID)),
        hostname=None if hostname is None else hostname.decode("ascii", "replace").rstrip("\0"),
        search=tuple(decode_search(options.get(OPT_SEARCH, b""))),
        routes=routes,
        t1_s=int.from_bytes(options.get(OPT_T1, b""), "big") or lease_s // 2,
        t2_s=int.from_bytes(options.get(OPT_T2, b""), "big") or lease_s * 7 // 8,
    )


def _addresses(payload: bytes | None) -> tuple[IPv4Address, ...]:
    if payload is None:
        return ()
    return tuple(IPv4Address(payload[i : i + 4]) for i in range(0, len(payload) - 3, 4))


class ClientSocket:
    """The blocking shell: sends a client's payloads as frames on *ifname* and waits for answers."""

    def __init__(self, ifname: str) -> None:
        self._ifname = ifname
        self._sock = open_frames(ifname, CLIENT_PORT)
        self.mac: bytes = self._sock.getsockname()[4]

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> ClientSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, payload: bytes, *, source_ip: IPv4Address | None = None) -> None:
        """Broadcast *payload*: with no address yet there is nobody to ask for the server's MAC."""
        src_ip = int(source_ip) if source_ip else 0
        frame = wrap(
            Datagram(self.mac, b"\xff" * 6, src_ip, _BROADCAST_IP, CLIENT_PORT, SERVER_PORT, payload)
        )
        self._sock.send(frame)

    def exchange(
        self, client: DhcpClient, payload: bytes, until: Callable[[], bool], deadline: float
    ) -> bool:
        """Send *payload*, follow the exchange until *until* holds (True) or `time.monotonic()` passes *deadline*."""
        retry_s = FIRST_RETRY_S
        self.send(payload)
        again = time.monotonic() + retry_s
        while not until():
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= again:
                retry_s = min(retry_s * 2, RETRY_S_MAX)
                again = now + retry_s
                self.send(client.retry())
            readable, _, _ = select.select([self._sock], [], [], max(0.0, min(again, deadline) - now))
            if readable:
                self._read(client)
        return True

    def _read(self, client: DhcpClient) -> None:
        try:
            datagram = unwrap(self._sock.recv(FRAME_BYTES_MAX), dst_port=CLIENT_PORT)
        except BlockingIOError:
            return
        answer = client.receive(datagram.payload) if datagram is not None else None
        if answer is not None:
            self.send(answer)


def lease_in_this_namespace(
    ifname: str,
    timeout_s: float = 10.0,
    *,
    hostname: str | None = None,
    client_id: bytes | None = None,
    rng: Random | None = None,
) -> LeaseOffer:
    """A lease for the interface *ifname*, which must be up. Raises ServiceError: nobody answered in *timeout_s*."""
    from random import SystemRandom

    deadline = time.monotonic() + timeout_s
    with ClientSocket(ifname) as sock:
        client = DhcpClient(sock.mac, rng or SystemRandom(), hostname=hostname, client_id=client_id)
        while client.lease is None:
            done = sock.exchange(
                client,
                client.discover(),
                lambda: client.state in (ClientState.BOUND, ClientState.INIT),
                deadline,
            )
            if not done:
                raise ServiceError(
                    f"no DHCP server answered on {ifname} within {timeout_s:g} s",
                    fix="check that the interface is up and attached to a network with DHCP",
                    service="dhcp",
                    interface=ifname,
                )
    return client.lease
