"""Any sequence of clients' messages, time, crashes and disk failures, against a slow server that is easy to read."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from arcbox_net.services.dhcp.messages import ACK, DECLINE, DISCOVER, NAK, OFFER, RELEASE, REQUEST
from tests.oracle.dhcp import SlowServer, Verdict
from tests.services.dhcp.site import SERVER_ID, Answer, Site, ip, mac, request

CLIENTS = 5
POOL = range(2, 6)
LEASE_S = 600
ANYWHERE = range(1, 8)  # the gateway, the pool, and beyond

clients = st.integers(0, CLIENTS - 1)
lasts = st.sampled_from(ANYWHERE)
waits = st.sampled_from([1, 5, 11, 29, 31, 299, 590, 601, 611, 1000, 5000])


class DhcpModel(RuleBasedStateMachine):
    """d1, d12: the same answers as the oracle, and never two clients on one address."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site(pool=(ip(POOL[0]), ip(POOL[-1])), lease_s=LEASE_S)
        self.model = SlowServer([int(ip(n)) for n in POOL], LEASE_S)
        self.offers: dict[int, IPv4Address] = {}
        # What each client was told and believes, whatever the server thinks: address → (client, until).
        self.believed: dict[IPv4Address, tuple[int, float]] = {}

    @initialize(reserved=st.booleans())
    def configured(self, reserved: bool) -> None:
        if reserved:
            self.site.commit(self.site.table.reserve(mac(0), ip(4), None, self.site.now))
            self.model.reserve(name(0), int(ip(4)))

    @rule(client=clients, wanted=st.none() | lasts)
    def discover(self, client: int, wanted: int | None) -> None:
        answer = self.site.send(request(DISCOVER, chaddr=mac(client), wanted=ip(wanted) if wanted else None))
        verdict = self.model.discover(name(client), self.mono)
        assert kind_of(answer) == verdict.kind
        if answer is not None:
            assert int(answer.ip) in verdict.allowed
            self.model.offered_to(name(client), int(answer.ip), self.mono)
            self.offers[client] = answer.ip

    @rule(client=clients)
    def select(self, client: int) -> None:
        if client in self.offers:
            self._request(client, self.offers[client], wanted=self.offers[client], server_id=SERVER_ID)

    @rule(client=clients, last=lasts)
    def select_anything(self, client: int, last: int) -> None:
        self._request(client, ip(last), wanted=ip(last), server_id=SERVER_ID)

    @rule(client=clients, last=lasts)
    def renew_anything(self, client: int, last: int) -> None:
        self._request(client, ip(last), ciaddr=int(ip(last)))

    @rule(client=clients)
    def renew(self, client: int) -> None:
        for address, (who, _) in list(self.believed.items()):
            if who == client:
                self._request(client, address, ciaddr=int(address))

    @rule(client=clients, last=lasts)
    def reboot(self, client: int, last: int) -> None:
        self._request(client, ip(last), rebooting=True, wanted=ip(last))

    @rule(client=clients, last=lasts)
    def release(self, client: int, last: int) -> None:
        self.site.send(request(RELEASE, chaddr=mac(client), ciaddr=int(ip(last)), server_id=SERVER_ID))
        self.model.release(name(client), int(ip(last)), self.mono)
        self._forget(client, ip(last))

    @rule(client=clients, last=lasts)
    def decline(self, client: int, last: int) -> None:
        self.site.send(request(DECLINE, chaddr=mac(client), wanted=ip(last), server_id=SERVER_ID))
        self.model.decline(name(client), int(ip(last)), self.mono)
        self._forget(client, ip(last))

    @rule(seconds=waits)
    def time_passes(self, seconds: int) -> None:
        self.site.wait(seconds)

    @rule()
    def crash(self) -> None:
        changes = self.site.settings
        self.site = self.site.restart()
        assert self.site.settings is changes
        self.model.restart()

    @rule(client=clients)
    def renew_on_a_full_disk(self, client: int) -> None:
        """d13: at most what is left is promised, and nothing changes."""
        self.site.refuse = True
        for address, (who, until) in list(self.believed.items()):
            if who == client:
                answer = self.site.send(request(REQUEST, chaddr=mac(client), ciaddr=int(address)))
                verdict = self.model.request_refused_by_the_disk(name(client), int(address), self.mono)
                assert (kind_of(answer) == NAK) == (verdict.kind == NAK)
                if answer is not None and answer.kind == ACK:
                    assert answer.ip == address and self.mono + answer.lease_s <= until
        self.site.refuse = False

    @rule(client=clients)
    def select_on_a_full_disk(self, client: int) -> None:
        if client not in self.offers:
            return
        before = self.model.live(self.mono)
        self.site.refuse = True
        answer = self.site.send(
            request(REQUEST, chaddr=mac(client), wanted=self.offers[client], server_id=SERVER_ID)
        )
        self.site.refuse = False
        verdict = self.model.request_refused_by_the_disk(name(client), int(self.offers[client]), self.mono)
        assert (kind_of(answer) == NAK) == (verdict.kind == NAK)
        if kind_of(answer) == ACK:
            assert before.get(int(self.offers[client])) == name(client)

    @invariant()
    def d12_no_address_has_two_clients(self) -> None:
        live = self.model.live(self.mono)
        for address, (client, until) in self.believed.items():
            if until > self.mono:
                # An ACK that repeats one of the last second may promise that much more than the disk has.
                alone = until - self.mono < 1 and int(address) not in live
                assert alone or live.get(int(address)) == name(client)
        on_disk = {
            int(lease.ip): name(int.from_bytes(lease.mac or b"", "big") & 0xFF)
            for lease in self.site.disk.values()
            if lease.is_bound(self.site.now)
        }
        assert on_disk == live
        shown = [lease.ip for lease in self.site.table.view(self.site.now) if lease.is_bound(self.site.now)]
        assert {int(address) for address in shown} == set(live)

    @property
    def mono(self) -> float:
        return self.site.now.mono

    def _request(
        self, client: int, address: IPv4Address, *, rebooting: bool = False, **fields: object
    ) -> None:
        answer = self.site.send(request(REQUEST, chaddr=mac(client), **fields))  # type: ignore[arg-type]
        verdict: Verdict = self.model.request(name(client), int(address), self.mono, rebooting=rebooting)
        assert kind_of(answer) == verdict.kind
        if answer is not None and answer.kind == ACK:
            assert answer.ip == address
            for other, (who, _) in list(self.believed.items()):
                if who == client:
                    del self.believed[other]
            self.believed[address] = (client, self.mono + answer.lease_s)
            self.offers.pop(client, None)

    def _forget(self, client: int, address: IPv4Address) -> None:
        if self.believed.get(address, (None, 0))[0] == client:
            del self.believed[address]


def name(client: int) -> str:
    return f"client-{client}"


def kind_of(answer: Answer | None) -> int | None:
    return None if answer is None else answer.kind


assert (OFFER, ACK, NAK) == (2, 5, 6), "the oracle has its own numbers"
TestDhcpModel = DhcpModel.TestCase
TestDhcpModel.settings = hypothesis_settings(max_examples=100, stateful_step_count=50, deadline=None)
