"""/openapi.json: the requests and responses of this server, made from the structs that decode and encode them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rwkv_np import __version__
from rwkv_np.serve.errors import ErrorBody
from rwkv_np.serve.routes import Described

_PREFIX = "#/components/schemas/"
_STATUS = {
    200: "Success", 400: "The request is invalid", 401: "The API key is missing or wrong",
    403: "Not from this computer, or from another web page", 404: "The model or address does not exist",
    408: "The body arrived too slowly", 413: "The body is too large", 429: "Too many requests; retry later",
    500: "Internal server error", 503: "Shutting down, or the answer took too long; retry later",
}  # fmt: skip


def description(routes: Sequence[Described], *, has_keys: bool) -> bytes:
    """The document, in JSON."""
    structs: list[type[msgspec.Struct]] = [ErrorBody]
    for route in routes:
        structs += [each for each in (route.takes, route.gives, route.streams) if isinstance(each, type)]
    unique = list(dict.fromkeys(structs))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_PREFIX + "{name}")
    refs = dict(zip(unique, schemas))
    paths: dict[str, Any] = {}
    for route in routes:
        operation = _operation(route, refs, has_keys)
        paths.setdefault(route.path.replace(":path", ""), {})[route.method.lower()] = operation
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "rwkv-np", "version": __version__, "description": "OpenAI's interface to an RWKV model."},
        "paths": paths,
        "components": {"schemas": components},
    }
    if has_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return msgspec.json.encode(document)


def _operation(route: Described, refs: dict[type[msgspec.Struct], Any], has_keys: bool) -> dict[str, Any]:
    failures = {403, *route.errors} | ({401} if has_keys and not route.is_open else set())
    answers = {str(status): _failure(status, refs) for status in sorted(failures)}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handle.__name__,
        "responses": {"200": _success(route, refs), **answers},
    }
    if route.takes is not None:
        content = {"application/json": {"schema": refs[route.takes]}}
        operation["requestBody"] = {"required": True, "content": content}
    if "{name" in route.path:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if has_keys and not route.is_open:
        operation["security"] = [{"key": []}]
    return operation


def _success(route: Described, refs: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    if isinstance(route.gives, str):
        return {"description": _STATUS[200], "content": {route.gives: {"schema": {"type": "string"}}}}
    content = {"application/json": {"schema": refs[route.gives]}}
    if route.streams is not None:
        about = f"A {route.streams.__name__} as JSON; the last event is [DONE]."
        event = {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "description": about}},
        }
        content["text/event-stream"] = {"schema": event}
    return {"description": _STATUS[200], "content": content}


def _failure(status: int, refs: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": _STATUS[status],
        "content": {"application/json": {"schema": refs[ErrorBody]}},
    }
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
    return found
