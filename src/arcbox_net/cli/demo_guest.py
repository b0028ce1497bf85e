"""The guest of `demo`: a process in its own namespace, and the pipe by which the demo tells it what to do.

Without any static configuration: its address, its resolver and its routes are what DHCP brings.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import IO, Any

from arcbox_net.cli import demo_http, demo_speed
from arcbox_net.host.linux import guest_mounts, guest_process
from arcbox_net.host.linux.guest_process import GuestProcess

IFNAME = "eth0"


class GuestError(Exception):
    """What the guest was told to do failed inside."""


class Guest:
    """The demo's end: `ask` sends one request and returns its answer."""

    def __init__(self, network_pid: int) -> None:
        answers_in, answers_out = os.pipe()
        requests_in, requests_out = os.pipe()
        self._answers: IO[str] = os.fdopen(answers_in)
        self._requests: IO[str] = os.fdopen(requests_out, "w")

        def body(_order: dict[str, Any]) -> int:
            os.close(requests_out)
            guest_process.started()
            with os.fdopen(requests_in) as requests, os.fdopen(answers_out, "w") as answers:
                return _serve(requests, answers)

        self.process = GuestProcess.fork(body, network_pid=network_pid)
        os.close(requests_in)
        os.close(answers_out)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Raises GuestError."""
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise GuestError("the guest process ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise GuestError(answer["error"])
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self.process.kill()


def _serve(requests: IO[str], answers: IO[str]) -> int:
    """Answer every request until the demo closes the pipe."""
    steps: dict[str, Callable[..., dict[str, Any]]] = {
        "dhcp": _dhcp,
        "resolve": _resolve,
        "fetch": demo_http.fetch,
        "serve": _serve_http,
        "speed": _speed,
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = steps[request.pop("step")](**request)
        except Exception as error:  # shown in the step's row
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _dhcp(hostname: str) -> dict[str, Any]:
    """An address by DHCP, then the resolver that the lease names."""
    from arcbox_net.cli.common import resolv_conf_text
    from arcbox_net.cli.guest_dhcp import configure

    lease = configure(IFNAME, hostname=hostname)
    if lease.dns:
        guest_mounts.replace_resolv_conf(resolv_conf_text(lease.dns, lease.domain))
    return {
        "ip": str(lease.ip),
        "server": str(lease.server),
        "lease_s": lease.lease_s,
        "dns": [str(address) for address in lease.dns],
        "domain": lease.domain,
        "mtu": lease.mtu,
    }


def _resolve(name: str) -> dict[str, Any]:
    """The IPv4 addresses of *name* as any program here would see them."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return {"addresses": sorted({str(item[4][0]) for item in found})}


def _serve_http(host: str, size: int) -> dict[str, Any]:
    """Serve *size* random bytes until the guest ends."""
    server = demo_http.BodyServer(host, os.urandom(size))
    return {"l4_port": server.l4_port, "sha256": server.sha256}


def _speed(host: str, l4_port: int, tool: str | None, seconds: float, reverse: bool) -> dict[str, Any]:
    return demo_speed.measure(host, demo_speed.Speed(l4_port, tool), seconds=seconds, reverse=reverse)
