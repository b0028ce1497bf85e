"""How a NAT maps and filters, found out as in RFC 5780: a client, and a server with two addresses and two ports.

    with stun_server(world, ("203.0.113.1", "198.51.100.7")):
        assert discover(guest, ("203.0.113.1", "198.51.100.7")) == ("endpoint-independent", "address-dependent")

A request says which socket of the server is to answer. The answer is the client's address as the server saw it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence

from tests.support.netns import Namespace

PORTS = (3478, 3479)
TRIES = 5
ANSWER_S = 5.0
ENDPOINT_INDEPENDENT = "endpoint-independent"
ADDRESS_DEPENDENT = "address-dependent"
ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
Endpoint = tuple[str, int]


def _bound(where: Endpoint) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(where)
    return made


@contextlib.contextmanager
def stun_server(world: Namespace, addresses: Sequence[str]) -> Iterator[None]:
    """Answer at both *addresses* and both PORTS until the block ends."""
    sockets = world.call(
        lambda: {(address, number): _bound((address, number)) for address in addresses for number in PORTS}
    )
    ready = selectors.DefaultSelector()
    for one in sockets.values():
        ready.register(one, selectors.EVENT_READ)
    ended, end = socket.socketpair()
    ready.register(ended, selectors.EVENT_READ)

    def serve() -> None:
        while True:
            for key, _ in ready.select():
                if key.fileobj is ended:
                    return
                asked, client = key.fileobj.recvfrom(100)  # type: ignore[union-attr]
                address, number = asked.decode().split()
                sockets[address, int(number)].sendto(f"{client[0]} {client[1]}".encode(), client)

    thread = threading.Thread(target=serve, name="stun")
    thread.start()
    try:
        yield
    finally:
        end.send(b"x")
        thread.join()
        for one in (*sockets.values(), ended, end):
            one.close()
        ready.close()


class _Client:
    """A socket of *guest*, on a port of its own."""

    def __init__(self, guest: Namespace) -> None:
        self._socket = guest.call(lambda: _bound(("0.0.0.0", 0)))
        self._socket.settimeout(ANSWER_S)

    def ask(self, server: Endpoint, *answering: Endpoint) -> dict[Endpoint, Endpoint]:
        """Who of *answering* was heard, and what it saw; *server* itself answers last, so nobody is waited for."""
        for _ in range(TRIES):
            for where in (*answering, server):
                self._socket.sendto(f"{where[0]} {where[1]}".encode(), server)
            heard: dict[Endpoint, Endpoint] = {}
            with contextlib.suppress(TimeoutError):
                while server not in heard:
                    said, sender = self._socket.recvfrom(100)
                    address, number = said.decode().split()
                    heard[sender] = (address, int(number))
                return heard
        raise AssertionError(f"{server} does not answer")

    def close(self) -> None:
        self._socket.close()


def discover(guest: Namespace, addresses: Sequence[str]) -> tuple[str, str]:
    """The mapping and the filtering that *guest* is behind."""
    first, other = addresses
    port, other_port = PORTS
    with contextlib.closing(_Client(guest)) as client:
        servers = [(first, port), (other, port), (other, other_port)]
        seen = [client.ask(server)[server] for server in servers]
    mapping = ADDRESS_AND_PORT_DEPENDENT
    if seen[1] == seen[2]:
        mapping = ENDPOINT_INDEPENDENT if seen[0] == seen[1] else ADDRESS_DEPENDENT
    with contextlib.closing(_Client(guest)) as client:
        heard = client.ask((first, port), (other, other_port), (first, other_port))
    filtering = ADDRESS_AND_PORT_DEPENDENT
    if (other, other_port) in heard:
        filtering = ENDPOINT_INDEPENDENT
    elif (first, other_port) in heard:
        filtering = ADDRESS_DEPENDENT
    return mapping, filtering
