"""The OpenAPI 3.1 document of the API, made from the same table that routes requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from arcbox_net.network.messages import API_VERSION

if TYPE_CHECKING:
    from arcbox_net.network.api import Endpoint

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "fix": {"type": ["string", "null"]},
                "facts": {"type": "object"},
            },
        }
    },
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document for *endpoints*."""
    from arcbox_net import __version__

    types = [kind for endpoint in endpoints for kind in (endpoint.answer, endpoint.body) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "operationId": endpoint.call.__name__.lstrip("_"),
            "parameters": [_parameter(name, "path") for name in re.findall(r"{(\w+)}", endpoint.path)]
            + [_parameter(name, "query") for name in endpoint.query],
            "responses": {
                str(endpoint.status): _response(schema_of.get(repr(endpoint.answer)), "The answer"),
                "default": _response({"$ref": "#/components/schemas/Error"}, "What failed, and the fix"),
            },
        }
        if endpoint.body is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema_of[repr(endpoint.body)]}},
            }
        paths.setdefault(f"/{API_VERSION}{endpoint.path}", {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "arcbox-net network", "version": __version__},
        "paths": paths,
        "components": {"schemas": {**components, "Error": _ERROR}},
    }


def _parameter(name: str, where: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": True, "schema": {"type": "string"}}


def _response(schema: Any, description: str) -> dict[str, Any]:
    if schema is None:
        return {"description": description}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
