"""Whether the fields of a configuration have the types that they are declared with, whoever wrote it."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from arcbox_net.errors import ConfigError

_NAMES = {str: "text", int: "a whole number", bool: "true or false", type(None): "nothing"}


def check_types(config: object, prefix: str = "") -> None:
    """Raises ConfigError for the first field of the dataclass *config* that has another type. A list is as good as a
    tuple.
    """
    kind: Any = type(config)
    for field, hint in _hints(kind).items():
        value = getattr(config, field)
        if not _is(value, hint):
            raise ConfigError(
                f"{prefix}{field} {value!r}: expected {_text(hint)}",
                field=f"{prefix}{field}",
                value=str(value),
            )


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is(value: Any, hint: Any) -> bool:
    kinds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_is(value, kind) for kind in kinds)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if kinds[-1] is ...:
            return all(_is(item, kinds[0]) for item in value)
        return len(value) == len(kinds) and all(map(_is, value, kinds))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is(key, kinds[0]) and _is(item, kinds[1]) for key, item in value.items()
        )
    return isinstance(value, hint) and (not isinstance(value, bool) or hint is bool)


def _text(hint: Any) -> str:
    kinds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return " or ".join(map(_text, kinds))
    if origin is tuple:
        return f"a list of {_text(kinds[0])}" if kinds[-1] is ... else f"[{', '.join(map(_text, kinds))}]"
    if origin is Mapping:
        return f"a table of {_text(kinds[0])} and {_text(kinds[1])}"
    return _NAMES.get(hint, str(hint.__name__))
