"""How many connections a client address, and all of IPv6, may hold."""

from __future__ import annotations

import asyncio
from collections import Counter

from arcbox_net.services.dns.listener import TCP_CONNECTIONS_IPV6_MAX, TCP_CONNECTIONS_MAX, TcpListener


class Connection:
    def __init__(self, guest: bytes) -> None:
        self.guest = guest

    def abort(self) -> None:
        pass


def test_r16_connections_from_many_ipv6_addresses_leave_room_for_ipv4() -> None:
    async def body() -> None:
        counts: Counter[str] = Counter()
        listener = TcpListener(lambda *_: None, lambda reason: counts.update([reason]), lambda: 0.0)
        many = [Connection(b"\xfd" + i.to_bytes(15, "big")) for i in range(TCP_CONNECTIONS_IPV6_MAX + 1)]
        taken = [listener.add(each) for each in many]  # type: ignore[arg-type]
        assert taken == [True] * TCP_CONNECTIONS_IPV6_MAX + [False]
        others = [
            Connection(i.to_bytes(4, "big")) for i in range(TCP_CONNECTIONS_MAX - TCP_CONNECTIONS_IPV6_MAX)
        ]
        assert all(listener.add(each) for each in others)  # type: ignore[arg-type]
        assert not listener.add(Connection(b"\x0a\0\0\1"))  # type: ignore[arg-type]
        assert counts == {"tcp_connections_full": 2}
        for each in [*many, *others]:
            listener.remove(each)  # type: ignore[arg-type]
        assert (listener.total, listener.total_ipv6) == (0, 0)
        assert listener.connections.keys() <= {many[-1].guest, b"\x0a\0\0\1"}
        assert listener.add(many[-1])  # type: ignore[arg-type]
        await listener.stop()

    asyncio.run(body())
