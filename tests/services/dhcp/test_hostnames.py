"""The names that guests give themselves."""

from __future__ import annotations

import pytest

from arcbox_net.services.dhcp.hostnames import sanitise_hostname
from arcbox_net.services.dhcp.messages import (
    OPT_HOSTNAME,
    REQUEST,
)
from tests.services.dhcp.site import MAC_A, Site, ip, request


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"web-1", "web-1"),
        (b"Web-1.example.org", "web-1"),
        (b"web\0", "web"),
        (b"a" * 63, "a" * 63),
        (b"a" * 64, None),
        (b"a" * 255, None),
        (b"we\0b", None),
        (b"a/b", None),
        (b"a\nb", None),
        (b"a b", None),
        ("bücher".encode(), None),
        (b"-a", None),
        (b"a-", None),
        (b".", None),
        (b"\0", None),
        (b"../../etc/passwd", None),
        (b"localhost", None),
        (b"WPAD", None),
        (b"gateway", None),
        (b"host", None),
        (b"localhost.localdomain", None),
    ],
)
def test_d20_a_host_name_is_a_dns_label_or_nothing(sent: bytes, kept: str | None) -> None:
    site = Site()
    site.lease(options={OPT_HOSTNAME: sent})
    assert site.disk[ip(2)].hostname == kept == sanitise_hostname(sent)


def test_d20_a_given_name_is_not_replaced_by_the_clients() -> None:
    site = Site()
    site.commit(site.table.reserve(MAC_A, ip(5), "db", site.now))
    ack = site.lease(options={OPT_HOSTNAME: b"other"})
    assert site.disk[ip(5)].hostname == "db" and ack.message.options[OPT_HOSTNAME] == b"db"


def test_d20_a_new_name_ends_the_old_one() -> None:
    site = Site()
    site.lease(options={OPT_HOSTNAME: b"old"})
    assert site.decision.changes[0].started and not site.decision.changes[0].ended
    site.wait(60)
    site.send(request(REQUEST, ciaddr=int(ip(2)), options={OPT_HOSTNAME: b"old"}))
    assert not site.decision.changes[0].started and not site.decision.changes[0].ended
    site.send(request(REQUEST, ciaddr=int(ip(2)), options={OPT_HOSTNAME: b"new"}))
    (change,) = site.decision.changes
    assert change.started and [lease.hostname for lease in change.ended] == ["old"]
