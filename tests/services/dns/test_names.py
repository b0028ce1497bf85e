"""Which names a network answers itself, who may have which, and the way back from addresses."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

import pytest

from arcbox_net.errors import ConfigError, LimitReached, RecordExists, RecordNotFound
from arcbox_net.services.dns import names as names_module
from arcbox_net.services.dns.names import ADDRESSES_PER_NAME_MAX, LocalNames
from arcbox_net.services.dns.wire import PTR, to_wire
from tests.oracle.dns import DOMAIN, GATEWAY, SUBNET, Core, asks, message, question, texts


@pytest.fixture
def names() -> LocalNames:
    return LocalNames(DOMAIN, [GATEWAY], SUBNET)


def resolved(names: LocalNames, name: str, qtype: str = "A") -> list[str]:
    reply = message(Core(names, recursion=False).resolve(question(name, qtype)))
    return [text.split(None, 4)[4] for text in texts(reply.answer)]


def rcode(names: LocalNames, name: str, qtype: str = "A") -> str:
    return message(Core(names, recursion=False).resolve(question(name, qtype))).rcode().name


@pytest.mark.parametrize("asked", ["vm1", "VM1", "vm1.net1.internal", "Vm1.Net1.Internal"])
@pytest.mark.parametrize("registered", ["vm1", "VM1", "vm1.net1.internal", "vm1.net1.internal."])
def test_guest_is_found_by_both_of_its_names(names: LocalNames, registered: str, asked: str) -> None:
    names.put(registered, ["192.168.64.5", "2001:db8::5"], "lease")
    assert resolved(names, asked) == ["192.168.64.5"]
    assert resolved(names, asked, "AAAA") == ["2001:db8::5"]
    assert rcode(names, asked, "MX") == "NOERROR"
    assert resolved(names, asked, "ANY") == ['"RFC8482" ""']


def test_address_leads_back_to_the_full_name(names: LocalNames) -> None:
    names.put("vm1", ["192.168.64.5"], "lease")
    assert resolved(names, "5.64.168.192.in-addr.arpa", "PTR") == ["vm1.net1.internal."]
    assert resolved(names, "1.64.168.192.in-addr.arpa", "PTR") == ["gateway.net1.internal."]
    assert rcode(names, "9.64.168.192.in-addr.arpa", "PTR") == "NXDOMAIN"
    assert rcode(names, "5.64.168.192.in-addr.arpa", "A") == "NOERROR"


def test_ipv6_address_leads_back(names: LocalNames) -> None:
    names.put("vm1", ["fd00::5"], "api")
    assert resolved(names, "5" + ".0" * 29 + ".d.f.ip6.arpa", "PTR") == ["vm1.net1.internal."]


def test_name_in_a_foreign_domain_keeps_its_name(names: LocalNames) -> None:
    names.put("app.example.com", ["192.168.64.7"], "config")
    assert resolved(names, "app.example.com") == ["192.168.64.7"]
    assert resolved(names, "7.64.168.192.in-addr.arpa", "PTR") == ["app.example.com."]
    core = Core(names)
    assert asks(core.query(question("example.com")))
    assert asks(core.query(question("other.example.com")))


@pytest.mark.parametrize(
    "name", ["gateway", "host", "gateway.internal", "host.internal", "host.net1.internal"]
)
def test_gateway_has_its_names(names: LocalNames, name: str) -> None:
    assert resolved(names, name) == [GATEWAY]


@pytest.mark.parametrize("name", ["localhost", "a.localhost"])
def test_localhost_is_the_guest_itself(names: LocalNames, name: str) -> None:
    assert resolved(names, name) == ["127.0.0.1"]
    assert resolved(names, name, "AAAA") == ["::1"]


@pytest.mark.parametrize(
    "name",
    ["localhost", "wpad", "gateway", "host", "WPAD", "wpad.net1.internal", "net1.internal", "host.internal"],
)
@pytest.mark.parametrize("source", ["config", "api", "port", "lease"])
def test_reserved_names_are_refused(names: LocalNames, name: str, source: str) -> None:
    with pytest.raises(RecordExists, match="reserved"):
        names.put(name, ["192.168.64.5"], source)


@pytest.mark.parametrize(
    ("first", "second"), [("lease", "lease"), ("port", "lease"), ("api", "port"), ("config", "api")]
)
def test_name_of_another_guest_is_refused(names: LocalNames, first: str, second: str) -> None:
    names.put("vm1", ["192.168.64.5"], first)
    with pytest.raises(RecordExists, match=r"belongs to 192\.168\.64\.5"):
        names.put("vm1", ["192.168.64.6"], second)
    assert resolved(names, "vm1") == ["192.168.64.5"]


@pytest.mark.parametrize("source", ["lease", "port", "api", "config"])
def test_the_same_record_again_is_fine(names: LocalNames, source: str) -> None:
    names.put("vm1", ["192.168.64.5"], source)
    names.put("vm1", ["192.168.64.5"], source)
    names.put("vm1", ["192.168.64.5"], "lease")
    assert resolved(names, "vm1") == ["192.168.64.5"]


def test_registered_name_can_be_moved(names: LocalNames) -> None:
    names.put("vm1", ["192.168.64.5"], "api")
    names.put("vm1", ["192.168.64.6"], "api")
    assert resolved(names, "vm1") == ["192.168.64.6"]
    assert rcode(names, "5.64.168.192.in-addr.arpa", "PTR") == "NXDOMAIN"


def test_higher_source_shadows_and_the_lower_comes_back(names: LocalNames) -> None:
    names.put("vm1", ["192.168.64.5"], "lease")
    names.put("vm1", ["192.168.64.6"], "config")
    assert resolved(names, "vm1") == ["192.168.64.6"]
    assert ("vm1.net1.internal", ["192.168.64.6"], "config") in names.records()
    names.remove("vm1", "config")
    assert resolved(names, "vm1") == ["192.168.64.5"]
    names.remove("vm1", "lease")
    assert rcode(names, "vm1") == "NXDOMAIN"
    assert rcode(names, "5.64.168.192.in-addr.arpa", "PTR") == "NXDOMAIN"


def test_removing_what_is_not_there_says_so(names: LocalNames) -> None:
    with pytest.raises(RecordNotFound):
        names.remove("vm1", "api")
    with pytest.raises(RecordNotFound):
        names.remove("gateway", "builtin")


def test_name_between_domain_and_guest_exists_without_records(names: LocalNames) -> None:
    names.put("web.prod", ["192.168.64.5"], "api")
    assert resolved(names, "web.prod.net1.internal") == ["192.168.64.5"]
    assert rcode(names, "prod.net1.internal") == "NOERROR"
    assert rcode(names, "net1.internal") == "NOERROR"
    names.remove("web.prod", "api")
    assert rcode(names, "prod.net1.internal") == "NXDOMAIN"


@pytest.mark.parametrize(
    "name", ["", ".", "a b", "a/b", "a..b", "-a", "a" * 64, "a\0b", "ä", "a\nb", "x." * 130]
)
def test_what_is_no_host_name_is_refused(names: LocalNames, name: str) -> None:
    with pytest.raises((ConfigError, RecordExists)):
        names.put(name, ["192.168.64.5"], "lease")


@pytest.mark.parametrize(
    "addresses", [[], ["nonsense"], ["fe80::1%eth0"], ["192.168.64.5"] * (ADDRESSES_PER_NAME_MAX + 1)]
)
def test_addresses_are_checked(names: LocalNames, addresses: list[str]) -> None:
    with pytest.raises(ConfigError):
        names.put("vm1", addresses, "api")


def test_number_of_names_is_limited(names: LocalNames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "NAMES_MAX", len(names.records()) + 1)
    names.put("vm1", ["192.168.64.5"], "lease")
    with pytest.raises(LimitReached):
        names.put("vm2", ["192.168.64.6"], "lease")


@pytest.mark.parametrize(
    "name",
    [
        "64.168.192.in-addr.arpa",
        "x.1.64.168.192.in-addr.arpa",
        "256.64.168.192.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
    ],
)
def test_other_backward_names_are_not_ours(names: LocalNames, name: str) -> None:
    assert asks(Core(names).query(question(name, "PTR")))


def test_changes_are_told(names: LocalNames) -> None:
    changed: list[str] = []
    names.on_change = changed.append
    names.put("vm1.net1.internal", ["192.168.64.5"], "lease")
    names.remove("vm1", "lease")
    assert changed == ["vm1", "vm1"]


SUBNET6 = IPv6Network("fd12:3456:789a::/64")


def reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


def test_a_name_has_addresses_of_both_kinds_and_each_leads_back() -> None:
    names = LocalNames(DOMAIN, [GATEWAY, "fd12:3456:789a::1"], SUBNET, SUBNET6)
    names.put("vm1", ["192.168.64.5", "fd12:3456:789a::5"], "port")
    assert resolved(names, "vm1") == ["192.168.64.5"]
    assert resolved(names, "vm1", "AAAA") == ["fd12:3456:789a::5"]
    for name in ("gateway.internal", "host.internal"):
        assert resolved(names, name, "AAAA") == ["fd12:3456:789a::1"]
    assert rcode(names, reverse("fd12:3456:789a::5"), "PTR") == "NOERROR"
    assert rcode(names, reverse("fd12:3456:789a::6"), "PTR") == "NXDOMAIN"
    assert rcode(names, reverse("fd12:3456:789a::5"), "A") == "NOERROR"


def test_reverse_names_outside_our_ipv6_subnet_are_not_ours() -> None:
    names = LocalNames(DOMAIN, [GATEWAY], SUBNET, SUBNET6)
    assert names.answer(to_wire(reverse("fd12:3456:789b::5")), PTR) is None
    assert names.answer(to_wire(reverse("2001:db8::5")), PTR) is None
