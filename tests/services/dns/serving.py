"""Runs one DNS service in the foreground: `python -m tests.services.dns.serving LISTEN[:PORT] [UPSTREAM:PORT]…`.

`SUFFIX=UPSTREAM:PORT` is an upstream for that suffix. Without upstreams those of /etc/resolv.conf
are used. Prints `ready` when it listens, and its counters at the end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from ipaddress import IPv4Network

from arcbox_net.config_values import parse_endpoint
from arcbox_net.services.dns import DnsService, DnsSettings, LocalNames


async def serve(listen: str, upstreams: list[str]) -> None:
    host, port = parse_endpoint("listen", listen, 53)
    settings = DnsSettings(
        listen=((host, port),),
        domain="net1.internal",
        subnet=IPv4Network("192.168.64.0/24"),
        upstreams=tuple(parse_endpoint("upstream", text, 53) for text in upstreams if "=" not in text),
        domain_upstreams={
            suffix: (parse_endpoint("upstream", text, 53),)
            for suffix, _, text in (word.partition("=") for word in upstreams if "=" in word)
        },
        queries_per_s=0,
    )
    names = LocalNames("net1.internal", ["192.168.64.1"], settings.subnet)
    names.put("vm1", ["192.168.64.5"], "lease")
    service = DnsService(settings, names)
    await service.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print("ready", flush=True)
    await ended.wait()
    print(json.dumps(service.stats()))
    await service.stop()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
