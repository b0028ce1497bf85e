"""HTTP for `demo`, on both sides: a server of one body, and a fetch that says what arrived."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import threading
from typing import Any

HTTP_TIMEOUT_S = 10
CHUNK_BYTES = 1 << 20


class BodyServer:
    """Serves *body* to every GET on *host*, on a port number of its own, until `close`."""

    def __init__(self, host: str, body: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/octet-stream")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.sha256 = hashlib.sha256(body).hexdigest()
        self._server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.l4_port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def fetch(host: str, l4_port: int) -> dict[str, Any]:
    """Status, size and SHA-256 of what a GET brings."""
    connection = http.client.HTTPConnection(host, l4_port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/body")
        response = connection.getresponse()
        digest, size = hashlib.sha256(), 0
        while chunk := response.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        return {"status": response.status, "bytes": size, "sha256": digest.hexdigest()}
    finally:
        connection.close()
