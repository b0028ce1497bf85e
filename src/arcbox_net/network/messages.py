"""What crosses the network process's sockets: the bodies of the v1 API and of fd.sock. Values only."""

from __future__ import annotations

import msgspec

API_VERSION = "v1"


class PortInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A guest port. `kind`: tap, netns, stream, dgram or vhost-user. `state`: up, down (its device lost carrier, or
    nobody is connected to its socket) or gone.

    `ip6`: the address that the guest makes of its MAC, unless it is set up to make others. `socket`: where the guest
    connects, or with `connects`, where it listens. `remote`: where its own socket for datagrams is.
    `trouble`: why the last peer had to go, or one was not let in. `drops`: frames by reason.
    """

    name: str
    kind: str
    ifname: str
    mac: str
    ip: str | None
    state: str
    mtu: int
    queues: int = 1
    netns: str | None = None
    ip6: str | None = None
    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    socket: str | None = None
    connects: bool = False
    remote: str | None = None
    trouble: str | None = None
    drops: dict[str, int] = {}


class LeaseInfo(msgspec.Struct, kw_only=True, frozen=True):
    """An address and who has it. `state`: bound, offered, reserved, allocated (by a program), declined, or system.

    The last is of a guest that is not this network's, by macOS's own DHCP server.

    `ip6`: the IPv6 address that belongs to its MAC. `expires_s`: seconds from now, None for those that do not expire.
    """

    ip: str
    state: str
    mac: str | None = None
    client_id: str | None = None
    hostname: str | None = None
    port: str | None = None
    ip6: str | None = None
    expires_s: float | None = None


class ForwardInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A port forward. `path`: nft (kernel) or splice (relay); on macOS vmnet (the system) or relay (a listener).
    `state`: active, or pending until its guest is known.

    `client_address`: whose address the guest sees, "client's own" or "gateway's", then with the reason why. A client
    on the host's own loopback is always seen as the gateway. `dials_…`: connections and UDP flows of the relay.
    """

    rule: str
    protocol: str
    host_ip: str
    host_port: int
    host_port_end: int
    guest: str | None
    guest_ip: str | None
    guest_port: int
    guest_port_end: int
    path: str
    state: str
    client_address_preserved: bool
    client_address: str = "client's own"
    client_address_reason: str | None = None
    dials_as_client: int = 0
    dials_as_gateway: int = 0


class DnsRecordInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A name that the forwarder answers itself. `source`: config, api, port, lease or builtin."""

    name: str
    addresses: list[str]
    source: str


class FlowInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A flow of a guest. `bytes_out`: what the guest sent. `reason`: how it ended, None while it lives.

    None stands for what the egress does not know: conntrack entries have no age.
    """

    protocol: str
    guest: str
    peer: str
    state: str
    guest_port: int | None = None
    peer_port: int | None = None
    age_s: float | None = None
    idle_s: float | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    reason: str | None = None


class Warning_(msgspec.Struct, kw_only=True, frozen=True):
    """Something that limits the network and its fix, such as a foreign firewall's drop policy."""

    code: str
    message: str
    fix: str | None = None


class EngineInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The NAT engine of egress engine, and the interface that it leaves by. `uplink_state`: up, down or gone.

    `drops`: packets by reason, none of them 0; those that nobody answered for, outside or inside, are "unresolved".
    """

    uplink: str
    uplink_state: str
    mtu: int
    external: list[str]
    next_hops: list[str]
    flows: int
    mappings: int
    guests: int
    translated: int
    drops: dict[str, int] = {}


class NetworkStatus(msgspec.Struct, kw_only=True, frozen=True):
    """A running network as `show` prints it.

    `netns`: the network namespace that it is in, as a path, when it is in one of its own. `ipv6_egress`: guests have
    an IPv6 default route, as the host has. `engine`: with egress engine, while there are guests.
    """

    name: str
    state: str
    mode: str
    egress: str
    pid: int
    uptime_s: float
    bridge: str | None
    subnet: str | None
    gateway: str | None
    mtu: int
    dhcp: bool
    dns: bool
    domain: str | None
    owner: str
    ports: list[PortInfo]
    forwards: list[ForwardInfo]
    warnings: list[Warning_]
    netns: str | None = None
    subnet6: str | None = None
    gateway6: str | None = None
    ipv6_egress: bool = False
    engine: EngineInfo | None = None
    host_access: list[str] = []
    upstreams: list[str] = []
    leases: int = 0
    available_ips: int = 0
    log: str = ""
    version: str = ""


class AttachTap(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="op", tag="attach-tap", forbid_unknown_fields=True
):
    """fd.sock request: create a TAP port; the reply's ancillary data carries one fd a queue."""

    name: str | None = None
    mac: str | None = None
    ip: str | None = None
    hostname: str | None = None
    queues: int | None = None
    vnet_hdr: bool = True


class OpenTap(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="op", tag="open-tap", forbid_unknown_fields=True
):
    """fd.sock request: open the queues of an attached persistent TAP port."""

    name: str


class TapReply(msgspec.Struct, kw_only=True, frozen=True):
    """fd.sock reply; the fds follow in SCM_RIGHTS, `fds` of them. `error` is an ArcboxNetError as JSON."""

    port: PortInfo | None = None
    fds: int = 0
    error: dict[str, object] | None = None


class AttachRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/ports. `kind`: tap (persistent, opened by name), netns (`netns`: a path, or `pid`), or stream, dgram
    or vhost-user (`socket`: a path, at which we listen, or `connect`; `remote`: where datagrams go, if not to where
    they come from; `owner_uid`: who may connect; `pid`: the process that the port goes with).
    """

    kind: str
    name: str | None = None
    mac: str | None = None
    ip: str | None = None
    hostname: str | None = None
    netns: str | None = None
    pid: int | None = None
    ifname: str = "eth0"
    configure: bool = True
    queues: int | None = None
    owner_uid: int | None = None
    socket: str | None = None
    connect: bool = False
    remote: str | None = None


class AllocateRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/addresses."""

    ip: str | None = None
    mac: str | None = None
    hostname: str | None = None


class ReserveRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/reservations."""

    mac: str
    ip: str
    hostname: str | None = None


class ForwardRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/forwards. `rule` in docker/podman spelling."""

    rule: str


class DnsRecordRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/dns."""

    name: str
    addresses: list[str]
