"""Every error a caller can see: what failed, on which object, and what to do about it.

Errors carry their facts as attributes and cross the network process's API as JSON, so a program that embeds
`NetworkManager` catches the same class that was raised in the network process.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ArcboxNetError(Exception):
    """Base of all errors. `message` says what failed, `fix` what to do, `facts` holds the values involved."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, fix: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(name)

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "fix": self.fix, "facts": self.facts}


class ConfigError(ArcboxNetError):
    """A value in the configuration, a command line or an API body is wrong. Facts: `field`, `value`."""

    code = "config"
    status = 400


class PermissionDenied(ArcboxNetError):
    """The caller or this process may not do that. Facts: `operation`."""

    code = "permission"
    status = 403


class NotRunning(ArcboxNetError):
    """No network of that name is running. Facts: `network`."""

    code = "not-running"
    status = 404


class AlreadyRunning(ArcboxNetError):
    """A network of that name already runs. Facts: `network`, `pid`."""

    code = "already-running"
    status = 409


class SubnetConflict(ArcboxNetError):
    """The subnet overlaps one in use on the host. Facts: `subnet`, `route`, `interface`."""

    code = "subnet-conflict"
    status = 409


class PoolExhausted(ArcboxNetError):
    """No free address is left. Facts: `subnet`, `size`."""

    code = "pool-exhausted"
    status = 409


class AddressInUse(ArcboxNetError):
    """That address belongs to another guest. Facts: `address`, `holder`."""

    code = "address-in-use"
    status = 409


class AddressNotFound(ArcboxNetError):
    """That address is not allocated. Facts: `address`."""

    code = "address-not-found"
    status = 404


class PortExists(ArcboxNetError):
    """A guest port of that name is attached already. Facts: `port`."""

    code = "port-exists"
    status = 409


class PortNotFound(ArcboxNetError):
    """No guest port of that name. Facts: `port`, `known`."""

    code = "port-not-found"
    status = 404


class HostPortInUse(ArcboxNetError):
    """A host port of a forward is taken. Facts: `address`, `host_port`, `protocol`."""

    code = "host-port-in-use"
    status = 409


class ForwardExists(ArcboxNetError):
    """Another forward already covers that host port. Facts: `rule`, `existing`."""

    code = "forward-exists"
    status = 409


class ForwardNotFound(ArcboxNetError):
    """No such forward. Facts: `rule`."""

    code = "forward-not-found"
    status = 404


class RecordNotFound(ArcboxNetError):
    """No such DNS record. Facts: `name`."""

    code = "record-not-found"
    status = 404


class RecordExists(ArcboxNetError):
    """The name is reserved or belongs to another guest. Facts: `name`."""

    code = "record-exists"
    status = 409


class InterfaceNotFound(ArcboxNetError):
    """A named interface or bridge does not exist, or is not of the needed kind. Facts: `interface`."""

    code = "interface-not-found"
    status = 404


class NamespaceNotFound(ArcboxNetError):
    """The network namespace to attach cannot be opened. Facts: `namespace`."""

    code = "namespace-not-found"
    status = 404


class KernelError(ArcboxNetError):
    """The kernel refused an operation. Facts: `operation`, `object`, `errno`."""

    code = "kernel"
    status = 500


class ServiceError(ArcboxNetError):
    """DHCP, DNS or another service could not start or run. Facts: `service`."""

    code = "service"
    status = 500


class StateError(ArcboxNetError):
    """State could not be written or read. Facts: `path`."""

    code = "state"
    status = 507


class LimitReached(ArcboxNetError):
    """A named limit is reached. Facts: `limit`, `value`."""

    code = "limit"
    status = 429


class BuffersExhausted(ArcboxNetError):
    """A packet pool has no free buffer of that size. Facts: `size_class`, `buffers`."""

    code = "buffers-exhausted"
    status = 503


class PoolUnbalanced(ArcboxNetError):
    """A pool that is closed misses buffers, or they were misused. Facts: `held`, `foreign_releases`,
    `double_releases`, `overwritten`."""

    code = "pool-unbalanced"
    status = 500


class RingCorrupt(ArcboxNetError):
    """Shared memory holds no ring, or the other side wrote what cannot be. Facts: `field`, `value`."""

    code = "ring-corrupt"
    status = 500


class RingMisused(ArcboxNetError):
    """A second producer or consumer used a ring (debug builds find that). Facts: `role`, `owner`, `thread`."""

    code = "ring-misused"
    status = 500


class Unsupported(ArcboxNetError):
    """This mode, platform or kernel cannot do that. Facts: `feature`."""

    code = "unsupported"
    status = 501


class StartFailed(ArcboxNetError):
    """The network process ended or went silent before it was ready. Facts: `network`, `log`."""

    code = "start-failed"
    status = 500


def _classes(base: type[ArcboxNetError]) -> dict[str, type[ArcboxNetError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found.update(_classes(child))
    return found


def from_json(body: dict[str, Any]) -> ArcboxNetError:
    """The error that *body* (made by `to_json`) describes, as its own class."""
    cls = _classes(ArcboxNetError).get(str(body.get("code")), ArcboxNetError)
    facts = {
        str(key): value for key, value in (body.get("facts") or {}).items() if key not in ("message", "fix")
    }
    return cls(str(body.get("message", "unknown error")), fix=body.get("fix"), **facts)
