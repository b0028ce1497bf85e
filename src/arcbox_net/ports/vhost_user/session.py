"""One front end's conversation: requests in, commands for the port and replies out. No I/O.

*Theory of operation.* `handle` is a generator: it yields a command for the port, is sent the port's answer, and in the
end returns the reply, if there is one. So a ring that is to stop has stopped when the front end hears of it. What the
front end may not do is refused: it is told so where it asked for a reply, and is disconnected otherwise.

*Descriptors.* A descriptor that came in belongs to its message. A ring takes it over until it starts; the port owns
what a command carried from the answer on, but files of memory, which the session keeps as long as the port has them
mapped; everything else is closed when the message, or the session, ends.

*Inflight.* The port uses descriptors in order and completes them within a turn, so what is in flight when it dies is
what lies between the used ring's index and the available one's. So a ring that resumes begins at the used index, and
the memory that the front end keeps for us stays as it was made.
"""

from __future__ import annotations

from collections.abc import Callable

from arcbox_net.ports.vhost_user import messages, port_messages
from arcbox_net.ports.vhost_user.features import FEATURES_OFFERED, PROTOCOL_FEATURES_OFFERED, Feature
from arcbox_net.ports.vhost_user.memory import REGIONS_MAX, MemoryTable
from arcbox_net.ports.vhost_user.messages import Message, ProtocolError, Reply, Request, reply, reply_number
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from arcbox_net.ports.vhost_user.rings import RING_SIZE_MAX, Addresses, Ring
from arcbox_net.ports.vhost_user.steps import Refused, Steps, ask

PAIRS_MAX = 8
MTU_MIN = 68
MTU_MAX = 65535
STATUS_MAX = 0xFF
ACCEPTED = 0
REFUSED = 1
INFLIGHT_RING_BYTES = 16  # of its header
INFLIGHT_ENTRY_BYTES = 16


class Session:
    """See the module's docstring. *close* closes a descriptor; *create_memory* makes a file of so many bytes.

    `refusal`: why the front end was first told that something cannot be. It may go on without us, and say nothing.
    """

    def __init__(
        self,
        *,
        pairs: int,
        close: Callable[[int], None],
        create_memory: Callable[[int], int],
        is_eventfd: Callable[[int], bool],
    ) -> None:
        self.memory = MemoryTable(close)
        self.rings = [Ring(index, close) for index in range(2 * pairs)]
        self.features = 0
        self.protocol_features = 0
        self.refusal: str | None = None
        self._status = 0
        self._close = close
        self._create_memory = create_memory
        self._is_eventfd = is_eventfd
        self._answers: dict[int, Callable[[Message], Reply | None]] = {
            Request.GET_FEATURES: lambda m: reply_number(m.request, FEATURES_OFFERED),
            Request.GET_PROTOCOL_FEATURES: lambda m: reply_number(m.request, PROTOCOL_FEATURES_OFFERED),
            Request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.GET_QUEUE_NUM: lambda m: reply_number(m.request, pairs),
            Request.GET_MAX_MEM_SLOTS: lambda m: reply_number(m.request, REGIONS_MAX),
            Request.SET_OWNER: lambda m: None,
            Request.SET_VRING_ERR: lambda m: None,  # nothing is ever told by it
            Request.NET_SET_MTU: self._set_mtu,
            Request.SET_STATUS: self._set_status,
            Request.GET_STATUS: lambda m: reply_number(m.request, self._status),
            Request.GET_INFLIGHT_FD: self._get_inflight,
            Request.SET_INFLIGHT_FD: self._set_inflight,
        }
        self._orders: dict[int, Callable[[Message], Steps[Reply | None]]] = {
            Request.SET_FEATURES: self._set_features,
            Request.RESET_OWNER: self._reset_owner,
            Request.SET_MEM_TABLE: lambda m: self.memory.replace(m),
            Request.ADD_MEM_REG: lambda m: self.memory.add(m),
            Request.REM_MEM_REG: lambda m: self.memory.remove(m),
            Request.SET_VRING_NUM: lambda m: self._ring(m.state()[0]).set_size(m.state()[1]),
            Request.SET_VRING_BASE: lambda m: self._ring(m.state()[0]).set_base(m.state()[1]),
            Request.SET_VRING_ADDR: self._set_ring_addresses,
            Request.SET_VRING_KICK: lambda m: self._ring_of_descriptor(m).set_kick(m.fds),
            Request.SET_VRING_CALL: lambda m: self._ring_of_descriptor(m).set_call(m.fds),
            Request.SET_VRING_ENABLE: self._enable_ring,
            Request.GET_VRING_BASE: self._stop_ring,
        }

    def handle(self, message: Message) -> Steps[Reply | None]:
        """The reply, if any. Raises ProtocolError when the front end is to be disconnected."""
        try:
            answer = yield from self._decide(message)
            if answer is None and message.need_reply:
                return reply_number(message.request, ACCEPTED)
            return answer
        except Refused as refused:
            if not message.need_reply:
                raise ProtocolError(str(refused)) from None
            if message.request in self._orders:
                self.refusal = self.refusal or str(refused)
            return reply_number(message.request, REFUSED)
        finally:
            for fd in message.fds:
                self._close(fd)
            message.fds.clear()

    def close(self) -> None:
        """The front end is gone, and the port has given up what it had of it."""
        for ring in self.rings:
            ring.close()
        self.memory.close()

    def _decide(self, message: Message) -> Steps[Reply | None]:
        if message.request in self._answers:
            return self._answers[message.request](message)
        if message.request in self._orders:
            return (yield from self._orders[message.request](message))
        if message.need_reply:
            raise Refused(f"request {message.request} is not known here")
        return None

    # Negotiation

    def _set_features(self, message: Message) -> Steps[None]:
        features = message.number()
        if features & ~FEATURES_OFFERED:
            raise Refused(f"features {features & ~FEATURES_OFFERED:#x} were not offered")
        running = any(ring.running for ring in self.rings)
        if running and features != self.features:
            raise Refused("features cannot change while a ring runs")
        yield from ask(
            PortMessage.FEATURES, port_messages.FEATURES.pack(features & ~Feature.PROTOCOL_FEATURES)
        )
        self.features = features
        if not features & Feature.PROTOCOL_FEATURES:  # then there is no request that enables
            for ring in self.rings:
                ring.enabled = True

    def _set_protocol_features(self, message: Message) -> None:
        features = message.number()
        if features & ~PROTOCOL_FEATURES_OFFERED:
            raise Refused(f"protocol features {features & ~PROTOCOL_FEATURES_OFFERED:#x} were not offered")
        self.protocol_features = features

    def _set_mtu(self, message: Message) -> None:
        if not MTU_MIN <= message.number() <= MTU_MAX:
            raise Refused(f"an MTU of {message.number()}")

    def _set_status(self, message: Message) -> None:
        if message.number() > STATUS_MAX:
            raise Refused(f"device status {message.number():#x}")
        self._status = message.number()

    def _reset_owner(self, _: Message) -> Steps[None]:
        for ring in self.rings:
            yield from ring.enable(False)

    # Rings

    def _ring(self, index: int) -> Ring:
        if index >= len(self.rings):
            raise Refused(f"ring {index}, of {len(self.rings)}")
        return self.rings[index]

    def _ring_of_descriptor(self, message: Message) -> Ring:
        number = message.number()
        if number & ~(messages.INDEX_MASK | messages.NO_DESCRIPTOR):
            raise Refused(f"ring and flags {number:#x}")
        if len(message.fds) != (0 if number & messages.NO_DESCRIPTOR else 1):
            raise Refused(f"{len(message.fds)} descriptors for ring and flags {number:#x}")
        if not all(map(self._is_eventfd, message.fds)):
            raise Refused(f"a descriptor that is no eventfd for ring and flags {number:#x}")
        return self._ring(number & messages.INDEX_MASK)

    def _set_ring_addresses(self, message: Message) -> Steps[None]:
        index, flags, descriptors, used, available, _ = messages.RING_ADDRESSES.unpack(message.payload)
        if flags:  # a log of writes, which was not offered
            raise Refused(f"ring {index} with flags {flags:#x}")
        addresses: Addresses = descriptors, available, used
        yield from self._ring(index).set_addresses(addresses)

    def _enable_ring(self, message: Message) -> Steps[None]:
        index, enabled = message.state()
        if enabled > 1:
            raise Refused(f"ring {index} enabled by {enabled}")
        yield from self._ring(index).enable(bool(enabled))

    def _stop_ring(self, message: Message) -> Steps[Reply]:
        index, _ = message.state()
        base = yield from self._ring(index).stop()
        return reply(message.request, messages.RING_STATE.pack(index, base))

    # Inflight

    def _get_inflight(self, message: Message) -> Reply:
        _, _, count, size = messages.INFLIGHT.unpack_from(message.payload)
        total = self._inflight_bytes(count, size)
        payload = messages.INFLIGHT.pack(total, 0, count, size)
        return reply(message.request, payload.ljust(len(message.payload), b"\0"), self._create_memory(total))

    def _set_inflight(self, message: Message) -> None:
        total, _, count, size = messages.INFLIGHT.unpack_from(message.payload)
        if len(message.fds) != 1 or total < self._inflight_bytes(count, size):
            raise Refused(f"{total} bytes with {len(message.fds)} descriptors for {count} rings in flight")
        for ring in self.rings:
            ring.resumes = True

    def _inflight_bytes(self, count: int, size: int) -> int:
        if not 0 < count <= len(self.rings) or not 0 < size <= RING_SIZE_MAX:
            raise Refused(f"{count} rings of {size} entries in flight")
        return count * (INFLIGHT_RING_BYTES + size * INFLIGHT_ENTRY_BYTES)
