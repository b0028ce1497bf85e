"""The guest's side of `demo`: runs inside its namespace, one request line in, one answer line out."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import socket
import threading
from typing import IO, Any

from arcbox_net.cli.guest_dhcp import configure
from arcbox_net.cli.run import resolv_conf_text
from arcbox_net.host.linux import guest_process

HTTP_TIMEOUT_S = 10
CHUNK_BYTES = 1 << 20


def serve(requests: IO[str], answers: IO[str]) -> int:
    """Answer every request until the demo closes the pipe."""
    known = {"dhcp": dhcp, "resolve": resolve, "fetch": fetch, "serve_http": serve_http, "speed": speed}
    for line in requests:
        request = json.loads(line)
        try:
            answer = known[request.pop("step")](**request)
        except Exception as error:  # shown in the step's row
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def dhcp(hostname: str) -> dict[str, Any]:
    """An address by DHCP, then the resolver that the lease names."""
    lease = configure("eth0", hostname=hostname)
    if lease.dns:
        guest_process.replace_resolv_conf(resolv_conf_text(lease.dns, lease.domain))
    return {
        "ip": str(lease.ip),
        "server": str(lease.server),
        "lease_s": lease.lease_s,
        "dns": [str(address) for address in lease.dns],
        "domain": lease.domain,
        "mtu": lease.mtu,
    }


def resolve(name: str) -> dict[str, Any]:
    """The IPv4 addresses of *name* as any program here would see them."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return {"addresses": sorted({str(item[4][0]) for item in found})}


def fetch(host: str, http_port: int, path: str) -> dict[str, Any]:
    """GET, and what arrived."""
    return get(host, http_port, path)


def get(host: str, http_port: int, path: str) -> dict[str, Any]:
    """Size and SHA-256 of a body fetched over HTTP. Used on both sides."""
    connection = http.client.HTTPConnection(host, http_port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        digest, size = hashlib.sha256(), 0
        while chunk := response.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        return {"status": response.status, "bytes": size, "sha256": digest.hexdigest()}
    finally:
        connection.close()


def serve_http(host: str, size: int) -> dict[str, Any]:
    """Serve a random body of *size* bytes in the guest; says where, and its checksum."""
    body = os.urandom(size)
    server = http_server(host, body)
    return {"http_port": server.server_address[1], "sha256": hashlib.sha256(body).hexdigest()}


def http_server(host: str, body: bytes) -> http.server.ThreadingHTTPServer:
    """A running HTTP server that answers every GET with *body*."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def speed(host: str, speed_port: int, seconds: float, reverse: bool, tool: str | None) -> dict[str, Any]:
    """TCP throughput to the host, or from it when *reverse*, with iperf3 when *tool* names it."""
    if tool is not None:
        return {"gbit_s": _iperf3(tool, host, speed_port, seconds, reverse), "tool": "iperf3"}
    from arcbox_net.netspeed import measure_tcp

    result = measure_tcp(host, speed_port, seconds=seconds, reverse=reverse)
    return {"gbit_s": result["gbit_s"], "tool": "built in"}


def _iperf3(tool: str, host: str, speed_port: int, seconds: float, reverse: bool) -> float:
    words = [
        tool,
        "-c",
        host,
        "-p",
        str(speed_port),
        "-t",
        f"{seconds:.0f}",
        "-J",
        *(["-R"] if reverse else []),
    ]
    with os.popen(" ".join(words)) as output:  # words of our own making: nothing to quote
        report = json.loads(output.read())
    if "error" in report:
        raise OSError(report["error"])
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
