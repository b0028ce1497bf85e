"""NAT throughput through our network, against a bridge and a masquerade rule set up by hand.

    python -m bench.nat                              as root; in network namespaces of its own
    python -m bench.nat --tests tcp_up_1,tcp_down_1  these only; in the results they replace themselves

Guest (veth) - bridge - forwarding and masquerade - veth - world. Every contender has a host, a guest and a
world of its own. Within a round each test runs on all of them, one right after the other and in an order that
changes with the round; a share is the median of the rounds' ratios (and the middle half of them), because the
machine's speed drifts by more than what is to be told apart. `by hand` is a masquerade and a forward policy, and
lets a guest send whatever it likes; `by hand, filtered` adds what our ruleset also does: source MAC and IPv4, ARP,
rogue DHCP and router advertisements per port, and isolation of the host and of other networks.

TCP is iperf3 with cubic, UDP is 64-byte datagrams at full speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator

from arcbox_net import NetConfig, NetworkManager
from bench.common import (
    Round,
    beginning_with,
    environment,
    median_cell,
    merged,
    quiet_check,
    read_result,
    show,
    table,
    write_result,
)
from bench.ends import ratios, servers, tcp, udp
from tests.support.netns import Host, Namespace

ROUNDS = 15
SECONDS = 1
TARGET_SHARE = 0.97
OURS, BARE, SAME = "arcbox-net", "by hand", "by hand, filtered"

BY_HAND = """
table ip nat {
    chain postrouting { type nat hook postrouting priority srcnat; oifname "up0" masquerade; }
}
table ip filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "br0" accept
        ct status dnat accept
    }
}
"""

FILTERED = """
table bridge spoof {
    set guests { typeof iifname . ether saddr . ip saddr; elements = { "g0" . GUEST_MAC . 192.168.64.2 } }
    set macs { typeof iifname . ether saddr; elements = { "g0" . GUEST_MAC } }
    chain prerouting {
        type filter hook prerouting priority filter; policy accept;
        iifname != "g0" accept
        iifname . ether saddr != @macs drop
        ether type ip udp sport 67 drop
        ether type ip iifname . ether saddr . ip saddr @guests accept
        ip saddr 0.0.0.0 udp dport 67 accept
        arp operation { request, reply } iifname . arp saddr ether . arp saddr ip @guests accept
        icmpv6 type { nd-router-advert, nd-redirect } drop
        ether type ip6 accept
        drop
    }
}
table inet isolation {
    chain forward {
        type filter hook forward priority filter + 1; policy accept;
        ct state established,related accept
        iifname "br0" ip saddr != 192.168.64.0/24 drop
        iifname "br0" ip daddr { 169.254.0.0/16, 127.0.0.0/8, 224.0.0.0/3 } drop
        oifname "br0" drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname != "br0" accept
        ct state established,related accept
        ip daddr 192.168.64.1 udp dport { 53, 67 } accept
        ip daddr 192.168.64.1 tcp dport 53 accept
        icmp type echo-request accept
        drop
    }
}
"""

TCP_TESTS = {
    "up_1": [],
    "up_4": ["-P", "4"],
    "down_1": ["-R"],
    "down_4": ["-R", "-P", "4"],
}


@contextlib.contextmanager
def ours() -> Iterator[tuple[Host, Namespace]]:
    with Host() as host:
        manager = NetworkManager(NetConfig(subnet="192.168.64.0/24"), name="bench")
        host.call(manager.start)
        try:
            guest = host.namespace("guest")
            manager.attach_netns(guest.path, name="guest")
            yield host, guest
        finally:
            manager.stop()


@contextlib.contextmanager
def by_hand(more_rules: str = "") -> Iterator[tuple[Host, Namespace]]:
    with Host() as host:
        guest = host.namespace("guest")
        host.run("ip link add br0 type bridge")
        host.run("ip addr add 192.168.64.1/24 dev br0")
        host.run(f"ip link add g0 txqueuelen 10000 type veth peer name eth0 netns {guest.name}")
        host.run("ip link set g0 master br0 up")
        host.run("ip link set br0 up")
        guest.run("ip addr add 192.168.64.2/24 dev eth0")
        guest.run("ip link set eth0 up")
        guest.run("ip route add default via 192.168.64.1")
        mac = json.loads(guest.run("ip -j link show eth0").stdout)[0]["address"]
        host.run("nft -f -", stdin=BY_HAND + more_rules.replace("GUEST_MAC", mac))
        host.sysctl("net.ipv4.ip_forward", 1)
        yield host, guest


def tests(seconds: int) -> dict[str, Callable[[Namespace], float]]:
    """What is measured in a guest, by its key in the result."""

    def stream(options: list[str]) -> Callable[[Namespace], float]:
        return lambda guest: tcp(guest, Host.world_ip, options, seconds)

    found = {f"tcp_{name}_gbit_s": stream(options) for name, options in TCP_TESTS.items()}
    found["udp_delivered_pps"] = lambda guest: udp(guest, Host.world_ip, seconds)
    return found


def measure_round(
    number: int, guests: dict[str, Namespace], measured: dict[str, Callable[[Namespace], float]]
) -> dict[str, Round]:
    """Each test on every contender's guest, beginning with another contender in each round."""
    found: dict[str, Round] = {name: {} for name in guests}
    for key, test in measured.items():
        for name in beginning_with(list(guests), number):
            found[name][key] = test(guests[name])
    return found


def having(rounds: list[Round], key: str) -> list[Round]:
    """The rounds in which *key* was measured."""
    return [one for one in rounds if key in one]


def shared(rounds: dict[str, list[Round]], name: str, key: str) -> tuple[float, float, float]:
    """The median of our share of *name*, and its quartiles."""
    found = ratios(having(rounds[OURS], key), having(rounds[name], key), key)
    lower, _, upper = statistics.quantiles(found, n=4, method="inclusive")
    return statistics.median(found), lower, upper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--tests", help=f"of {','.join(tests(SECONDS))}", type=lambda text: text.split(","))
    options = parser.parse_args()
    measured = tests(options.seconds)
    if options.tests:
        measured = {key: measured[key] for key in options.tests}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["ARCBOX_NET_RUNTIME_DIR"] = f"{directory}/run"
        os.environ["ARCBOX_NET_STATE_DIR"] = f"{directory}/state"
        guests: dict[str, Namespace] = {}
        built = {OURS: ours(), BARE: by_hand(), SAME: by_hand(FILTERED)}
        for name, network in built.items():
            host, guest = stack.enter_context(network)
            stack.enter_context(servers(host.world))
            guests[name] = guest
        quiet = quiet_check()
        measure_round(0, guests, measured)  # warms up
        rounds: dict[str, list[Round]] = {name: [] for name in guests}
        for number in range(options.rounds):
            print(f"# round {number + 1}/{options.rounds}", file=sys.stderr, flush=True)
            for name, one in measure_round(number, guests, measured).items():
                rounds[name].append(one)
    if options.tests and not options.no_write:
        rounds = merged(read_result("nat")["rounds"], rounds)
    shares = {
        name: {key: shared(rounds, name, key) for key in tests(SECONDS) if key in rounds[OURS][0]}
        for name in (BARE, SAME)
    }
    text = table(
        ["test", *rounds, *(f"share of {name} (middle half)" for name in shares)],
        [
            [
                key,
                *(median_cell(having(one, key), key) for one in rounds.values()),
                *("{:.1%} ({:.0%}–{:.0%})".format(*found[key]) for found in shares.values()),
            ]
            for key in shares[SAME]
        ],
    )
    payload = {
        "environment": environment("ip", "nft", "iperf3"),
        "quiet": quiet,
        "target_share": TARGET_SHARE,
        "shares": shares,  # median, lower and upper quartile
        "seconds_per_test": options.seconds,
        "rounds": rounds,
    }
    show(payload, text)
    if not options.no_write:
        write_result("nat", payload)


if __name__ == "__main__":
    main()
