"""The OpenAPI document says what the routes do."""

import msgspec

from arcbox_net.network.api import ENDPOINTS
from arcbox_net.network.openapi import document


def test_every_endpoint_is_in_the_document():
    paths = document(ENDPOINTS)["paths"]
    listed = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert listed == {(endpoint.method, f"/v1{endpoint.path}") for endpoint in ENDPOINTS}


def test_every_reference_resolves():
    body = document(ENDPOINTS)
    schemas = body["components"]["schemas"]

    def references(value):
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    found = set(references(body))
    assert found
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in found)
    msgspec.json.encode(body)
