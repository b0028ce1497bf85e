"""The guest image by itself: on a TAP and a DHCP server of others, so a failure here is not the package's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guest import NIC, Guest
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, pytest.mark.qemu]


def test_guest_boots_and_gets_a_lease_from_dnsmasq(tmp_path: Path) -> None:
    with Host(world=False) as host:
        host.run("ip tuntap add t0 mode tap")
        host.run("ip addr add 10.9.0.1/24 dev t0")
        host.run("ip link set t0 up")
        dnsmasq = host.popen(
            [
                *["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"],
                *["--user=root", f"--dhcp-leasefile={tmp_path / 'leases'}", f"--pid-file={tmp_path / 'pid'}"],
                *["--interface=t0", "--dhcp-range=10.9.0.10,10.9.0.20,1h", "--dhcp-option=option:mtu,1400"],
                *["--address=/name.test/10.9.0.1"],
            ]
        )
        try:
            network = ["-netdev", "tap,id=n,ifname=t0,script=no,downscript=no", "-device", f"{NIC},netdev=n"]
            with Guest(network, prefix=host.argv([])) as guest:
                lease = guest.lease()
                assert lease["ip"].startswith("10.9.0.1")
                assert (lease["router"], lease["dns"], lease["mtu"]) == ("10.9.0.1", "10.9.0.1", "1400")
                assert "10.9.0.1" in guest.run("nslookup -type=a name.test")
                assert guest.status("false")[0] == 1
                guest.run("echo hello >/www/index.html; httpd -h /www")
                assert guest.run("wget -q -O - http://127.0.0.1/") == "hello\n"
                assert "hello" in host.run(["curl", "-sS", f"http://{lease['ip']}/"]).stdout
        finally:
            dnsmasq.kill()
            dnsmasq.wait()
