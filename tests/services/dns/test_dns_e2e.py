"""`dig` in a guest's namespace, our service on the gateway, and dnsmasq out in the world as its upstream."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.netns import PATIENCE_S, Host, Namespace, requires_root, wait_until

pytestmark = [
    pytest.mark.e2e,
    requires_root,
    pytest.mark.skipif(
        not shutil.which("dig") or not shutil.which("dnsmasq"), reason="needs dig and dnsmasq"
    ),
]

GATEWAY = "192.168.64.1"
BIG = ",".join(["x" * 200] * 5)


class Site:
    """A host with a guest, and the service running on the host's gateway address."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.guest: Namespace = host.namespace("guest")
        host.run(f"ip link add g0 type veth peer name eth0 netns {self.guest.name}")
        host.run(f"ip addr add {GATEWAY}/24 dev g0")
        host.run("ip link set g0 up")
        self.guest.run("ip addr add 192.168.64.5/24 dev eth0")
        self.guest.run("ip link set eth0 up")
        host.etc("resolv.conf", f"nameserver {host.world_ip}\n")
        self.resolver = self.start_resolver()
        self.service = host.popen(
            [sys.executable, "-m", "tests.services.dns.serving", GATEWAY],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.service.stdout is not None
        assert self.service.stdout.readline() == "ready\n"

    def start_resolver(self) -> subprocess.Popen[bytes]:
        """dnsmasq in the world, with names of its own."""
        world = self.host.world
        resolver = world.popen(
            [
                *(
                    "dnsmasq",
                    "-k",
                    "-C",
                    "/dev/null",
                    "--no-resolv",
                    "--no-hosts",
                    "--local-ttl=60",
                    "-u",
                    "root",
                ),
                *("--address=/www.example.com/198.51.100.7", "--address=/www.example.com/2001:db8::7"),
                *(f"--txt-record=big.example.com,{BIG}", f"--txt-record=big.example.com,y{BIG}"),
                *("--mx-host=example.com,mail.example.com,10", "--local=/example.com/"),
                *("--log-facility=/dev/null", "--pid-file="),
            ]
        )
        wait_until(lambda: "0.0.0.0:53" in world.run("ss -Hlnu").stdout, message="dnsmasq listens")
        return resolver

    def dig(self, *words: str) -> str:
        return self.guest.run(["dig", f"@{GATEWAY}", "+tries=3", "+time=10", *words]).stdout

    def short(self, *words: str) -> list[str]:
        return self.dig("+short", *words).split("\n")[:-1]

    def stats(self) -> dict[str, int]:
        """End the service and read its counters."""
        self.service.terminate()
        assert self.service.stdout is not None
        found: dict[str, int] = json.loads(self.service.stdout.readline())
        self.service.wait(PATIENCE_S)
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    with Host() as host:
        site = Site(host)
        yield site
        site.service.kill()
        site.service.wait(PATIENCE_S)


def test_guest_resolves_the_world_and_its_network(site: Site) -> None:
    assert site.short("www.example.com") == ["198.51.100.7"]
    assert site.short("www.example.com", "AAAA") == ["2001:db8::7"]
    assert site.short("example.com", "MX") == ["10 mail.example.com."]
    assert site.short("vm1") == ["192.168.64.5"]
    assert site.short("vm1.net1.internal") == ["192.168.64.5"]
    assert site.short("-x", "192.168.64.5") == ["vm1.net1.internal."]
    assert site.short("host.internal") == [GATEWAY]
    assert "status: NXDOMAIN" in site.dig("nobody.net1.internal")


def test_r1_r2_large_answer_comes_over_tcp_by_itself(site: Site) -> None:
    first = site.dig("big.example.com", "TXT", "+ignore")
    assert "flags: qr tc" in first
    whole = site.dig("big.example.com", "TXT")
    assert whole.count("x" * 200) == 10
    assert "(TCP)" in whole
    assert site.stats()["asked_tcp"] >= 1


def test_r12_second_answer_comes_from_the_cache_with_less_time(site: Site) -> None:
    site.dig("www.example.com")

    def ttl() -> int:
        line = next(x for x in site.dig("www.example.com").splitlines() if x.startswith("www.example.com."))
        return int(line.split()[1])

    wait_until(lambda: ttl() < 60, message="the TTL counts down")
    assert site.stats()["cache_hits"] >= 1


def test_r16_pipelined_queries_on_one_connection(site: Site) -> None:
    out = site.dig("+tcp", "+keepopen", "www.example.com", "vm1", "example.com", "MX", "host.internal")
    assert out.count("status: NOERROR") == 4
    assert site.stats()["tcp_connections"] <= 1


def test_r17_resolver_that_dies_and_comes_back(site: Site) -> None:
    assert site.short("www.example.com") == ["198.51.100.7"]
    site.resolver.kill()
    site.resolver.wait(PATIENCE_S)
    assert "status: SERVFAIL" in site.dig("example.com", "MX")
    assert site.short("vm1") == ["192.168.64.5"]
    assert site.short("www.example.com") == ["198.51.100.7"]
    site.start_resolver()
    wait_until(lambda: site.short("example.com", "MX") == ["10 mail.example.com."])


def test_r18_service_in_its_own_resolv_conf_is_not_asked(site: Site) -> None:
    site.service.kill()
    site.service.wait(PATIENCE_S)
    site.host.etc("resolv.conf", f"nameserver {GATEWAY}\n")
    site.service = site.host.popen(
        [sys.executable, "-m", "tests.services.dns.serving", GATEWAY], stdout=subprocess.PIPE, text=True
    )
    assert site.service.stdout is not None
    assert site.service.stdout.readline() == "ready\n"
    assert "status: SERVFAIL" in site.dig("www.example.com")
    assert site.stats()["upstream_refused"] == 1
